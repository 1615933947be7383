"""Frames of a video: one folder of JPEG files, in order of their names."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from saccade.errors import DataError

__all__ = ["FRAME_SUFFIXES", "FrameFolder", "list_frames", "read_frames", "scan_frames"]

FRAME_SUFFIXES = (".jpg", ".jpeg")
"""What a frame's file name ends with, in either case."""

_END_OF_IMAGE = b"\xff\xd9"
_TAIL_BYTES = 1024
"""Where the end marker is looked for: some writers pad or append after it."""
_SIZES = 16
"""Frames of a video whose file size is asked for."""


@dataclass(frozen=True, slots=True)
class FrameFolder:
    """What is known of a video's frames without opening one."""

    folder: Path
    count: int
    sizes: tuple[int, ...]
    """Bytes of some of the frame files, spread evenly over the video."""


def list_frames(folder: Path) -> tuple[str, ...]:
    """Names of the frame files in a folder, sorted; hidden files are no frames.

    Raises:
        DataError: The folder cannot be read.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"{folder}: its frames cannot be listed: {error.strerror}") from error
    return tuple(sorted(name for name in names if name.lower().endswith(FRAME_SUFFIXES) and name[0] != "."))


def _check_order(folder: Path, names: Sequence[str]) -> None:
    """Refuse frames whose order by name is not that of their numbers (`2.jpg` after `10.jpg`)."""
    if len({len(name) for name in names}) == 1:
        return
    keys = [[int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)] for name in names]
    for (earlier, later), (first, second) in zip(pairwise(keys), pairwise(names), strict=True):
        a, b = next(((a, b) for a, b in zip(earlier, later, strict=False) if a != b), ("", ""))
        if isinstance(a, int) and isinstance(b, int) and a > b:
            raise DataError(f"{folder}: sorted by name, {second} follows {first}; pad the frames' numbers with zeros")


def scan_frames(folder: Path) -> FrameFolder:
    """Count the frames of a video and ask for the sizes of some.

    Raises:
        DataError: They cannot be listed or read, or their order by name is not that of their numbers.
    """
    names = list_frames(folder)
    _check_order(folder, names)
    # Asking for the size of every frame of UCF101 takes 20 s; a copy written anew differs in these as well.
    sampled = sorted({round(at) for at in np.linspace(0, len(names) - 1, min(_SIZES, len(names)))})
    try:
        sizes = tuple(os.stat(folder / names[at]).st_size for at in sampled)
    except OSError as error:
        raise DataError(f"{error.filename}: this frame cannot be read: {error.strerror}") from error
    return FrameFolder(folder, len(names), sizes)


def _decode(path: Path) -> npt.NDArray[np.uint8]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: this frame cannot be read: {error.strerror}") from error
    # Without its end a JPEG decodes to a picture with a grey bottom, in some versions of OpenCV silently.
    if _END_OF_IMAGE not in data[-_TAIL_BYTES:]:
        kind = "is empty" if not data else "is cut off or no JPEG"
        raise DataError(
            f"{path}: this frame {kind} ({len(data)} bytes); write it again, or put the video in data.exclude"
        )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: this frame cannot be decoded; write it again, or put the video in data.exclude")
    return np.asarray(image, dtype=np.uint8)


def read_frames(paths: Sequence[Path]) -> npt.NDArray[np.uint8]:
    """Decode frames of one video; a path that comes twice is decoded once.

    Args:
        paths: Frame files, at least one.

    Returns:
        RGB `[len(paths), H, W, 3]`.

    Raises:
        DataError: A frame is unreadable, cut off or of another size than the first; names the file.
    """
    first = _decode(paths[0])
    frames = np.empty((len(paths), *first.shape), dtype=np.uint8)
    places: dict[Path, int] = {}
    for place, path in enumerate(paths):
        if path in places:
            frames[place] = frames[places[path]]
            continue
        image = _decode(path) if place else first
        if image.shape != first.shape:
            (height, width), (wanted_height, wanted_width) = image.shape[:2], first.shape[:2]
            raise DataError(
                f"{path}: this frame is {width} x {height} px, but {paths[0].name} of the same video is "
                f"{wanted_width} x {wanted_height}; write the video's frames again, or put it in data.exclude"
            )
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=frames[place])
        places[path] = place
    return frames
