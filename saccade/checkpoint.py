"""Checkpoints: tensors and plain values in one file that is either the old one or the new one, never half of each.

A file is a zip archive as PyTorch writes them, with a CRC-32 of each of its parts, which is checked before anything is
read from it. The rolling checkpoint has a few of its predecessors beside it: last.pt, last_1.pt (the one before), ...
"""

import os
import pickle
import re
import struct
import zipfile
import zlib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch

from saccade import atomic
from saccade.errors import CheckpointError, first_line
from saccade.torch_file import check_torch_file, is_zip

__all__ = [
    "HINT",
    "DamagedError",
    "earlier_checkpoints",
    "link_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "set_aside",
]

FORMAT = 1
HINT = "; remove it to start over"
"""How a refusal of a checkpoint ends."""

_DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    OSError,
    EOFError,
    # What PyTorch's unpickler stumbles into when someone has tampered with its instructions.
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)


class DamagedError(CheckpointError):
    """A checkpoint that cannot be read, so that an earlier one may serve."""


def save_checkpoint(path: Path, state: dict[str, Any], *, keep: int = 1) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) to `path` in one stroke.

    Written to a temporary name, synced, then renamed: whoever is killed at any moment leaves the previous file whole.

    Args:
        path: The file.
        state: What it holds.
        keep: Files that stay: this one and those before it, as <name>_1.pt and so on.

    Raises:
        CheckpointError: The disk does not take it; those before are still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _shift(path, keep)
        temporary.replace(path)
        atomic.sync(path.parent)
    except OSError as error:
        before = "the one before is kept: " if path.exists() else ""
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}); {before}make room, then resume the run"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _save(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save({"format": FORMAT, **state}, file)
    except RuntimeError as error:  # PyTorch's writer has found itself at an unexpected position; this is why:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _shift(path: Path, keep: int) -> None:
    """Give the files that stay the names of one save earlier, and remove the others."""
    names = [path, *(path.with_name(f"{path.stem}_{number}{path.suffix}") for number in range(1, keep))]
    # From the oldest on, so that a kill leaves no gap, but at most one file under two names.
    for newer, older in reversed(list(pairwise(names))):
        if newer.exists():
            link_checkpoint(newer, older)
    for extra in earlier_checkpoints(path):
        if extra not in names:  # of when more were kept
            extra.unlink()


def earlier_checkpoints(path: Path) -> list[Path]:
    """Those that were the rolling checkpoint before `path`, the latest first."""
    found = {
        int(match[1]): file
        for file in path.parent.glob(f"{path.stem}_*{path.suffix}")
        if (match := re.fullmatch(rf"{re.escape(path.stem)}_(\d+)", file.stem))
    }
    return [found[number] for number in sorted(found)]


def set_aside(path: Path) -> Path:
    """Keep a damaged checkpoint under another name, for whoever wants to look into it; gives that name."""
    aside = path.with_name(f"damaged_{path.name}")
    link_checkpoint(path, aside)
    return aside


def link_checkpoint(source: Path, target: Path) -> None:
    """Keep the file that is now `source` as `target` too, without writing it twice where the file system can.

    `source` is only ever replaced by a rename, so the kept file does not change with it.
    """
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    atomic.link_or_copy(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # A rename from one name of a file to another name of it does nothing.
    atomic.sync(target.parent)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, executing nothing from it.

    Raises:
        DamagedError: The file is damaged or cannot be read.
        CheckpointError: It was not written by `save_checkpoint`.
    """
    try:
        if not is_zip(path):
            raise zipfile.BadZipFile("not a zip archive as PyTorch writes them")
        check_torch_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise DamagedError(f"{path}: not a readable checkpoint ({first_line(error, 120)}){HINT}") from None
    if not isinstance(state, dict) or state.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this version (format {FORMAT}){HINT}")
    return state
