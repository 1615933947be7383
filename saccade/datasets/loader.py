"""The loader: samples in batches, made by worker processes that stay a batch ahead."""

import gc
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from saccade.datasets.clips import Item, Sample, VideoClips
from saccade.datasets.loader_watch import POLL_SEC, quiet_about_cores, watched
from saccade.datasets.parallel import keep_freed_memory
from saccade.datasets.slots import Parcel, Slots
from saccade.engine.device import Machine
from saccade.errors import DataError

__all__ = ["as_it_is", "make_loader", "start_worker"]

_HERE = Machine(torch.device("cpu"), "fp32")
_LARGER = 2
"""Times the frames of the first video: so large may those of others be (HMDB51's are up to 1.8 times UCF101's)."""


class _HandedOver(Dataset[Sample | Parcel | DataError]):
    """Samples as a worker gives them, and as this process makes them where there are no workers.

    A user's mistake is handed over as a value: raised in a worker, it would arrive as a traceback of many lines.
    """

    def __init__(self, dataset: VideoClips, slots: Slots, *, files: bool) -> None:
        self._decode, self._slots = partial(dataset.decode, files=files), slots
        self._videos = dataset.videos

    def __getitem__(self, item: Item) -> Sample | Parcel | DataError:
        worker = get_worker_info()
        try:
            if worker is None:
                return self._decode(item).sample()
            return self._slots.make(worker.id, partial(self._decode, item))
        except DataError as error:
            return error
        except MemoryError:
            return DataError(
                f"{self._videos[item.video].name}: there is no memory for its frames; lower engine.workers or "
                "pretrain.batch_size, or ask for more memory; then resume the run"
            )


def as_it_is(sample: Any) -> Any:
    """What PyTorch's loader is to do to a sample: videos differ in frame size, so nothing is stacked."""
    return sample


def start_worker(_: int) -> None:
    """Set up a worker process."""
    cv2.setNumThreads(0)  # one process a core already; OpenCV would take all cores in each
    keep_freed_memory()
    gc.freeze()  # What was inherited need not be looked through again and again, which would copy its pages too.


def make_loader(
    dataset: VideoClips,
    batches: Iterable[list[Item]],
    workers: int,
    patience_sec: float = math.inf,
    machine: Machine = _HERE,
) -> Iterator[list[Sample]]:
    """Give one list of samples for each of `batches`, decoded by `workers` processes.

    Workers take one video at a time and are ahead by a batch between them: were each at batches of its own, as many
    batches of frames would lie in memory as there are workers, twice.

    Args:
        dataset: The videos.
        batches: What is wanted of them.
        workers: Processes that decode; 0: this one does.
        patience_sec: How long a video may take to come.
        machine: Where samples are used: for a GPU they come in pinned memory, or decoded by it.

    Raises:
        DataError: A video is unreadable; the same line, whichever process has read it.
        WorkerError: A worker has died, or has not handed over a video for `patience_sec`.
    """
    coming = iter(batches)
    first = next(coming, None)
    if first is None:
        return
    items = _Items(chain([first], coming))
    share = -(-len(first) // max(workers, 1))
    ahead = max(2, share)
    # What a worker is ahead, what is put together to a batch, and the batch before, which is worked on.
    with Slots(workers, ahead + 2 * share, _slot_bytes(dataset, first[0]) if workers else 0) as slots:
        handed_over = _HandedOver(dataset, slots, files=machine.nvjpeg)
        loader = _pytorchs_loader(handed_over, items, workers, ahead, pinned=machine.device.type == "cuda")
        samples: list[Sample] = []
        told = False
        for sample in watched(loader, patience_sec, lambda: dataset.videos[items.begun[0].video].name):
            if isinstance(sample, DataError):
                raise sample
            item = items.begun.popleft()
            if sample.ends is not None:
                sample = _decoded_here(dataset, item, quiet=told)
                told = True
            samples.append(sample)
            if len(samples) == items.sizes[0]:
                items.sizes.popleft()
                yield samples
                samples = []


def _pytorchs_loader(
    samples: _HandedOver, items: "_Items", workers: int, ahead: int, *, pinned: bool
) -> "DataLoader[Any]":
    with quiet_about_cores():
        return DataLoader(
            samples,
            batch_size=None,
            sampler=items,
            num_workers=workers,
            collate_fn=as_it_is,
            worker_init_fn=start_worker,
            pin_memory=pinned,
            prefetch_factor=ahead if workers else None,
            timeout=POLL_SEC if workers else 0,
            # A private generator: the loader would otherwise draw from torch's global one.
            generator=torch.Generator(),
            # Slots are inherited.
            multiprocessing_context="fork" if workers else None,
        )


def _slot_bytes(dataset: VideoClips, item: Item) -> int:
    try:
        return _LARGER * dataset.bytes_at_most(item)
    except DataError:  # Whoever needs that frame will say so.
        return 0


def _decoded_here(dataset: VideoClips, item: Item, *, quiet: bool) -> Sample:
    """A sample that the GPU could not decode: the CPU can, or says what is wrong.

    Raises:
        DataError: A frame is damaged; names it.
    """
    sample = dataset[item]
    if not quiet:
        name = dataset.videos[item.video].name
        told = f"saccade: {name}: nvJPEG cannot decode a frame; the CPU does, as with others"
        print(told, file=sys.stderr, flush=True)
    return sample.pin_memory()


class _Items:
    """A sampler of the items of given batches, which remembers what of them is under way."""

    def __init__(self, batches: Iterable[list[Item]]) -> None:
        self._batches = batches
        self.sizes: deque[int] = deque()
        self.begun: deque[Item] = deque()

    def __iter__(self) -> Iterator[Item]:
        for batch in self._batches:
            self.sizes.append(len(batch))
            for item in batch:
                self.begun.append(item)
                yield item
