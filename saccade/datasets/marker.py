"""Marker files: with which parameters a folder was made, so that work is gone on with only where it fits."""

from pathlib import Path

from saccade.strict_json import parse_json

__all__ = ["read_marker"]


def read_marker(path: Path) -> object:
    """The marker's content; None when there is no file to be read, "unreadable" when it is not JSON."""
    try:
        return parse_json(path.read_bytes())
    except OSError:
        return None
    except ValueError:
        return "unreadable"
