"""Videos and choosers of clips for tests of both."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from saccade.datasets.clips import FirstViews, Sample, TrainingViews
from saccade.datasets.layout import Video
from saccade.gaze.scanpath import Fixation
from saccade.spec import AugmentationSpec
from saccade.transforms import Augmentation

FULL = Augmentation(**AugmentationSpec().model_dump())
GEOMETRY = replace(FULL, crop_area_min=0.3, jitter_probability=0.0, blur_probability=0.0)
# No square of the whole area fits into a wide frame: always the centre square.
PLAIN = replace(GEOMETRY, crop_area_min=1.0, crop_aspect_max=1.0, flip_probability=0.0)
ROWS = (Fixation(10, 0, 10), Fixation(3, 30, 38), Fixation(48, 12, 12), Fixation(7, 20, 30))


def training_views(
    augmentation: Augmentation = PLAIN, *, seed: int = 5, frames: int = 8, focus: int = 3
) -> TrainingViews:
    return TrainingViews(
        seed=seed,
        clip_frames=frames,
        focus_num=focus,
        grid_num=7,
        deduplicate=True,
        margin_h=12,
        augmentation=augmentation,
    )


def first_views(*, seed: int = 5, frames: int = 8, focus: int = 3, crop: int = 16) -> FirstViews:
    return FirstViews(
        seed=seed, clip_frames=frames, focus_num=focus, grid_num=7, deduplicate=True, margin_h=12, crop=crop
    )


def video(frames: int = 40, rows: Sequence[Fixation] = ROWS, folder: Path = Path("nowhere")) -> Video:
    return Video("v", 0, folder, frames, tuple(rows))


def write_video(
    folder: Path, frames: int, height: int = 16, width: int = 20, rows: Sequence[Fixation] = (), first: int = 0
) -> Video:
    """A video whose every frame has one grey of its own, 3 more than that of the frame before."""
    folder.mkdir()
    for number in range(frames):
        picture = np.full((height, width, 3), first + 3 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return Video(folder.name, 0, folder, frames, tuple(rows))


def greys(sample: Sample) -> list[list[int]]:
    """Numbers of the frames that each clip of a `write_video` sample shows."""
    return [[round(int(frame[0, 0, 0]) / 3) for frame in sample.frames[span]] for span in sample.spans]


def assert_same_sample(one: Sample, other: Sample) -> None:
    assert one.index == other.index
    assert one.views == other.views
    assert one.spans == other.spans
    assert one.frames.stride() == other.frames.stride()
    for a, b in ((one.frames, other.frames), (one.masks, other.masks)):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
