"""Gaze of whole videos, from their frames on disk to a file of scanpath rows: one by one, or many at once on a GPU."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saccade.datasets.frames import list_frames, read_frames
from saccade.errors import DataError
from saccade.gaze.detail import scaled_size, shrink
from saccade.gaze.geymol import follow
from saccade.gaze.scanpath import gaze_cells, rows_from_gaze, write_scanpath
from saccade.rng import generator

__all__ = ["GazeJob", "GazeOutcome", "GazeParameters", "in_batches", "video_gaze", "write_gaze"]

Frames = npt.NDArray[np.uint8]
Places = npt.NDArray[np.float64]

_CHUNK_FRAMES = 32
"""Frames decoded at a time: a whole video of full-size frames may take a gigabyte."""
_BATCH = 64
"""Videos at once on a GPU."""


@dataclass(frozen=True, slots=True)
class GazeParameters:
    """What rows depend on, beside the frames and the name of their video."""

    grid_num: int
    """Cells along each side of the grid."""
    seed: int
    """Of the place and speed that the gaze begins with."""
    min_frames: int = 3
    """Shorter stays in a cell are no fixations."""
    fps: float = 25.0
    """Frames in a second."""


@dataclass(frozen=True, slots=True)
class GazeJob:
    """A video whose scanpath rows are to be written."""

    frames: Path
    """Folder of its frames, named as the video."""
    target: Path
    """The file of its rows."""
    parameters: GazeParameters


@dataclass(frozen=True, slots=True)
class GazeOutcome:
    """What became of a job."""

    job: GazeJob
    frames: int = 0
    fixations: int = 0
    fault: str | None = None
    """Why there are no rows, if so."""


def _start(folder: Path, seed: int) -> np.random.Generator:
    """Source of a gaze's beginning, which depends on the video's name, not on which videos are beside it."""
    return generator(seed, "scanpath", *folder.name.encode())


def _paths(folder: Path) -> list[Path]:
    paths = [folder / name for name in list_frames(folder)]
    if not paths:
        raise DataError(f"{folder}: holds no .jpg; write its frames, or remove it")
    return paths


def _chunks(paths: Sequence[Path]) -> Iterator[Frames]:
    """Scaled frames of a video, some at a time, `[n, h, w, 3]`."""
    for first in range(0, len(paths), _CHUNK_FRAMES):
        # The video's first frame goes along, for all to be compared with it in size.
        frames = read_frames([paths[0], *paths[first : first + _CHUNK_FRAMES]])[1:]
        yield np.stack([shrink(frame) for frame in frames])


def video_gaze(folder: Path, parameters: GazeParameters) -> Places:
    """Where the gaze is at each frame of a video, `[T, 2]` as parts of height and width.

    Raises:
        DataError: A frame is unreadable, or there is none.
    """
    frames = (frame for chunk in _chunks(_paths(folder)) for frame in chunk)
    return follow(frames, rng=_start(folder, parameters.seed), fps=parameters.fps)


def _write_rows(job: GazeJob, places: Places) -> GazeOutcome:
    rows = rows_from_gaze(gaze_cells(places, job.parameters.grid_num), job.parameters.min_frames)
    try:
        write_scanpath(job.target, rows)
    except OSError as error:
        raise DataError(f"{job.target}: cannot be written: {error.strerror}; run the same again when it can") from None
    return GazeOutcome(job, len(places), len(rows))


def write_gaze(job: GazeJob) -> GazeOutcome:
    """Compute the gaze of a video and write its rows.

    Raises:
        DataError: The rows cannot be written.
    """
    try:
        places = video_gaze(job.frames, job.parameters)
    except DataError as error:
        return GazeOutcome(job, fault=str(error))
    return _write_rows(job, places)


def in_batches(jobs: Sequence[GazeJob], *, device: str, workers: int | None) -> Iterator[GazeOutcome]:
    """What `write_gaze` does, for many videos at once, with frames decoded by threads.

    Rows may differ a little from those of the one-by-one way: sums are taken in another order, and a gaze at the border
    of two pixels can fall to either side.

    Args:
        device: A torch device.
        workers: Threads; None: as many as ThreadPoolExecutor finds right.
    """
    groups: dict[tuple[int, int], list[tuple[int, GazeJob]]] = defaultdict(list)
    with ThreadPoolExecutor(workers) as pool:
        for job, found in zip(jobs, pool.map(_measure, jobs), strict=True):
            if isinstance(found, GazeOutcome):
                yield found
            else:
                size, length = found
                groups[size].append((length, job))
        for size, group in groups.items():
            # Neighbours in length waste little: a batch goes on until its longest video ends.
            ordered = [job for _, job in sorted(group, key=lambda pair: pair[0])]
            for first in range(0, len(ordered), _BATCH):
                yield from _write_batch(ordered[first : first + _BATCH], size, device, pool)


def _measure(job: GazeJob) -> tuple[tuple[int, int], int] | GazeOutcome:
    """Scaled size and number of a video's frames."""
    try:
        paths = _paths(job.frames)
        height, width = read_frames(paths[:1]).shape[1:3]
        return scaled_size(height, width), len(paths)
    except DataError as error:
        return GazeOutcome(job, fault=str(error))


def _next_chunk(chunks: Iterator[Frames]) -> Frames | str | None:
    """The next frames, None at the end, words when a frame is unreadable."""
    try:
        return next(chunks, None)
    except DataError as error:
        return str(error)


def _write_batch(
    jobs: Sequence[GazeJob], size: tuple[int, int], device: str, pool: ThreadPoolExecutor
) -> Iterator[GazeOutcome]:
    """Rows of videos of one scaled size."""
    import torch  # takes seconds, and the processes of the one-by-one way import this module as well

    from saccade.gaze.geymol_batch import GazeBatch

    rngs = [_start(job.frames, job.parameters.seed) for job in jobs]
    gazes = GazeBatch(*size, rngs=rngs, fps=jobs[0].parameters.fps, device=torch.device(device))
    streams = [_chunks(_paths(job.frames)) for job in jobs]
    lengths = np.zeros(len(jobs), int)
    faults: dict[int, str] = {}
    places: list[torch.Tensor] = []

    def ask() -> list[Future[Frames | str | None]]:
        return [pool.submit(_next_chunk, stream) for stream in streams]

    asked = ask()
    while True:
        chunks = [future.result() for future in asked]
        block = np.zeros((len(jobs), _CHUNK_FRAMES, *size, 3), np.uint8)
        for number, chunk in enumerate(chunks):
            if isinstance(chunk, str):
                faults[number] = chunk
            elif chunk is not None:
                block[number, : len(chunk)] = chunk
                lengths[number] += len(chunk)
        steps = lengths.max() - len(places)
        if steps == 0:
            break
        asked = ask()  # decoded while the gazes move
        frames = torch.from_numpy(block).to(device)
        places += [gazes.look(frames[:, step]) for step in range(steps)]
    parts = torch.stack(places, dim=1).cpu().numpy() / size
    for number, job in enumerate(jobs):
        fault = faults.get(number)
        yield GazeOutcome(job, fault=fault) if fault else _write_rows(job, parts[number, : lengths[number]])
