"""What it takes to have samples from a data worker: CPU time of both processes, beside PyTorch's own way."""

import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from saccade.bench.measure import Row, compare, own_seconds
from saccade.datasets.clips import Item, Sample, VideoClips
from saccade.datasets.loader import as_it_is, make_loader, start_worker
from saccade.datasets.loader_watch import own_child_signals

__all__ = ["handing_over"]

_UNCOUNTED, _COUNTED = 10, 40
"""Samples: until the worker has started and is ahead, and after that."""


def handing_over(group: str, dataset: VideoClips, clip_frames: int, rounds: int) -> list[Row]:
    """Measure one worker that hands over all videos of a dataset again and again.

    Args:
        group: Of the rows.
        dataset: The videos.
        clip_frames: Frames of a sample's clips.
        rounds: Of which the median counts.
    """
    items = [Item(1, at % len(dataset)) for at in range(_UNCOUNTED + _COUNTED + 1)]
    functions = {
        "PyTorch's loader": lambda: _cpu_seconds(_plain(dataset, items)),
        "as here": lambda: _cpu_seconds(make_loader(dataset, [[item] for item in items], workers=1)),
    }
    amount = _COUNTED * clip_frames
    return compare(group, functions, amount=amount, unit="frames/s", rounds=rounds, seconds=own_seconds)


def _plain(dataset: VideoClips, items: Sequence[Item]) -> Iterator[Sample]:
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=items,
        num_workers=1,
        prefetch_factor=2,
        collate_fn=as_it_is,
        worker_init_fn=start_worker,
    )
    with own_child_signals():
        samples = iter(loader)
    yield from samples


def _cpu_seconds(samples: Iterable[Any]) -> float:
    """CPU time of the worker and of this process for the counted samples."""
    before = set(multiprocessing.active_children())
    coming = iter(samples)
    for _ in islice(coming, _UNCOUNTED):
        pass
    (worker,) = set(multiprocessing.active_children()) - before
    begun = _spent(worker)
    for _ in islice(coming, _COUNTED):
        pass
    taken = _spent(worker) - begun
    for _ in coming:
        pass
    return taken


def _spent(worker: BaseProcess) -> float:
    threads = Path(f"/proc/{worker.pid}/task").iterdir()
    nanoseconds = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
    return time.process_time() + nanoseconds / 1e9
