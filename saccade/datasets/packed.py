"""Packed stores: the frames of a dataset in one file, read through the memory map of the operating system.

`<root>/<dataset>/packed_<kind>[_<short side>]/` holds

- `frames.bin`: frame after frame, video after video in order of their names, each beginning at a multiple of 8 bytes:
  JPEG files (kind `jpeg`) or RGB pixels `[H, W, 3]` (kind `decoded`);
- `index.npz`: where each frame is, its two checksums, and of each video name, size of the frames, and the bytes of 16
  of its JPEG files, which the dataset's digest counts;
- `index.npz.sha256`: the index's checksum, as `sha256sum -c` takes it.

The quick checksum of a frame is compared whenever the frame is read, the CRC-32 by `saccade data check`.
"""

import hashlib
import io
import json
import mmap
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from saccade.datasets.frames import Empty, FrameFolder, decode_frame, new_array
from saccade.datasets.splits import name_fault
from saccade.errors import DataError
from saccade.strict_json import parse_json, parse_object

__all__ = [
    "ALIGNMENT",
    "DATA_FILE",
    "INDEX_FILE",
    "INDEX_SUM_FILE",
    "WORD",
    "Kind",
    "PackedStore",
    "Settings",
    "is_store",
    "open_store",
    "padded",
    "quick_sum",
    "stores_of",
    "sum_line",
]

Kind = Literal["jpeg", "decoded"]

ALIGNMENT = 8
"""Each frame begins at a multiple of this many bytes."""
WORD = np.dtype("<u8")
"""What checksums are sums of, as long as that."""
DATA_FILE, INDEX_FILE, INDEX_SUM_FILE = "frames.bin", "index.npz", "index.npz.sha256"
_TOGETHER = 64
"""JPEG files whose checksums are taken at once, before the first is decoded."""
_VERSION = 1
_NAME = re.compile(r"packed_(?:jpeg|decoded)(?:_[1-9]\d*)?")
_AGAIN = "remove the folder and run `saccade data pack` again"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a store is made of."""

    kind: Kind
    short_side: int | None = None
    """Of the stored frames, px; None: as they are."""
    quality: int | None = None
    """Of JPEG files that are written anew, for smaller frames."""

    @property
    def name(self) -> str:
        """The folder's, and what `data.store` says."""
        return f"packed_{self.kind}" + (f"_{self.short_side}" if self.short_side is not None else "")

    @property
    def changes(self) -> str:
        """How pixels differ from those of the frames as they are; empty when they do not, so that digests agree."""
        if self.short_side is None:
            return ""
        again = f", JPEG quality {self.quality}" if self.quality is not None else ""
        return f"short side {self.short_side}{again}"

    def as_json(self) -> str:
        return json.dumps(
            {"version": _VERSION, "kind": self.kind, "short_side": self.short_side, "quality": self.quality}
        )


def is_store(name: str) -> bool:
    """Whether a folder's name is one of a store."""
    return _NAME.fullmatch(name) is not None


def stores_of(dataset: Path) -> list[str]:
    """Names of a dataset's stores that are complete."""
    return sorted(path.name for path in dataset.glob("packed_*") if is_store(path.name))


