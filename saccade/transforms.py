"""Geometry and colour of clips: what is drawn at random is separate from what is done with it.

`draw_training_view` and `centre_view` give a `View`, plain numbers that a data worker can send; `apply_view` turns
frames and a mask into the encoder's input on whatever device they are. Every number holds for all frames of a clip.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saccade import torchvision_shim
from saccade.rng import Draws

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "TEST_JITTER",
    "Augmentation",
    "Crop",
    "Jitter",
    "View",
    "apply_view",
    "centre_view",
    "draw_crop",
    "draw_jitter",
    "draw_training_view",
    "normalise",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TEST_JITTER = (0.2, 0.2, 0.2, 0.1)
"""Strengths of the colour jitter that the release gives some of its test clips."""

_CROP_ATTEMPTS = 10
_ADJUST = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
"""Of torchvision, in the order of `Jitter.factors`."""


class Crop(NamedTuple):
    """A rectangle of a frame, px."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges that training views are drawn from; fields as in `spec.AugmentationSpec`."""

    crop_area_min: float
    crop_aspect_max: float
    jitter_probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    blur_probability: float
    blur_sigma_min: float
    blur_sigma_max: float
    flip_probability: float


class Jitter(NamedTuple):
    """Colour changes: brightness, contrast and saturation factors, hue shift in turns, and the order to apply them."""

    factors: tuple[float, float, float, float]
    order: tuple[int, ...]


class View(NamedTuple):
    """How a clip is seen: which part of its frames, mirrored or not, with which colours and how sharp."""

    crop: Crop
    flip: bool = False
    jitter: Jitter | None = None
    blur_sigma_px: float | None = None


def draw_crop(draws: Draws, *, height: int, width: int, area_min: float, aspect_max: float) -> Crop:
    """A random-sized crop of a `height` x `width` frame: ten attempts, then the centre square of the short side.

    Args:
        draws: Where the numbers come from.
        height: Frame height, px.
        width: Frame width, px.
        area_min: Smallest part of the frame's area; the largest is 1.
        aspect_max: Aspect ratios are drawn from [1 / aspect_max, aspect_max], width and height swapped half the time.
    """
    for _ in range(_CROP_ATTEMPTS):
        area = draws.uniform(area_min, 1.0) * height * width
        aspect = draws.uniform(1 / aspect_max, aspect_max)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if draws.random() < 0.5:
            w, h = h, w
        if 0 < w <= width and 0 < h <= height:
            return Crop(draws.below(height - h + 1), draws.below(width - w + 1), h, w)
    return _centre(height, width, min(height, width))


def _centre(height: int, width: int, side: int) -> Crop:
    return Crop((height - side) // 2, (width - side) // 2, side, side)


def draw_jitter(draws: Draws, probability: float, strengths: tuple[float, float, float, float]) -> Jitter | None:
    """Draw whether a clip's colours change, and how.

    Args:
        draws: Where the numbers come from.
        probability: Chance that they do.
        strengths: Of brightness, contrast, saturation and hue, as in `spec.AugmentationSpec`.
    """
    if draws.random() >= probability:
        return None
    *factors, hue = strengths
    brightness, contrast, saturation = [draws.uniform(1 - factor, 1 + factor) for factor in factors]
    shift = draws.uniform(-hue, hue)
    return Jitter((brightness, contrast, saturation, shift), draws.order(4))


def draw_training_view(draws: Draws, augmentation: Augmentation, *, height: int, width: int) -> View:
    """Draw how a training clip of `height` x `width` px frames is seen."""
    a = augmentation
    crop = draw_crop(draws, height=height, width=width, area_min=a.crop_area_min, aspect_max=a.crop_aspect_max)
    jitter = draw_jitter(draws, a.jitter_probability, (a.brightness, a.contrast, a.saturation, a.hue))
    blur = None
    if draws.random() < a.blur_probability:
        blur = draws.uniform(a.blur_sigma_min, a.blur_sigma_max)
    return View(crop, draws.random() < a.flip_probability, jitter, blur)


def centre_view(*, height: int, width: int, crop: int, jitter: Jitter | None = None) -> View:
    """The evaluation view: the centre `crop` x `crop` px of a frame, or its short side where that is smaller."""
    return View(_centre(height, width, min(crop, height, width)), jitter=jitter)


def apply_view(frames: Tensor, mask: Tensor | None, view: View, *, size: int) -> tuple[Tensor, Tensor | None]:
    """Make the encoder's input of one clip.

    Args:
        frames: Frames of the clip, uint8 `[T, 3, H, W]`.
        mask: Its fixation mask on the mask plane, `[1, h, w]` in [0, 1], or None.
        view: What to do.
        size: Side of the result, px.

    Returns:
        The clip, float32 `[3, T, size, size]` in [0, 1], and its mask `[1, size, size]`, which follows crop and flip
        only.
    """
    tv = torchvision_shim.functional
    clip = _crop_and_flip(frames, view, size, "BICUBIC").float() / 255
    if view.jitter is not None:
        for which in view.jitter.order:
            clip = getattr(tv, _ADJUST[which])(clip, view.jitter.factors[which])
    if view.blur_sigma_px is not None:
        radius = min(max(1, math.ceil(3 * view.blur_sigma_px)), size // 2)
        clip = tv.gaussian_blur(clip, [2 * radius + 1] * 2, [view.blur_sigma_px] * 2)
    if mask is not None:
        height, width = frames.shape[-2:]
        mask = tv.resize(mask.float(), [height, width], tv.InterpolationMode.BILINEAR, antialias=True)
        mask = _crop_and_flip(mask, view, size, "BILINEAR")
    return clip.transpose(0, 1), mask


def _crop_and_flip(images: Tensor, view: View, size: int, interpolation: str) -> Tensor:
    tv = torchvision_shim.functional
    images = tv.resized_crop(images, *view.crop, [size, size], tv.InterpolationMode[interpolation], antialias=True)
    return tv.horizontal_flip(images) if view.flip else images


def normalise(
    clips: Tensor, mean: Sequence[float] | Tensor = IMAGENET_MEAN, std: Sequence[float] | Tensor = IMAGENET_STD
) -> Tensor:
    """Clips `[..., 3, T, H, W]` in [0, 1] to zero mean and unit deviation per channel."""
    centre, spread = (torch.as_tensor(each, dtype=clips.dtype, device=clips.device) for each in (mean, std))
    return (clips - centre.view(3, 1, 1, 1)) / spread.view(3, 1, 1, 1)


def as_frames(frames: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Tensor:
    """Decoded frames `[T, H, W, 3]` as a tensor `[T, 3, H, W]`, channels last in memory (torchvision's fast path)."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
