"""Writing packed stores (`saccade.datasets.packed`): work that may be interrupted.

A store is written as `packed_<...>.partial/`: frames are appended to `frames.bin`, and a line to `videos.jsonl` for
each video that is complete on disk. Called again, the work goes on after the last such line. The folder gets its name
when all is done. The bytes do not depend on the number of workers, nor on interruptions.
"""

import fcntl
import io
import json
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from saccade.amounts import bytes_text
from saccade.atomic import replacing, sync
from saccade.datasets.frames import FrameFolder, list_frames
from saccade.datasets.packed import (
    ALIGNMENT,
    DATA_FILE,
    INDEX_FILE,
    INDEX_SUM_FILE,
    WORD,
    Settings,
    open_store,
    padded,
    quick_sum,
    sum_line,
)
from saccade.datasets.packed_plan import PackPlan, Shape, stored_frame, stored_shape
from saccade.errors import DataError
from saccade.progress import progress
from saccade.strict_json import parse_json

__all__ = ["PackReport", "pack"]

_RECORDS = "videos.jsonl"
_CHUNK_FRAMES = 16
"""Frames of a video that a worker prepares at a time."""
_SIZES = 16
"""Columns of the index for bytes of a video's files (`FrameFolder.sizes`), filled up with -1."""


@dataclass(frozen=True)
class PackReport:
    """What `pack` has done."""

    folder: Path
    videos: int
    frames: int
    bytes: int
    resumed: int
    """Videos that an earlier call had packed."""
    seconds: float

    def __str__(self) -> str:
        earlier = f", {self.resumed} of these videos by an earlier call" if self.resumed else ""
        return (
            f"{self.folder}: {self.videos} videos, {self.frames} frames, {bytes_text(self.bytes)}, in "
            f"{self.seconds:.0f} s{earlier}; use it with data.store: {self.folder.name}"
        )


# Work ----------------------------------------------------------------------------------------------------------------


@dataclass
class _Record:
    """A video in the store."""

    name: str
    shape: Shape
    sizes: tuple[int, ...]
    """Bytes of some of its JPEG files."""
    lengths: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, line: bytes) -> "_Record | None":
        """None for a line that was not written to its end, or has changed since."""
        try:
            digits, content = line.split(b" ", 1)
            if digits != b"%08x" % zlib.crc32(content):
                return None
            values = parse_json(content)
        except ValueError:
            return None
        values["shape"], values["sizes"] = Shape(*values["shape"]), tuple(values["sizes"])
        return cls(**values)

    def line(self) -> bytes:
        """What `parse` reads: the CRC-32 of the rest, and the rest."""
        content = (json.dumps(vars(self)) + "\n").encode()
        return b"%08x " % zlib.crc32(content) + content

    @property
    def bytes(self) -> int:
        return sum(map(padded, self.lengths))

    def is_of(self, video: FrameFolder) -> bool:
        """Whether the video's files are still those that were packed."""
        return (self.name, len(self.lengths), self.sizes) == (video.folder.name, video.count, video.sizes)


class _Chunk(NamedTuple):
    video: FrameFolder
    shape: Shape
    paths: list[Path]
    last: bool
    """Whether the video ends with it."""


def _prepare(chunk: _Chunk, settings: Settings) -> tuple[_Chunk, list[tuple[bytes, int, int]]]:
    """Frames of a chunk with their zeros, and their two checksums."""
    done = []
    for path in chunk.paths:
        data = stored_frame(path, settings, chunk.shape)
        whole = data + b"\0" * (padded(len(data)) - len(data))
        done.append((data, quick_sum(np.frombuffer(whole, WORD)), zlib.crc32(data)))
    return chunk, done


def _chunks(videos: Iterable[FrameFolder], settings: Settings) -> Iterator[_Chunk]:
    for video in videos:
        shape = stored_shape(video, settings)
        paths = [video.folder / name for name in list_frames(video.folder)]
        for first in range(0, len(paths), _CHUNK_FRAMES):
            yield _Chunk(video, shape, paths[first : first + _CHUNK_FRAMES], first + _CHUNK_FRAMES >= len(paths))