def padded(length: int) -> int:
    """Bytes that a frame of this length takes in the file."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def quick_sum(words: npt.NDArray[np.uint64]) -> int:
    """Sum of the words of a frame and the zeros after it, at memory speed: it tells of any word that changed."""
    return int(np.add.reduce(words))


def _runs(numbers: Sequence[int], longest: int) -> Iterator[range]:
    """Numbers, in their order, as runs of such that follow one another."""
    first = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1 or at - first == longest:
            yield range(numbers[first], numbers[first] + at - first)
            first = at


class _FramePlace(NamedTuple):
    """Where a frame is, in words only when somebody asks: that is for messages, and frames are read by the thousand."""

    folder: Path
    video: str
    number: int

    def __str__(self) -> str:
        return f"{self.folder / DATA_FILE}: frame {self.number} of {self.video}"


class PackedStore:
    """A store that is open; goes to other processes as the name of its folder."""

    def __init__(self, folder: Path, index: dict[str, npt.NDArray[Any]], settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.names: tuple[str, ...] = tuple(parse_json(index["names"].tobytes()))
        """Of the videos."""
        self._place = {name: at for at, name in enumerate(self.names)}
        self._first, self._shapes, self._sizes = index["first"], index["shapes"], index["sizes"]
        self._starts, self._lengths = index["starts"], index["lengths"]
        self._sums, self._crcs = index["sums"], index["crcs"]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.folder,)

    @property
    def bytes(self) -> int:
        """Length of the data file."""
        return int(self._starts[-1] + padded(int(self._lengths[-1]))) if len(self._starts) else 0

    @property
    def num_frames(self) -> int:
        return len(self._starts)

    @cached_property
    def _words(self) -> npt.NDArray[np.uint64]:
        path = self.folder / DATA_FILE
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: this file of frames cannot be read: {error}; {_AGAIN}") from None
        return np.frombuffer(mapped, WORD)

    @cached_property
    def _data(self) -> memoryview:
        return self._words.data.cast("B")

    def frames_of(self, name: str) -> FrameFolder:
        """What is known of a video's frames; its folder is one only in name."""
        video = self._place[name]
        sizes = tuple(int(size) for size in self._sizes[video] if size >= 0)
        return FrameFolder(self.folder / name, int(self._first[video + 1] - self._first[video]), sizes)

    def read(self, name: str, numbers: Sequence[int], empty: Empty = new_array) -> npt.NDArray[np.uint8]:
        """Frames of a video.

        Args:
            name: The video's.
            numbers: Which frames, from 0, in any order.
            empty: Gives the memory that they come into.

        Returns:
            RGB `[len(numbers), H, W, 3]`.

        Raises:
            DataError: A frame is damaged; names it.
        """
        frames = empty((len(numbers), *self._shapes[self._place[name]].tolist(), 3))
        jpeg = self.settings.kind == "jpeg"
        for number, stored, out in zip(numbers, self._stored(name, numbers), frames, strict=True):
            if jpeg:
                decode_frame(stored, self._frame(name, number), out)
            else:
                np.copyto(out, np.frombuffer(stored, np.uint8).reshape(out.shape))
        return frames

    def files(self, name: str, numbers: Sequence[int]) -> list[memoryview]:
        """Frames of a video as they are stored: JPEG files, if the store is of such.

        Raises:
            DataError: One is damaged; names it.
        """
        return list(self._stored(name, numbers))

    def _stored(self, name: str, numbers: Sequence[int]) -> Iterator[memoryview]:
        """Bytes of each frame, whose checksum is right."""
        first, data, jpeg = self._first[self._place[name]], self._data, self.settings.kind == "jpeg"
        for run in _runs(numbers, _TOGETHER):
            places = slice(first + run.start, first + run.stop)
            starts, lengths, sums = (column[places].tolist() for column in (self._starts, self._lengths, self._sums))
            # Of JPEG files all at once; of pixels one by one, to be copied while the processor's cache still has them.
            found = self._sums_of(starts, lengths) if jpeg else map(self._sum_of, starts, lengths)
            for number, start, length, wanted, own in zip(run, starts, lengths, sums, found, strict=True):
                if own != wanted:
                    raise DataError(f"{self._frame(name, number)} is damaged: its checksum differs; {_AGAIN}")
                yield data[start : start + length]

    def _sum_of(self, start: int, length: int) -> int:
        return quick_sum(self._words[start // ALIGNMENT : -(-(start + length) // ALIGNMENT)])

    def _sums_of(self, starts: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Quick sums of frames that follow one another."""
        words = self._words[starts[0] // ALIGNMENT : -(-(starts[-1] + lengths[-1]) // ALIGNMENT)]
        firsts = [(start - starts[0]) // ALIGNMENT for start in starts]
        sums: list[int] = np.add.reduceat(words, firsts).tolist()
        return sums

    def damaged(self, name: str, *, every: bool) -> list[int]:
        """Numbers of a video's frames whose CRC-32 differs; only of the first and last one unless `every`."""
        video = self._place[name]
        first, end = int(self._first[video]), int(self._first[video + 1])
        chosen = range(first, end) if every else sorted({first, end - 1})
        found = []
        for at in chosen:
            start, length = int(self._starts[at]), int(self._lengths[at])
            if zlib.crc32(self._data[start : start + length]) != int(self._crcs[at]):
                found.append(at - first)
        return found

    def _frame(self, name: str, number: int) -> _FramePlace:
        return _FramePlace(self.folder, name, number)


def sum_line(index: bytes) -> bytes:
    """What stands in the file of the index's checksum."""
    return f"{hashlib.sha256(index).hexdigest()}  {INDEX_FILE}\n".encode()


def open_store(folder: Path) -> PackedStore:
    """Open a store.

    Raises:
        DataError: It is not there, of another version, or its files do not belong together; names the file.
    """
    if not folder.is_dir():
        there = ["frames", *stores_of(folder.parent)]
        half = folder.with_name(f"{folder.name}.partial").is_dir()
        todo = "it is half written, run `saccade data pack` again" if half else "make it with `saccade data pack`"
        raise DataError(f"{folder}: no such packed store ({todo}); data.store may be {' or '.join(there)} here")
    path = folder / INDEX_FILE
    try:
        content, wanted = path.read_bytes(), (folder / INDEX_SUM_FILE).read_bytes()
        size = (folder / DATA_FILE).stat().st_size
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}; {_AGAIN}") from None
    if sum_line(content) != wanted:
        raise DataError(f"{path}: is damaged: its checksum is not that of {INDEX_SUM_FILE}; {_AGAIN}")
    try:
        index = _load(content)
        settings = parse_object(index["settings"].tobytes(), _SETTINGS)
        version = settings.pop("version", None)
        if version != _VERSION:
            raise DataError(f"{path}: version {version} of packed stores, this program reads {_VERSION}; {_AGAIN}")
        store = PackedStore(folder, index, Settings(**settings))
        _check_index(index, store)
    except _IMPOSSIBLE as error:
        raise DataError(f"{path}: is not the index of a packed store ({str(error)[:100]}); {_AGAIN}") from None
    if size != store.bytes:
        raise DataError(f"{folder / DATA_FILE}: {size} bytes, its index says {store.bytes}; {_AGAIN}")
    return store


# What holds in every index, whoever has made it and whatever its checksum says ---------------------------------------

_COLUMNS = {
    **{"settings": ("uint8", 1), "names": ("uint8", 1), "first": ("int64", 1), "shapes": ("int32", 2)},
    **{"sizes": ("int64", 2), "starts": ("uint64", 1), "lengths": ("uint32", 1), "sums": ("uint64", 1)},
    "crcs": ("uint32", 1),
}
"""Type and dimensions of each array."""
_SETTINGS = {"version": int, "kind": str, "short_side": int | None, "quality": int | None}
_MAX_SIDE_PX = 65535
"""Of JPEG files."""
_IMPOSSIBLE = (ValueError, TypeError, KeyError, EOFError, OSError, MemoryError, NotImplementedError, zipfile.BadZipFile)
"""What reading a made-up index has been seen to end in."""


def _load(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an index; none that takes more memory than its file.

    Raises:
        ValueError: Others than those of an index, or compressed ones.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(each.file_size for each in archive.infolist()) > len(content):
            raise ValueError("it unpacks to more than it is")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        if set(file.files) != set(_COLUMNS) or len(file.files) != len(_COLUMNS):
            raise ValueError("it holds other arrays")
        index = dict(file)
    for name, kind in _COLUMNS.items():
        array = index[name]
        if not isinstance(array, np.ndarray) or (array.dtype.name, array.ndim) != kind:
            raise ValueError(f"{name} is no array of {kind[0]} with {kind[1]} dimensions")
    return index


def _check_index(index: dict[str, npt.NDArray[Any]], store: PackedStore) -> None:
    """Refuse an index whose parts contradict each other: reading trusts it.

    Raises:
        ValueError: Says which part.
    """
    names, frames = store.names, store.num_frames
    if len(set(names)) < len(names) or any(not isinstance(name, str) or name_fault(name) for name in names):
        raise ValueError("names")
    first, shapes, lengths = index["first"], index["shapes"], index["lengths"]
    if len(first) != len(names) + 1 or first[0] != 0 or first[-1] != frames or (np.diff(first) < 1).any():
        raise ValueError("first")
    if shapes.shape != (len(names), 2) or not ((shapes > 0) & (shapes <= _MAX_SIDE_PX)).all():
        raise ValueError("shapes")
    if any(len(index[name]) != frames for name in ("lengths", "sums", "crcs")) or len(index["sizes"]) != len(names):
        raise ValueError("numbers of frames")
    taken = -(-lengths.astype(np.uint64) // ALIGNMENT) * ALIGNMENT
    if not np.array_equal(index["starts"], np.cumsum(taken, dtype=np.uint64) - taken):
        raise ValueError("starts")
    settings = store.settings
    if settings.kind not in ("jpeg", "decoded"):
        raise ValueError("kind")
    pixels = np.repeat(3 * shapes.astype(np.int64).prod(axis=1), np.diff(first))
    if settings.kind == "decoded" and not np.array_equal(pixels, lengths):
        raise ValueError("lengths")
