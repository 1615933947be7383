"""The input pipeline that others are measured against: in the style of the public release, straightforward.

Each clip is by itself: its frames are decoded by Pillow, and each frame is cropped, resized, mirrored, coloured and
blurred as a Pillow picture, then made a tensor and normalised.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from saccade.datasets.clips import ClipChooser, Item
from saccade.datasets.frames import list_frames
from saccade.datasets.layout import Video
from saccade.transforms import IMAGENET_MEAN, IMAGENET_STD, View

__all__ = ["release_sample"]


def release_sample(video: Video, chooser: ClipChooser, item: Item, size: int) -> tuple[Tensor, Tensor]:
    """The clips of a video `[V, 3, T, size, size]` and their masks `[V, 1, size, size]`."""
    names = list_frames(video.frame_dir)
    with Image.open(video.frame_dir / names[0]) as picture:
        width, height = picture.size
    clips = chooser.clips(video, item)
    views = chooser.views(item, len(clips), height, width)
    tensors, masks = [], []
    for clip, view in zip(clips, views, strict=True):
        paths = [video.frame_dir / name for name in names[clip.start : clip.start + chooser.clip_frames]]
        tensors.append(_clip(paths, view, size))
        assert clip.cell is not None
        mask = Image.fromarray(255 * chooser.mask(clip.cell)).resize((width, height), Image.Resampling.BILINEAR)
        masks.append(_tensor(_seen(mask, view, size, Image.Resampling.BILINEAR)))
    return torch.stack(tensors), torch.stack(masks)


def _clip(paths: Sequence[Path], view: View, size: int) -> Tensor:
    frames = []
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for path in paths:
        with Image.open(path) as file:
            picture = _seen(file.convert("RGB"), view, size, Image.Resampling.BICUBIC)
        if view.jitter is not None:
            for which in view.jitter.order:
                picture = _coloured(picture, which, view.jitter.factors[which])
        if view.blur_sigma_px is not None:
            picture = picture.filter(ImageFilter.GaussianBlur(view.blur_sigma_px))
        frames.append((_tensor(picture) - mean) / std)
    return torch.stack(frames, dim=1)


def _seen(picture: Image.Image, view: View, size: int, how: Image.Resampling) -> Image.Image:
    top, left, height, width = view.crop
    picture = picture.crop((left, top, left + width, top + height)).resize((size, size), how)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else picture


def _coloured(picture: Image.Image, which: int, factor: float) -> Image.Image:
    if which < 3:
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        return enhancers[which](picture).enhance(factor)
    hue, saturation, value = picture.convert("HSV").split()
    shifted = np.asarray(hue) + np.uint8(round(factor * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def _tensor(picture: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture))
    pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    return pixels.contiguous().float().div(255)
