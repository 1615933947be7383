"""Frames of a video: one folder of JPEG files, in order of their names."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]

from saccade.datasets.links import refuse_links_out
from saccade.errors import DataError

__all__ = ["FRAME_SUFFIXES", "FrameFolder", "decode_frame", "list_frames", "read_frames", "scan_frames"]

FRAME_SUFFIXES = (".jpg", ".jpeg")
"""What a frame's file name ends with, in either case."""

_END_OF_IMAGE = b"\xff\xd9"
_TAIL_BYTES = 1024
_LOOK = "look at its permissions and its disk"
"""Where the end marker is looked for: some writers pad or append after it."""
_MAX_PIXELS = 1 << 26
"""Of a frame: twice those of 8K video, 200 MB decoded. A file of a few bytes may claim sixty times as many."""
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
        raise DataError(f"{folder}: its frames cannot be listed: {error.strerror}; {_LOOK}") from error
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


def scan_frames(folder: Path, dataset: Path) -> FrameFolder:
    """Count the frames of a video and ask for the sizes of some.

    Args:
        folder: The video's.
        dataset: The dataset's, whose data root no link may leave.

    Raises:
        DataError: They cannot be listed or read, are links that lead out, or their order by name is not that of their
            numbers.
    """
    names = list_frames(folder)
    refuse_links_out(folder, dataset)
    _check_order(folder, names)
    # Asking for the size of every frame of UCF101 takes 20 s; a copy written anew differs in these as well.
    sampled = sorted({round(at) for at in np.linspace(0, len(names) - 1, min(_SIZES, len(names)))})
    try:
        sizes = tuple(os.stat(folder / names[at]).st_size for at in sampled)
    except OSError as error:
        raise DataError(f"{error.filename}: this frame cannot be read: {error.strerror}; {_LOOK}") from error
    return FrameFolder(folder, len(names), sizes)


def decode_frame(
    data: bytes | memoryview, place: object, buffer: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Decode a JPEG at full size.

    libjpeg-turbo straight into an array: a tenth faster than through OpenCV, which gives the same pixels as BGR, and
    without OpenCV's silence about damage. Orientations that cameras note are left alone.

    Args:
        data: The file's bytes.
        place: Where they are from, for messages.
        buffer: Where the pixels go, RGB `[H, W, 3]`; None: a new array.

    Raises:
        DataError: It is empty, cut off, damaged, no JPEG, or of another size than the buffer.
    """
    # Without its end a JPEG decodes to a picture with a grey bottom, and what is wrong can be said better here.
    if _END_OF_IMAGE not in bytes(data[-_TAIL_BYTES:]):
        kind = "is empty" if not len(data) else "is cut off or no JPEG"
        raise DataError(
            f"{place}: this frame {kind} ({len(data)} bytes); write it again, or put the video in data.exclude"
        )
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > _MAX_PIXELS:
            raise DataError(
                f"{place}: this frame claims {width} x {height} px, more than {_MAX_PIXELS >> 20} million; write it "
                "smaller, or put the video in data.exclude"
            )
        if buffer is not None and buffer.shape != (height, width, 3):
            raise DataError(
                f"{place}: this frame is {width} x {height} px, but others of the video are "
                f"{buffer.shape[1]} x {buffer.shape[0]}; write the video's frames again, or put it in data.exclude"
            )
        return np.asarray(simplejpeg.decode_jpeg(data, buffer=buffer), dtype=np.uint8)
    except ValueError as error:
        why = str(error).strip() or "no reason given"
        raise DataError(
            f"{place}: this frame cannot be decoded ({why}); write it again, or put the video in data.exclude"
        ) from None


def _read(path: Path | str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: this frame cannot be read: {error.strerror}; {_LOOK}") from error


def read_frames(paths: Sequence[Path | str]) -> npt.NDArray[np.uint8]:
    """Decode frames of one video; a path that comes twice is decoded once.

    Args:
        paths: Frame files, at least one.

    Returns:
        RGB `[len(paths), H, W, 3]`.

    Raises:
        DataError: A frame is unreadable, cut off, damaged or of another size than the first; names the file.
    """
    first = decode_frame(_read(paths[0]), paths[0])
    frames = np.empty((len(paths), *first.shape), dtype=np.uint8)
    frames[0] = first
    places = {paths[0]: 0}
    for place, path in enumerate(paths[1:], start=1):
        if path in places:
            frames[place] = frames[places[path]]
        else:
            decode_frame(_read(path), path, frames[place])
            places[path] = place
    return frames
