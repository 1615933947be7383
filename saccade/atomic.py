"""Files that are either the old ones or the new ones, whenever the power fails."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["link_or_copy", "replacing", "sync", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` when the block ends without an error.

    Written under a temporary name beside it, synced, renamed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file's text."""
    with replacing(path) as file:
        file.write(text.encode())


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy of the same time where the file system has no links (exFAT, some mounts).

    `source` is to be one that is only ever replaced by a rename, so that what `target` holds does not change with it.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copy2(source, target)
        sync(target)


def sync(path: Path) -> None:
    """Bring to disk what a file holds, or what was renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
