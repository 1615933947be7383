"""Checkpoints: tensors and plain values in one file that is either the old one or the new one, never half of each."""

import os
import pickle
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from saccade import atomic
from saccade.errors import CheckpointError

__all__ = ["link_checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = 1

_ZIP = b"PK\x03\x04"
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


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) to `path` in one stroke.

    Written to a temporary name, synced, then renamed: whoever is killed at any moment leaves the previous file whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    atomic.sync_folder(path.parent)


def link_checkpoint(source: Path, target: Path) -> None:
    """Keep the file that is now `source` as `target` too, without writing it twice where the file system can.

    `source` is only ever replaced by a rename, so the kept file does not change with it.
    """
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # some file systems (exFAT, network mounts) have no hard links
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    temporary.replace(target)
    atomic.sync_folder(target.parent)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, executing nothing from it.

    Raises:
        CheckpointError: When the file is damaged or was not written by `save_checkpoint`.
    """
    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason}); remove it to start over") from None
    if not isinstance(state, dict) or state.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this version (format {FORMAT}); remove it to start over")
    return state


def _check_sums(path: Path) -> None:
    """Refuse a file with a changed byte: torch would read wrong weights from it, or stumble in its unpickler."""
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            raise zipfile.BadZipFile("not a zip archive as PyTorch writes them")
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} in it has changed since it was written")
