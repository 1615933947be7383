"""A batch at once, as GPUs want it, against the plain path one clip after the other."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.gaze.masks import fixation_mask
from saccade.rng import Draws
from saccade.spec import AugmentationSpec
from saccade.transforms import Augmentation, Crop, Jitter, View, apply_view, draw_training_view
from saccade.transforms_gpu import apply_views, table_of

AUGMENTATION = Augmentation(**AugmentationSpec().model_dump())
SAME = 2e-5
"""Largest difference of masks to the plain path."""
STEP = 1 / 255
"""What pixels differ by where last bits round a byte to the other side; colour changes make more of it."""


def smooth_frames(count: int, height: int, width: int, seed: int) -> Tensor:
    """uint8 [T, 3, H, W], channels last in memory: colours that change over some pixels, with grey, black and white."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((count, 3, height // 6 + 2, width // 6 + 2)))
    pixels = torch.nn.functional.interpolate(coarse, [height, width], mode="bicubic").clamp(0, 1).mul(255).byte()
    pixels[:, :, : height // 4] = pixels[:, :1, : height // 4]  # no hue
    pixels[:, :, -4:-2], pixels[:, :, -2:] = 0, 255
    return pixels.contiguous(memory_format=torch.channels_last)


def plain(frames: Tensor, view: View, size: int) -> Tensor:
    """[T, 3, size, size] of torchvision: crop and resize in float32, as it does them on a GPU, then in bytes."""
    small, _ = apply_view(frames.float(), None, View(view.crop, view.flip), size=size)
    small = (small.transpose(0, 1) * 255).round().clamp(0, 255).byte()
    seen, _ = apply_view(small, None, view._replace(crop=Crop(0, 0, size, size), flip=False), size=size)
    return seen.transpose(0, 1)


def ties(frames: Tensor, view: View, size: int) -> float:
    """Part of the scaled bytes that lie halfway between two, as all along an edge of black and white may."""
    exact, _ = apply_view(frames.double(), None, View(view.crop, view.flip), size=size)
    return float(((255 * exact) % 1 - 0.5).abs().lt(1e-4).float().mean())


def drawn_views(count: int, height: int, width: int, **chances: float) -> list[View]:
    draws = Draws(count, "test")
    augmentation = replace(AUGMENTATION, **chances)
    return [draw_training_view(draws, augmentation, height=height, width=width) for _ in range(count)]


def assert_same_clips(videos: Sequence[Sequence[Tensor]], views: Sequence[View], size: int) -> None:
    """Each clip as the plain path has it; of its bytes one in five hundred may be the next one, and those of ties."""
    seen, masks = apply_views(videos, None, table_of(views, size), size=size)
    clips = [clip for video in videos for clip in video]
    assert masks is None
    assert seen.dtype == torch.float32
    assert seen.shape == (len(clips), len(clips[0]), 3, size, size)
    for own, clip, view in zip(seen, clips, views, strict=True):
        away = (own - plain(clip, view, size)).abs()
        assert float(away.mean()) < STEP * (1 / 500 + ties(clip, view, size))
        assert float(away.max()) < 5 * STEP


CHANCES = {
    "neither": {"jitter_probability": 0.0, "blur_probability": 0.0},
    "colours": {"jitter_probability": 1.0, "blur_probability": 0.0},
    "blur": {"jitter_probability": 0.0, "blur_probability": 1.0},
    "both": {"jitter_probability": 1.0, "blur_probability": 1.0},
    "as drawn": {},
}


@pytest.mark.parametrize("chances", CHANCES.values(), ids=CHANCES)
@pytest.mark.parametrize(("height", "width", "size"), [(256, 340, 112), (48, 64, 56), (17, 23, 32)])
def test_views_as_they_are_drawn(height: int, width: int, size: int, chances: dict[str, float]) -> None:
    frames = smooth_frames(6, height, width, seed=1)
    videos = [[frames[first : first + 3] for first in (0, 3, 1)], [frames[first : first + 3] for first in (2, 1, 0)]]
    assert_same_clips(videos, drawn_views(6, height, width, **chances), size)


def test_videos_of_different_sizes() -> None:
    shapes = [(40, 60), (90, 51), (24, 24)]
    videos = [[smooth_frames(2, *shape, seed=seed) for seed in (1, 2)] for shape in shapes]
    views = [view for shape in shapes for view in drawn_views(2, *shape)]
    assert_same_clips(videos, views, 24)


@pytest.mark.parametrize("first", range(4))
def test_each_change_alone_and_in_each_place(first: int) -> None:
    """All 24 orders, six a time, beside a clip without any; factors that clip, turn colours round or do nothing."""
    factors = [(0.6, 1.4, 0.6, 0.1), (1.4, 0.6, 1.4, -0.1), (1.0, 1.0, 1.0, 0.0), (1.8, 0.0, 2.0, 0.5)]
    others = [which for which in range(4) if which != first]
    orders = [(first, *(others[i:] + others[:i])[:: 1 if way else -1]) for i in range(3) for way in (0, 1)]
    views = [View(Crop(2, 3, 30, 40), jitter=Jitter(factors[n % 4], order)) for n, order in enumerate(orders)]
    views.insert(4, View(Crop(0, 0, 48, 64)))
    assert len({view.jitter.order for view in views if view.jitter}) == 6
    frames = smooth_frames(2, 48, 64, seed=3)
    assert_same_clips([[frames] * 7], views, 28)


@pytest.mark.parametrize("sigma_px", [0.05, 0.3, 1.0, 2.5, 40.0])
def test_blurs_up_to_half_the_clip(sigma_px: float) -> None:
    frames = smooth_frames(2, 24, 32, seed=4)
    views = [View(Crop(0, 0, 24, 24), blur_sigma_px=sigma_px), View(Crop(0, 8, 24, 24))]
    for size in (15, 24):
        assert_same_clips([[frames, frames]], views, size)


def test_an_edge_between_black_and_white() -> None:
    """A cubic filter goes beyond both, which bytes cannot."""
    frames = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    frames[..., 7:] = 255
    frames = frames.contiguous(memory_format=torch.channels_last)
    assert_same_clips([[frames]], [View(Crop(0, 0, 16, 16))], 37)
    seen, _ = apply_views([[frames]], None, table_of([View(Crop(0, 0, 16, 16))], 37), size=37)
    assert float(seen.min()) == 0
    assert float(seen.max()) == 1


@pytest.mark.parametrize("size", [28, 112])
def test_masks_follow_crop_and_flip(size: int) -> None:
    shapes = [(256, 341), (90, 60)]
    cells = [(0, 33, 71), (99, 5, 60)]
    views = [view for shape in shapes for view in drawn_views(3, *shape)]
    masks = [
        torch.from_numpy(np.stack([fixation_mask(cell, grid_num=12, margin_h=6) for cell in row])) for row in cells
    ]
    videos = [[smooth_frames(1, *shape, seed=5)] * 3 for shape in shapes]
    _, seen = apply_views(videos, masks, table_of(views, size), size=size)
    assert seen is not None
    assert seen.shape == (6, 1, size, size)
    for n, view in enumerate(views):
        _, expected = apply_view(videos[n // 3][n % 3], masks[n // 3][n % 3][None], view, size=size)
        torch.testing.assert_close(seen[n], expected, atol=SAME, rtol=0)
