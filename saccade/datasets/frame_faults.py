"""What is wrong with the frames of one video, all of it and not only the first fault."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from saccade.datasets.frames import FrameFolder, list_frames, read_frames, scan_frames
from saccade.errors import DataError

__all__ = ["FrameReport", "inspect_frames"]

_NUMBER = re.compile(r"(\d+)\.\w+")


@dataclass(slots=True)
class FrameReport:
    """What was found in a video's folder."""

    video: str
    frames: FrameFolder | None = None
    """None when they cannot be used at all."""
    faults: list[str] = field(default_factory=list)
    """A line each, naming the video or the frame."""


def _gaps(names: tuple[str, ...]) -> Iterator[str]:
    """Frames between which numbers are left out, if their names end with numbers in even steps elsewhere."""
    matches = [_NUMBER.search(name) for name in names]
    numbers = [int(match[1]) for match in matches if match is not None]
    if len(numbers) < len(names) or len(names) < 3:
        return
    steps = [after - before for before, after in pairwise(numbers)]
    for step, (before, after) in zip(steps, pairwise(names), strict=True):
        if step > min(steps):
            yield f"nothing between {before} and {after}"


def _unreadable(folder: Path, names: tuple[str, ...]) -> Iterator[str]:
    shape: tuple[int, ...] | None = None
    for name in names:
        try:
            image = read_frames([folder / name])[0]
        except DataError as error:
            # Without the place, which stands before it, and the advice.
            yield str(error).removeprefix(f"{folder / name}: ").partition(";")[0].replace("this frame", name)
            continue
        shape = shape or image.shape
        if image.shape != shape:
            yield f"{name} is {image.shape[1]} x {image.shape[0]} px, others are {shape[1]} x {shape[0]}"


def inspect_frames(folder: Path, *, deep: bool) -> FrameReport:
    """List and measure a video's frames, decode the first and the last one, or all.

    Args:
        folder: Of the video's frames.
        deep: Decode every frame.
    """
    report = FrameReport(folder.name)
    try:
        report.frames = scan_frames(folder, folder.parent.parent)
        names = list_frames(folder)
    except DataError as error:
        report.faults.append(str(error).replace(str(folder), folder.name))
        return report
    if not names:
        report.faults.append(f"{folder.name}: holds no .jpg")
        return report
    chosen = names if deep else tuple(dict.fromkeys((names[0], names[-1])))
    empty = [name for name in names if name not in chosen and not os.path.getsize(folder / name)]
    faults = [*_gaps(names), *(f"{name} is empty" for name in empty), *_unreadable(folder, chosen)]
    report.faults += [f"{folder.name}: {fault}" for fault in faults]
    return report
