"""Frames of a video: one folder of JPEG files, in order of their names."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]

from saccade.datasets.links import refuse_links_out
from saccade.errors import DataError

__all__ = [
    "FRAME_SUFFIXES",
    "Empty",
    "FrameFolder",
    "decode_frame",
    "frame_shape",
    "list_frames",
    "new_array",
    "read_files",
    "read_frames",
    "scan_frames",
]

Empty = Callable[[tuple[int, ...]], npt.NDArray[np.uint8]]
"""Gives an array of bytes of a shape for frames to be decoded into."""

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
_ROOM_BYTES = 1 << 17
"""To read files into, more as they need it: five times a frame of UCF101."""


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
    return tuple(sorted([name for name in names if name.lower().endswith(FRAME_SUFFIXES) and name[0] != "."]))


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


def new_array(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Memory of this process, for frames that stay in it."""
    return np.empty(shape, np.uint8)


def decode_frame(
    data: bytes | memoryview, place: object, buffer: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Decode a JPEG at full size.

    libjpeg-turbo straight into an array: a tenth faster than through OpenCV, which gives the same pixels as BGR, and
    without OpenCV's silence about damage. Orientations that cameras note are left alone.

    Args:
        data: The file's bytes.
        place: Where they are from, for messages.
        buffer: Where the pixels go, RGB `[H, W, 3]`, contiguous; None: a new array.

    Raises:
        DataError: It is empty, cut off, damaged, no JPEG, or of another size than the buffer.
    """
    _check_end(data, place)
    if buffer is None:
        buffer = new_array(frame_shape(data, place))
    try:
        pixels = simplejpeg.decode_jpeg(data, buffer=buffer)
    except ValueError as error:
        _check_shape(data, place, buffer.shape)  # A larger picture does not fit, which can be said better here.
        raise _undecodable(place, error) from None
    if pixels.shape != buffer.shape:  # A smaller one does.
        _check_shape(data, place, buffer.shape)
    return buffer


def _check_end(data: bytes | memoryview, place: object) -> None:
    # Without its end a JPEG decodes to a picture with a grey bottom, and what is wrong can be said better here.
    if len(data) >= 2 and data[-1] == _END_OF_IMAGE[1] and data[-2] == _END_OF_IMAGE[0]:
        return
    if _END_OF_IMAGE not in bytes(data[-_TAIL_BYTES:]):
        kind = "is empty" if not len(data) else "is cut off or no JPEG"
        raise DataError(
            f"{place}: this frame {kind} ({len(data)} bytes); write it again, or put the video in data.exclude"
        )


def frame_shape(data: bytes | memoryview, place: object) -> tuple[int, int, int]:
    """`[H, W, 3]` of a JPEG, as its header claims.

    Raises:
        DataError: It claims nothing, or too much.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise _undecodable(place, error) from None
    if height * width > _MAX_PIXELS:
        raise DataError(
            f"{place}: this frame claims {width} x {height} px, more than {_MAX_PIXELS >> 20} million; write it "
            "smaller, or put the video in data.exclude"
        )
    return height, width, 3


def _check_shape(data: bytes | memoryview, place: object, wanted: tuple[int, ...]) -> None:
    height, width, _ = frame_shape(data, place)
    if (height, width, 3) != wanted:
        raise DataError(
            f"{place}: this frame is {width} x {height} px, but others of the video are "
            f"{wanted[1]} x {wanted[0]}; write the video's frames again, or put it in data.exclude"
        )


def _undecodable(place: object, error: ValueError) -> DataError:
    why = str(error).strip() or "no reason given"
    return DataError(f"{place}: this frame cannot be decoded ({why}); write it again, or put the video in data.exclude")


class _Room:
    """Memory that file after file is read into: it stays in the processor's cache."""

    def __init__(self) -> None:
        self._bytes = memoryview(bytearray(_ROOM_BYTES))

    def read(self, path: Path | str) -> memoryview:
        """A file's bytes, until the next one is read."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                length = os.readv(file, [self._bytes])
                while length == len(self._bytes):
                    self._bytes = memoryview(bytearray(self._bytes) + bytearray(length))
                    length += os.readv(file, [self._bytes[length:]])
            finally:
                os.close(file)
        except OSError as error:
            raise DataError(f"{path}: this frame cannot be read: {error.strerror}; {_LOOK}") from error
        return self._bytes[:length]


def read_frames(paths: Sequence[Path | str], empty: Empty = new_array) -> npt.NDArray[np.uint8]:
    """Decode frames of one video; a path that comes twice is decoded once.

    Args:
        paths: Frame files, at least one.
        empty: Gives the memory that they are decoded into.

    Returns:
        RGB `[len(paths), H, W, 3]`.

    Raises:
        DataError: A frame is unreadable, cut off, damaged or of another size than the first; names the file.
    """
    room = _Room()
    data = room.read(paths[0])
    _check_end(data, paths[0])
    frames = empty((len(paths), *frame_shape(data, paths[0])))
    decode_frame(data, paths[0], frames[0])
    places = {paths[0]: 0}
    for place, path in enumerate(paths[1:], start=1):
        if path in places:
            frames[place] = frames[places[path]]
        else:
            decode_frame(room.read(path), path, frames[place])
            places[path] = place
    return frames


def read_files(paths: Sequence[Path | str]) -> list[bytes]:
    """Frames of one video as they are on disk.

    Raises:
        DataError: One is unreadable or cut off; names the file.
    """
    room, files = _Room(), []
    for path in paths:
        data = room.read(path)
        _check_end(data, path)
        files.append(bytes(data))
    return files
