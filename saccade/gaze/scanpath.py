"""Scanpath files `scan_idx_<G>/<video>.txt`: one fixation a row, `<cell> <start_frame> <end_frame>`, in scanpath order.

Cells lie on a G x G grid over the frame, cell = row * G + column. Frames count from 0. Rows are kept as the release
writes them; those made here, and the random ones of the method (end = start + T), have an exclusive end.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saccade.errors import DataError

__all__ = ["Fixation", "gaze_cells", "read_scanpath", "rows_from_gaze", "write_scanpath"]

_MOST = 2**53
"""Up to here every whole number is one of float's."""
_MAX_BYTES = 1 << 24
"""A fixation in each frame of six hours would not fill it."""


@dataclass(frozen=True, slots=True)
class Fixation:
    """The eye rests on one cell of the grid."""

    cell: int
    """row * G + column."""
    start: int
    """First frame, from 0."""
    end: int
    """End frame as its row says; the frame after the last one in rows made by `rows_from_gaze`."""


def _integral(text: str, place: str, name: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # float() also takes "1_0" and the digits of all scripts, which no writer of numbers means.
    if not value.is_integer() or abs(value) > _MOST or "_" in text or not text.isascii():
        raise DataError(f"{place}: {name} is {text[:60]!r}; it must be a whole number such as 24 or 24.0")
    return int(value)


def _parse_row(line: str, place: str, cells: int, num_frames: int | None) -> Fixation:
    words = line.split()
    if len(words) != 3:
        raise DataError(f"{place}: {len(words)} values in {line[:100]!r}; a row is '<cell> <start_frame> <end_frame>'")
    names = ("the cell", "the start frame", "the end frame")
    cell, start, end = (_integral(word, place, name) for word, name in zip(words, names, strict=True))
    if not 0 <= cell < cells:
        raise DataError(f"{place}: cell {cell} is not on the grid, whose cells are 0 to {cells - 1}; check grid_num")
    if not 0 <= start <= end:
        raise DataError(f"{place}: frames {start} to {end}; it must hold 0 <= start <= end; make the scanpaths again")
    if num_frames is not None and (start >= num_frames or end > num_frames):
        raise DataError(f"{place}: frames {start} to {end} run over the video's end; it has {num_frames} frames")
    return Fixation(cell, start, end)


def _parse(text: str, path: Path, cells: int, num_frames: int | None) -> Iterator[Fixation]:
    # Not splitlines(), which also cuts where an editor shows no line's end.
    lines = text.rstrip().split("\n") if text.strip() else []
    for number, line in enumerate(lines, start=1):
        yield _parse_row(line, f"{path}:{number}", cells, num_frames)


def read_scanpath(path: Path, grid_num: int, num_frames: int | None = None) -> tuple[Fixation, ...]:
    """Rows of a scanpath file, checked; an empty file is a video without fixations.

    Args:
        path: The file.
        grid_num: G, cells along each side of the grid.
        num_frames: Frames of the video; when given, `start < num_frames` and `end <= num_frames` must hold.

    Raises:
        DataError: The file cannot be read, or a row is malformed or out of range; names the file and line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such scanpath file; saccade data scanpaths makes them") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}; make the scanpaths again") from error
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path}: is larger than {_MAX_BYTES >> 20} MiB, which no scanpath is")
    return tuple(_parse(text, path, grid_num * grid_num, num_frames))


def write_scanpath(path: Path, fixations: Iterable[Fixation]) -> None:
    """Write rows that `read_scanpath` reads back; the file appears complete or not at all."""
    text = "".join(f"{fixation.cell} {fixation.start} {fixation.end}\n" for fixation in fixations)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)


def gaze_cells(places: npt.NDArray[np.float64], grid_num: int) -> list[int]:
    """Cell of the gaze in each frame, from its places `[T, 2]` as parts of the frame's height and width."""
    rows, columns = np.clip(np.floor(places * grid_num).astype(int), 0, grid_num - 1).T
    return [int(cell) for cell in rows * grid_num + columns]


def rows_from_gaze(cells: Sequence[int], min_frames: int = 3) -> tuple[Fixation, ...]:
    """Fixations of a gaze: maximal runs of frames in one cell, in order of time.

    Args:
        cells: Cell of the gaze in each frame.
        min_frames: Shorter runs are passing through, not resting, and are dropped.

    Returns:
        Rows with exclusive ends: `rows_from_gaze([5, 5, 5, 8]) == (Fixation(5, 0, 3),)`.
    """
    rows, start = [], 0
    for cell, run in groupby(cells):
        end = start + sum(1 for _ in run)
        if end - start >= min_frames:
            rows.append(Fixation(int(cell), start, end))
        start = end
    return tuple(rows)
