"""What `transforms.apply_view` does, for all clips of a batch at once: for GPUs, which no clip keeps busy by itself.

All numbers of a batch go there in one piece, so that the host never waits, and the kernels that it has to start do not
grow with the clips. Crops, flips and scaling are products with a matrix for each axis, and so is the blur; the colour
changes come in another order for each clip, so in each of the four turns clips are sorted by what is their turn.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saccade.transforms import View

__all__ = ["ViewTable", "apply_views", "table_of"]

_TURNS, _NOTHING = 4, 4
_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in torchvision's grey."""


@dataclass(frozen=True)
class ViewTable:
    """How the N clips of a batch are seen, as two tensors that can be sent to a device."""

    numbers: Tensor
    """float32 `[N, 11]`: crop (top, left, height, width), 1 if mirrored, the blur's sigma and radius, four factors."""
    order: Tensor
    """int64 `[5, N]`: how to sort the clips for each turn of colour changes, beginning as the last left them, and at
    last back into their own order."""
    counts: tuple[tuple[int, ...], ...]
    """How many clips have brightness, contrast, saturation, hue and nothing in each turn."""


def table_of(views: Sequence[View], size: int) -> ViewTable:
    """The numbers of a batch's views, for clips of `size` px."""
    rows, changes = [], []
    for view in views:
        sigma = view.blur_sigma_px
        radius = 0 if sigma is None else min(max(1, math.ceil(3 * sigma)), size // 2)
        factors = view.jitter.factors if view.jitter else (1.0, 1.0, 1.0, 0.0)
        rows.append([*view.crop, view.flip, sigma or 1.0, radius, *factors])
        changes.append(view.jitter.order if view.jitter else (_NOTHING,) * _TURNS)
    present, order, counts = np.arange(len(views)), [], []
    for turn in np.array(changes).T:
        sort = np.argsort(turn[present], kind="stable")
        present = present[sort]
        order.append(sort)
        counts.append(tuple(np.bincount(turn, minlength=_NOTHING + 1).tolist()))
    order.append(np.argsort(present))
    return ViewTable(torch.tensor(rows, dtype=torch.float32), torch.from_numpy(np.stack(order)), tuple(counts))


def apply_views(
    clips: Sequence[Sequence[Tensor]], masks: Sequence[Tensor] | None, table: ViewTable, *, size: int
) -> tuple[Tensor, Tensor | None]:
    """Make the encoder's input of a batch.

    Args:
        clips: For each of B videos its V clips, uint8 `[T, 3, H, W]`; H and W of a video are the same.
        masks: For each video the fixation masks of its clips on the mask plane, `[V, h, w]` in [0, 1], or None.
        table: How to see them, its tensors on the same device.
        size: Side of the result, px.

    Returns:
        The clips, float32 `[B * V, T, 3, size, size]` in [0, 1], and their masks `[B * V, 1, size, size]`, which follow
        crop and flip only.
    """
    shapes = [video[0].shape[-2:] for video in clips]
    with _full_precision():
        axes = _axes(table.numbers, shapes, size, cubic=True)
        small = torch.cat([_small(video, *own) for video, own in zip(clips, axes, strict=True)])
        seen = _blurred(_coloured(small, table), table.numbers)
        return seen, None if masks is None else _small_masks(masks, table.numbers, shapes, size)


@contextmanager
def _full_precision() -> Iterator[None]:
    """TF32 has steps of a quarter where pixels have 255."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


# Geometry ------------------------------------------------------------------------------------------------------------


def _small(video: Sequence[Tensor], vertical: Tensor, horizontal: Tensor) -> Tensor:
    """A video's clips cropped, mirrored and scaled: `[V, T, 3, size, size]` in [0, 1], in steps of 1 / 255."""
    frames = torch.stack(list(video)).float()
    wide = (frames.flatten(1, 3) @ horizontal.mT).view(*frames.shape[:4], -1)
    return (vertical[:, None, None] @ wide).round_().clamp_(0, 255).div_(255)


def _small_masks(masks: Sequence[Tensor], numbers: Tensor, shapes: Sequence[torch.Size], size: int) -> Tensor:
    """Masks `[V, h, w]` of each video brought to the size of its frames, then seen as its clips: `[N, 1, S, S]`."""
    pairs = {
        pair for video, shape in zip(masks, shapes, strict=True) for pair in zip(video.shape[1:], shape, strict=True)
    }
    enlarged = {(have, full): _whole_scaling(have, full, numbers) for have, full in pairs}
    seen = []
    for video, shape, axes in zip(masks, shapes, _axes(numbers, shapes, size, cubic=False), strict=True):
        ends = zip(axes, video.shape[1:], shape, strict=True)
        vertical, horizontal = (axis @ enlarged[have, full] for axis, have, full in ends)
        seen.append(vertical @ video.float() @ horizontal.mT)
    return torch.cat(seen)[:, None]


def _axes(numbers: Tensor, shapes: Sequence[torch.Size], size: int, *, cubic: bool) -> list[tuple[Tensor, Tensor]]:
    """For each video matrices `[V, size, H]` and `[V, size, W]` that crop and scale; the second also mirrors."""
    top, left, height, width, mirrored = numbers.T[:5]
    vertical = _scaling(top, height, max(shape[0] for shape in shapes), size, cubic=cubic)
    horizontal = _scaling(left, width, max(shape[1] for shape in shapes), size, cubic=cubic)
    horizontal = torch.where(mirrored[:, None, None] > 0, horizontal.flip(1), horizontal)
    both = zip(vertical.chunk(len(shapes)), horizontal.chunk(len(shapes)), shapes, strict=True)
    return [(down[..., : shape[0]], across[..., : shape[1]]) for down, across, shape in both]


def _whole_scaling(have: int, full: int, like: Tensor) -> Tensor:
    """A matrix `[full, have]` that scales all of an axis."""
    zero = like.new_zeros(1)
    return _scaling(zero, zero + have, have, full)[0]


def _scaling(first: Tensor, length: Tensor, extent: int, size: int, *, cubic: bool = False) -> Tensor:
    """Matrices `[V, size, extent]` that scale `length` px from `first` on to `size` px, as torchvision with antialias.

    A pixel's weight falls with its distance from the place that is looked at, over two pixels (cubic, a = -0.5) or one
    of whichever are larger, its own or those that come of it.
    """
    first, length = first[:, None, None], length[:, None, None]
    scale = length / size
    pixel = torch.arange(extent, device=first.device) + 0.5
    place = first + (torch.arange(size, device=first.device)[:, None] + 0.5) * scale
    away = ((pixel - place) / scale.clamp(min=1)).abs()
    if cubic:
        near, far = (1.5 * away - 2.5) * away**2 + 1, ((2.5 - 0.5 * away) * away - 4) * away + 2
        weight = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    else:
        weight = (1 - away).clamp(min=0)
    weight = weight * ((pixel > first) & (pixel < first + length))
    return weight / weight.sum(dim=2, keepdim=True)


# Colour --------------------------------------------------------------------------------------------------------------


def _coloured(clips: Tensor, table: ViewTable) -> Tensor:
    """Clips `[N, T, 3, S, S]` with their changes of colour, each in its own order."""
    factors = table.numbers[:, 7:]
    if all(turn[_NOTHING] == len(clips) for turn in table.counts):
        return clips
    for sort, counts in zip(table.order[:_TURNS], table.counts, strict=True):
        factors = factors[sort]
        parts = zip(
            torch.split(clips[sort], list(counts)), torch.split(factors, list(counts)), range(_NOTHING + 1), strict=True
        )
        clips = torch.cat([_changed(part, own, which) for part, own, which in parts])
    return clips[table.order[_TURNS]]


def _changed(clips: Tensor, factors: Tensor, which: int) -> Tensor:
    """One of torchvision's changes by the factors of each clip: brightness, contrast, saturation, hue; or none."""
    if which == _NOTHING or not len(clips):
        return clips
    factors = factors[:, which].view(-1, 1, 1, 1, 1)
    if which == 0:
        return (clips * factors).clamp_(0, 1)
    if which == 3:
        return _with_hue(clips, factors)
    red, green, blue = clips.unbind(2)
    grey = (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue)[:, :, None]
    if which == 1:
        grey = grey.mean(dim=(3, 4), keepdim=True)
    return (clips * factors + grey * (1 - factors)).clamp_(0, 1)


def _with_hue(clips: Tensor, turns: Tensor) -> Tensor:
    """Hues turned by a part of the circle; saturation and value (of HSV) stay."""
    low, high = clips.aminmax(dim=2)
    grey = low == high
    red, green, blue = ((high[:, :, None] - clips) / torch.where(grey, 1.0, high - low)[:, :, None]).unbind(2)
    sixth = torch.where(clips[:, :, 1] == high, 2 + red - blue, 4 + green - red)
    sixth = torch.where(clips[:, :, 0] == high, blue - green, sixth) + 6 * turns[:, 0]
    channels = []
    for begin in (5, 3, 1):  # red, green, blue
        place = (sixth + begin).remainder(6)
        channels.append(high - (high - low) * torch.minimum(place, 4 - place).clamp_(0, 1))
    return torch.stack(channels, dim=2)


def _blurred(clips: Tensor, numbers: Tensor) -> Tensor:
    """Clips `[N, T, 3, S, S]` with Gaussian blurs; beyond an edge are its neighbours mirrored, the edge once."""
    size = clips.shape[-1]
    sigma, radius = numbers[:, 5, None, None], numbers[:, 6, None, None]
    at = torch.arange(size, device=clips.device)
    shift = (at - at[:, None])[None]

    def weight(away: Tensor) -> Tensor:
        return torch.where(away.abs() <= radius, torch.exp(-0.5 * (away / sigma) ** 2), 0.0)

    beyond_first = torch.where(at > 0, weight(-at - at[:, None]), 0.0)
    beyond_last = torch.where(at < size - 1, weight(2 * (size - 1) - at - at[:, None]), 0.0)
    kernel = weight(shift) + beyond_first + beyond_last
    kernel = kernel / kernel.sum(dim=2, keepdim=True)
    wide = (clips.flatten(1, 3) @ kernel.mT).view_as(clips)
    return kernel[:, None, None] @ wide
