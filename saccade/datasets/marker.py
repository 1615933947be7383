"""Marker files: with which parameters a folder was made, so that work is gone on with only where it fits."""

import json
from pathlib import Path

__all__ = ["read_marker"]


def read_marker(path: Path) -> object:
    """The marker's content; None when there is no file to be read, "unreadable" when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError:
        return "unreadable"
