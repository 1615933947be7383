"""Clips of videos for the loader: which frames and how they are seen. Frames are decoded here, changed on the device.

Each dataset item is one video with its V clips; a frame that several of them use is decoded once. All draws come from
(seed, purpose, epoch, index), so an item is the same in whichever process and order it is made.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from saccade.datasets.layout import Video
from saccade.datasets.loader_watch import POLL_SEC, quiet_about_cores, watched
from saccade.datasets.parallel import keep_freed_memory
from saccade.errors import DataError
from saccade.gaze.fixations import choose_fixations, even_starts, usable_length, view_starts
from saccade.gaze.masks import fixation_mask
from saccade.gaze.scanpath import Fixation
from saccade.rng import generator
from saccade.transforms import (
    TEST_JITTER,
    Augmentation,
    View,
    as_frames,
    centre_view,
    draw_jitter,
    draw_training_view,
)

__all__ = [
    "ClipChooser",
    "EvenClips",
    "FirstViews",
    "Item",
    "RandomClip",
    "Sample",
    "TrainingViews",
    "VideoClips",
    "epoch_batches",
    "make_loader",
]


class Item(NamedTuple):
    """What to load: a video of the list, as it is seen in an epoch."""

    epoch: int
    video: int
    """Its position in the list."""


@dataclass(frozen=True)
class Sample:
    """The clips of one video, decoded but not yet changed."""

    index: int
    """Position of the video in its list."""
    frames: Tensor
    """The distinct frames of all its clips, uint8 `[n, 3, H, W]`."""
    positions: Tensor
    """Where each frame of each clip is among `frames`, `[V, T]`."""
    views: tuple[View, ...]
    """How each clip is seen, V of them."""
    masks: Tensor | None
    """Fixation mask of each clip on the mask plane, uint8 `[V, 128, 171]`."""

    def pin_memory(self) -> "Sample":
        """The same where a GPU can fetch it from without the host waiting; the loader asks for it in a thread."""
        masks = None if self.masks is None else self.masks.pin_memory()
        return replace(self, frames=self.frames.pin_memory(), masks=masks)


class Clip(NamedTuple):
    """A clip before decoding: its first frame and the cell that is looked at, if any."""

    start: int
    cell: int | None = None


class ClipChooser(Protocol):
    """Says which clips of a video are wanted and how each is seen."""

    @property
    def clip_frames(self) -> int:
        """T, frames of a clip."""
        ...

    def clips(self, video: Video, item: Item) -> list[Clip]:
        """The clips of a video."""
        ...

    def views(self, item: Item, count: int, height: int, width: int) -> tuple[View, ...]:
        """How each of `count` clips of `height` x `width` px frames is seen."""
        ...

    def mask(self, cell: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """The mask of a cell."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Fixations:
    """What the two choosers that follow scanpaths share."""

    seed: int
    clip_frames: int
    focus_num: int
    grid_num: int
    deduplicate: bool
    margin_h: int

    def _fixations(self, video: Video, item: Item) -> tuple[Fixation, ...]:
        # Training and clustering in one epoch see the same fixations, the random ones included.
        return choose_fixations(
            video.fixations,
            focus_num=self.focus_num,
            grid_num=self.grid_num,
            deduplicate=self.deduplicate,
            length=usable_length(video.frames),
            clip_frames=self.clip_frames,
            rng=generator(self.seed, "fixations", *item),
        )

    def mask(self, cell: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        return fixation_mask(cell, grid_num=self.grid_num, margin_h=self.margin_h)


@dataclass(frozen=True, kw_only=True)
class TrainingViews(_Fixations):
    """Pre-training: 2F clips, the F first views, then the F second views, each augmented by itself."""

    augmentation: Augmentation

    def clips(self, video: Video, item: Item) -> list[Clip]:
        length = usable_length(video.frames)
        fixations = self._fixations(video, item)
        starts = [view_starts(f, length=length, clip_frames=self.clip_frames) for f in fixations]
        return [Clip(pair[view], f.cell) for view in (0, 1) for f, pair in zip(fixations, starts, strict=True)]

    def views(self, item: Item, count: int, height: int, width: int) -> tuple[View, ...]:
        rng = generator(self.seed, "augmentation", *item)
        return tuple(draw_training_view(rng, self.augmentation, height=height, width=width) for _ in range(count))


@dataclass(frozen=True, kw_only=True)
class FirstViews(_Fixations):
    """Clustering: F clips, the first view of each fixation, not augmented."""

    crop: int

    def clips(self, video: Video, item: Item) -> list[Clip]:
        length = usable_length(video.frames)
        fixations = self._fixations(video, item)
        return [Clip(view_starts(f, length=length, clip_frames=self.clip_frames)[0], f.cell) for f in fixations]

    def views(self, item: Item, count: int, height: int, width: int) -> tuple[View, ...]:
        return (centre_view(height=height, width=width, crop=self.crop),) * count


class _WithoutFixation:
    """What the choosers of clips without a mask share."""

    def mask(self, cell: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        raise NotImplementedError("these clips have no fixation")


@dataclass(frozen=True, kw_only=True)
class RandomClip(_WithoutFixation):
    """Training of a classifier: one clip a video and epoch, anywhere in the video, augmented."""

    seed: int
    clip_frames: int
    augmentation: Augmentation

    def clips(self, video: Video, item: Item) -> list[Clip]:
        starts = usable_length(video.frames) - self.clip_frames + 1
        return [Clip(int(generator(self.seed, "clip start", *item).integers(starts)))]

    def views(self, item: Item, count: int, height: int, width: int) -> tuple[View, ...]:
        rng = generator(self.seed, "augmentation", *item)
        return tuple(draw_training_view(rng, self.augmentation, height=height, width=width) for _ in range(count))


@dataclass(frozen=True, kw_only=True)
class EvenClips(_WithoutFixation):
    """Evaluation: clips spread evenly over the video, without mask or augmentation."""

    clip_frames: int
    num_clips: int
    crop: int
    seed: int = 0
    """Of the jitter."""
    jitter_probability: float = 0.0
    """Chance that a clip's colours are jittered all the same, as in the release."""

    def clips(self, video: Video, item: Item) -> list[Clip]:
        length = usable_length(video.frames)
        return [Clip(s) for s in even_starts(length=length, clip_frames=self.clip_frames, clips=self.num_clips)]

    def views(self, item: Item, count: int, height: int, width: int) -> tuple[View, ...]:
        rng = generator(self.seed, "test jitter", *item)
        jitters = (draw_jitter(rng, self.jitter_probability, TEST_JITTER) for _ in range(count))
        return tuple(centre_view(height=height, width=width, crop=self.crop, jitter=jitter) for jitter in jitters)


class VideoClips(Dataset[Sample]):
    """Clips of a list of videos, chosen by a `ClipChooser`; indexed by `Item`."""

    def __init__(self, videos: Sequence[Video], chooser: ClipChooser) -> None:
        self.videos = tuple(videos)
        self.chooser = chooser

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: Item) -> Sample:
        video = self.videos[item.video]
        clips = self.chooser.clips(video, item)
        wanted = np.array([range(clip.start, clip.start + self.chooser.clip_frames) for clip in clips])
        distinct, positions = np.unique(wanted, return_inverse=True)
        frames = as_frames(video.read(distinct.tolist()))
        cells = [clip.cell for clip in clips if clip.cell is not None]
        masks = torch.from_numpy(np.stack([self.chooser.mask(cell) for cell in cells])) if cells else None
        height, width = frames.shape[-2:]
        return Sample(
            index=item.video,
            frames=frames,
            positions=torch.from_numpy(positions.reshape(wanted.shape)),
            views=self.chooser.views(item, len(clips), height, width),
            masks=masks,
        )


def epoch_batches(
    num_videos: int, batch_size: int, *, seed: int, first_step: int, last_step: int
) -> Iterator[list[Item]]:
    """Items of the training steps `first_step` to `last_step - 1`, counted from 0 over the whole training.

    Every epoch has its own order of the videos; what is left after its last full batch is dropped.
    """
    steps = num_videos // batch_size
    for epoch in range(first_step // steps + 1, (last_step - 1) // steps + 2):
        order = generator(seed, "order", epoch).permutation(num_videos)
        for place in range(steps):
            if first_step <= (epoch - 1) * steps + place < last_step:
                yield [Item(epoch, int(i)) for i in order[place * batch_size : (place + 1) * batch_size]]


class _Mistakes(Dataset[Sample | DataError]):
    """Hands over a user's mistake as a value: raised in a worker, it would arrive as a traceback of many lines."""

    def __init__(self, dataset: VideoClips) -> None:
        self._dataset = dataset

    def __getitem__(self, item: Item) -> Sample | DataError:
        try:
            return self._dataset[item]
        except DataError as error:
            return error
        except MemoryError:
            return DataError(
                f"{self._dataset.videos[item.video].name}: there is no memory for its frames; lower engine.workers or "
                "pretrain.batch_size, or ask for more memory; then resume the run"
            )


def _as_it_is(sample: Any) -> Any:
    return sample  # videos differ in frame size, so nothing is stacked


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one process a core already; OpenCV would take all cores in each
    keep_freed_memory()


def make_loader(
    dataset: VideoClips,
    batches: Iterable[list[Item]],
    workers: int,
    patience_sec: float = math.inf,
    *,
    pinned: bool = False,
) -> Iterator[list[Sample]]:
    """Give one list of samples for each of `batches`, decoded by `workers` processes.

    Workers take one video at a time and are ahead by a batch between them: were each at batches of its own, as many
    batches of frames would lie in memory as there are workers, twice.

    Args:
        dataset: The videos.
        batches: What is wanted of them.
        workers: Processes that decode; 0: this one does.
        patience_sec: How long a video may take to come.
        pinned: Put frames and masks in pinned memory, for a GPU.

    Raises:
        DataError: A video is unreadable; the same line, whichever process has read it.
        WorkerError: A worker has died, or has not handed over a video for `patience_sec`.
    """
    coming = iter(batches)
    first = next(coming, None)
    if first is None:
        return
    items = _Items(chain([first], coming))
    with quiet_about_cores():
        loader = DataLoader(
            _Mistakes(dataset),
            batch_size=None,
            sampler=items,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_start_worker,
            pin_memory=pinned,
            prefetch_factor=max(2, -(-len(first) // workers)) if workers else None,
            timeout=POLL_SEC if workers else 0,
            # A private generator: the loader would otherwise draw from torch's global one.
            generator=torch.Generator(),
        )
    samples: list[Sample] = []
    for sample in watched(loader, patience_sec, lambda: dataset.videos[items.begun[0].video].name):
        if isinstance(sample, DataError):
            raise sample
        items.begun.popleft()
        samples.append(sample)
        if len(samples) == items.sizes[0]:
            items.sizes.popleft()
            yield samples
            samples = []


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