def _in_order(function: Callable[[_Chunk], Any], chunks: Iterable[_Chunk], workers: int) -> Iterator[Any]:
    """Results in the order of the chunks; few are under way at a time, since decoded ones are large."""
    pending: deque[Future[Any]] = deque()
    # Threads do: decoding, resizing and checksums leave Python to the others.
    with ThreadPoolExecutor(workers) as pool:
        try:
            for chunk in chunks:
                pending.append(pool.submit(function, chunk))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def _alone(folder: Path) -> Iterator[BinaryIO]:
    """The open file of records, for one process at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _RECORDS).open("a+b") as records:
        try:
            fcntl.flock(records, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: is being written by another `saccade data pack`; wait for it") from None
        yield records


def _earlier(records: BinaryIO, plan: PackPlan, stored: int) -> list[_Record]:
    """Videos that an earlier call has packed and that are still the first of the plan; the file is cut after them.

    Args:
        records: The file, open for writing at its end.
        plan: What is to be packed.
        stored: Bytes of frames that are there.
    """
    records.seek(0)
    header = (plan.settings.as_json() + "\n").encode()
    good, end = [], len(header)
    if records.readline() == header:
        for video, line in zip(plan.videos, records, strict=False):
            record = _Record.parse(line) if line.endswith(b"\n") else None
            if record is None or not record.is_of(video) or record.bytes > stored:
                break
            stored -= record.bytes
            good.append(record)
            end += len(line)
    else:
        records.truncate(0)
        records.write(header)
        records.flush()
    records.truncate(end)
    return good


def _write(plan: PackPlan, records: BinaryIO, data: BinaryIO, done: list[_Record], workers: int) -> None:
    """Append what is missing; `done` grows by it."""
    rest = plan.videos[len(done) :]
    left = sum(video.count for video in rest)
    record: _Record | None = None
    with progress(
        desc=f"packing {plan.settings.name}", unit="frame", total=plan.frames, initial=plan.frames - left
    ) as bar:
        for chunk, frames in _in_order(
            partial(_prepare, settings=plan.settings), _chunks(rest, plan.settings), workers
        ):
            record = record or _Record(chunk.video.folder.name, chunk.shape, chunk.video.sizes)
            for content, quick, crc in frames:
                data.write(content)
                data.write(b"\0" * (padded(len(content)) - len(content)))
                record.lengths.append(len(content))
                record.sums.append(quick)
                record.crcs.append(crc)
            bar.update(len(frames))
            if chunk.last:
                data.flush()
                os.fsync(data.fileno())
                records.write(record.line())
                records.flush()
                done.append(record)
                record = None


def _index(records: list[_Record], settings: Settings) -> dict[str, npt.NDArray[Any]]:
    lengths = np.array([length for record in records for length in record.lengths], np.uint32)
    ends = np.cumsum(-(-lengths.astype(np.uint64) // ALIGNMENT) * ALIGNMENT, dtype=np.uint64)
    sizes = np.full((len(records), _SIZES), -1, np.int64)
    for row, record in zip(sizes, records, strict=True):
        row[: len(record.sizes)] = record.sizes
    return {
        "settings": np.frombuffer(settings.as_json().encode(), np.uint8),
        "names": np.frombuffer(json.dumps([record.name for record in records]).encode(), np.uint8),
        "first": np.cumsum([0, *(len(record.lengths) for record in records)], dtype=np.int64),
        "shapes": np.array([record.shape for record in records], np.int32).reshape(-1, 2),
        "sizes": sizes,
        "starts": ends - (-(-lengths.astype(np.uint64) // ALIGNMENT) * ALIGNMENT),
        "lengths": lengths,
        "sums": np.array([value for record in records for value in record.sums], np.uint64),
        "crcs": np.array([value for record in records for value in record.crcs], np.uint32),
    }


def _write_index(folder: Path, index: dict[str, npt.NDArray[Any]]) -> None:
    content = io.BytesIO()
    np.savez(content, **index)  # type: ignore[arg-type]
    for name, data in ((INDEX_FILE, content.getvalue()), (INDEX_SUM_FILE, sum_line(content.getvalue()))):
        with replacing(folder / name) as file:
            file.write(data)


def _is_already_there(plan: PackPlan) -> bool:
    if not plan.target.is_dir():
        return False
    store = open_store(plan.target)
    there = [store.frames_of(name) for name in store.names]
    wanted = [(video.folder.name, video.count, video.sizes) for video in plan.videos]
    if store.settings != plan.settings or [(v.folder.name, v.count, v.sizes) for v in there] != wanted:
        raise DataError(
            f"{plan.target}: is there already, packed from other frames or with another quality; pack with --overwrite "
            "to replace it"
        )
    return True


def pack(plan: PackPlan, *, workers: int | None = None, overwrite: bool = False) -> PackReport:
    """Write a store; called again, it goes on where it was stopped.

    Args:
        plan: What to write.
        workers: Threads; None: one per core.
        overwrite: Replace a store of other frames.

    Raises:
        DataError: A frame is unreadable, the disk is full, or there is a store of other frames already.
    """
    began = time.monotonic()
    target, half = plan.target, plan.target.with_name(f"{plan.target.name}.partial")
    if not overwrite and _is_already_there(plan):
        return PackReport(target, len(plan.videos), plan.frames, open_store(target).bytes, len(plan.videos), 0.0)
    try:
        with _alone(half) as records:
            frames = half / DATA_FILE
            done = _earlier(records, plan, frames.stat().st_size if frames.exists() else 0)
            resumed, there = len(done), sum(record.bytes for record in done)
            free = shutil.disk_usage(half).free
            if plan.bytes - there > free:
                raise DataError(
                    f"{target}: would take {bytes_text(plan.bytes - there)} more, but the disk has {bytes_text(free)} "
                    "free; make room, or choose smaller frames with --short-side"
                )
            with frames.open("ab") as data:
                data.truncate(there)
                _write(plan, records, data, done, workers or os.cpu_count() or 1)
            _write_index(half, _index(done, plan.settings))
            if target.is_dir():
                shutil.rmtree(target)
            half.replace(target)
            (target / _RECORDS).unlink()
            sync(target.parent)
    except OSError as error:
        raise DataError(f"{half}: cannot be written: {error.strerror}; mend that and run the same again") from None
    total = sum(record.bytes for record in done)
    return PackReport(target, len(done), plan.frames, total, resumed, time.monotonic() - began)
