"""Clips of videos for the loader: which frames and how they are seen. Frames are decoded here, changed on the device.

Each dataset item is one video with its V clips; a frame that several of them use is decoded once. All draws come from
(seed, purpose, epoch, index), so an item is the same in whichever process and order it is made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from saccade.datasets.frames import Empty, frame_shape, new_array
from saccade.datasets.layout import Video
from saccade.engine.nvjpeg import decode_on_gpu
from saccade.gaze.fixations import choose_fixations, even_starts, usable_length, view_starts
from saccade.gaze.masks import PLANE_HEIGHT, PLANE_WIDTH, fixation_mask
from saccade.gaze.scanpath import Fixation
from saccade.rng import Draws, generator
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
    "Decoded",
    "EvenClips",
    "FirstViews",
    "Item",
    "RandomClip",
    "Sample",
    "TrainingViews",
    "VideoClips",
    "epoch_batches",
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
    """The distinct frames of all its clips, uint8 `[n, 3, H, W]`; or JPEG files of them, one after another, `[N]`."""
    spans: tuple[slice, ...]
    """Which of `frames` each clip has, V times T that follow one another."""
    views: tuple[View, ...]
    """How each clip is seen, V of them."""
    masks: Tensor | None
    """Fixation mask of each clip on the mask plane, uint8 `[V, 128, 171]`."""
    ends: tuple[int, ...] | None = None
    """Where each JPEG file of `frames` ends; None: they are decoded."""

    def pin_memory(self) -> "Sample":
        """The same where a GPU can fetch it from without the host waiting, or has it; the loader asks in a thread.

        Files that the GPU cannot decode stay what they are.
        """
        masks = None if self.masks is None else self.masks.pin_memory()
        if self.ends is None:
            return replace(self, frames=self.frames.pin_memory(), masks=masks)
        frames = decode_on_gpu(self.frames, self.ends)
        return self if frames is None else replace(self, frames=frames, masks=masks, ends=None)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A sample in arrays, which a worker makes without PyTorch; shapes as in `Sample`."""

    index: int
    views: tuple[View, ...]
    frames: npt.NDArray[np.uint8]
    """`[n, H, W, 3]`, or files `[N]`."""
    spans: tuple[slice, ...]
    masks: npt.NDArray[np.uint8] | None
    ends: tuple[int, ...] | None = None

    def sample(self) -> Sample:
        """The same in tensors, of the same memory."""
        return Sample(
            index=self.index,
            frames=as_frames(self.frames) if self.ends is None else torch.from_numpy(self.frames),
            spans=self.spans,
            views=self.views,
            masks=None if self.masks is None else torch.from_numpy(self.masks),
            ends=self.ends,
        )


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


_mask = cache(fixation_mask)  # A run has as many as there are cells, 22 KB each.


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
            rng=partial(generator, self.seed, "fixations", *item),
        )

    def mask(self, cell: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        return _mask(cell, grid_num=self.grid_num, margin_h=self.margin_h)


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
        draws = Draws(self.seed, "augmentation", *item)
        return tuple([draw_training_view(draws, self.augmentation, height=height, width=width) for _ in range(count)])


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
        draws = Draws(self.seed, "augmentation", *item)
        return tuple([draw_training_view(draws, self.augmentation, height=height, width=width) for _ in range(count)])


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
        draws = Draws(self.seed, "test jitter", *item)
        jitters = (draw_jitter(draws, self.jitter_probability, TEST_JITTER) for _ in range(count))
        return tuple(centre_view(height=height, width=width, crop=self.crop, jitter=jitter) for jitter in jitters)


class VideoClips(Dataset[Sample]):
    """Clips of a list of videos, chosen by a `ClipChooser`; indexed by `Item`."""

    def __init__(self, videos: Sequence[Video], chooser: ClipChooser) -> None:
        self.videos = tuple(videos)
        self.chooser = chooser

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: Item) -> Sample:
        return self.decode(item).sample()

    def decode(self, item: Item, empty: Empty = new_array, *, files: bool = False) -> Decoded:
        """The clips of a video, frames and masks in memory that `empty` gives.

        Args:
            item: Which.
            empty: Gives memory.
            files: Leave frames as JPEG files, for a GPU to decode.

        Raises:
            DataError: A frame is unreadable; names it.
        """
        video = self.videos[item.video]
        clips, count = self.chooser.clips(video, item), self.chooser.clip_frames
        # Between two videos the processor's caches are full of frames: what is loaded anew for NumPy's own way takes
        # ten times as long as its work.
        distinct = sorted({number for clip in clips for number in range(clip.start, clip.start + count)})
        if files:
            frames, ends, size = _joined(video, distinct, empty)
        else:
            frames = video.read(distinct, empty)
            ends, size = None, frames.shape[1:3]
        firsts = [distinct.index(clip.start) for clip in clips]
        cells = [clip.cell for clip in clips if clip.cell is not None]
        masks = empty((len(cells), PLANE_HEIGHT, PLANE_WIDTH)) if cells else None
        for row, cell in enumerate(cells):
            masks[row] = self.chooser.mask(cell)  # type: ignore[index]
        return Decoded(
            index=item.video,
            views=self.chooser.views(item, len(clips), *size),
            frames=frames,
            spans=tuple([slice(first, first + count) for first in firsts]),
            masks=masks,
            ends=ends,
        )

    def bytes_at_most(self, item: Item) -> int:
        """Of a sample of as many clips, with masks, were they to share no frame.

        Raises:
            DataError: The video's first frame is unreadable, whose size counts.
        """
        video = self.videos[item.video]
        clips, frames = len(self.chooser.clips(video, item)), self.chooser.clip_frames
        return clips * (frames * video.read([0]).nbytes + PLANE_HEIGHT * PLANE_WIDTH)


def _joined(
    video: Video, numbers: Sequence[int], empty: Empty
) -> tuple[npt.NDArray[np.uint8], tuple[int, ...], tuple[int, int]]:
    """JPEG files of frames one after another, where each ends, and height and width of the first."""
    files = video.files(numbers)
    ends = tuple(accumulate(map(len, files)))
    joined = empty((ends[-1],))
    for file, end in zip(files, ends, strict=True):
        joined[end - len(file) : end] = np.frombuffer(file, np.uint8)
    return joined, ends, frame_shape(files[0], video.name)[:2]


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
