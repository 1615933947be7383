"""G-Eymol for many videos in lockstep, on a GPU: the gaze of `saccade.gaze.geymol`, computed in batches.

Shapes: B videos of one frame size, scaled frames of h x w px.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.gaze.detail import GABOR_RADIUS_PX, MAPS, SOBEL_PX, gabor_kernels
from saccade.gaze.geymol import (
    ALPHA,
    EDGE_PX,
    STEP_FRAMES,
    STEPS,
    attraction,
    coast,
    inhibited,
    inhibition_period,
    start,
    window_half,
)

__all__ = ["GazeBatch", "detail_maps_batch"]

_GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in OpenCV's grey."""


def _mirrored(planes: Tensor, border: int) -> Tensor:
    return F.pad(planes, (border, border, border, border), mode="reflect")


def _gabor_maps(grey: Tensor) -> Tensor:
    """Grey `[B, 1, h, w]` through the four filters, `[B, 4, h, w]`, as whole numbers from 0 to 255."""
    padded = _mirrored(grey, GABOR_RADIUS_PX)
    size, border = padded.shape[-2:], 2 * GABOR_RADIUS_PX
    spectra = torch.fft.rfft2(torch.from_numpy(gabor_kernels()).to(grey.device), s=size)
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded) * spectra, s=size)
    maps: Tensor = filtered[..., border:, border:].round().clamp(0, 255)
    return maps


def _sobel_kernels(device: torch.device) -> Tensor:
    """Gradient along columns and along rows, `[2, 1, 5, 5]`."""
    slope = torch.tensor([-1.0, -2.0, 0.0, 2.0, 1.0], device=device)
    smooth = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=device)
    return torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)]).unsqueeze(1)


def detail_maps_batch(frames: Tensor) -> Tensor:
    """Detail maps `[B, 8, h, w]` of scaled RGB frames `[B, h, w, 3]`, unsigned bytes."""
    colours = frames.permute(0, 3, 1, 2).float() / 255
    grey = (colours * torch.tensor(_GREY, device=frames.device).view(3, 1, 1)).sum(1, keepdim=True)
    features = _mirrored(torch.cat([colours, grey, _gabor_maps(grey)], dim=1), SOBEL_PX // 2)
    gradients = F.conv2d(features.flatten(0, 1).unsqueeze(1), _sobel_kernels(frames.device))
    return torch.hypot(gradients[:, 0], gradients[:, 1]).view(len(frames), MAPS, *grey.shape[2:])


class GazeBatch:
    """Gazes that follow a video each, frame by frame."""

    def __init__(
        self, height: int, width: int, *, rngs: Sequence[np.random.Generator], fps: float, device: torch.device
    ) -> None:
        """Begin on scaled frames of `height` x `width` px, with a source of place and speed for each video."""
        states = torch.from_numpy(np.stack([start(rng, height, width) for rng in rngs])).to(device)
        self._place, self._speed = states.unbind(1)
        self._size = torch.tensor([height, width], device=device)
        self._pull = torch.from_numpy(attraction(height, width)).to(device)
        self._half = window_half(height, width)
        self._inhibition = np.zeros((len(rngs), height, width), np.float32)
        self._free = torch.ones((len(rngs), 1, height, width), device=device)
        self._period, self._frames = inhibition_period(fps), 0

    def look(self, frames: Tensor) -> Tensor:
        """Go on through a frame of each video, `[B, h, w, 3]`, and say where the gazes are then, `[B, 2]`."""
        maps = detail_maps_batch(frames) * self._free
        for _ in range(STEPS):
            ahead = self._place + self._speed * (STEP_FRAMES / 2)
            way, self._speed = coast(self._speed, self._acceleration(maps, ahead), STEP_FRAMES)
            self._place = self._place + way
        self._place = self._inside(self._place, EDGE_PX)
        self._frames += 1
        if self._frames % self._period == 0:
            self._inhibit()
        return self._place

    def _inside(self, places: Tensor, margin: int = 0) -> Tensor:
        margins = ((self._size - 1) // 2).clamp(max=margin)
        return torch.minimum(torch.maximum(places, margins), self._size - 1 - margins)

    def _acceleration(self, maps: Tensor, places: Tensor) -> Tensor:
        """The pull of the maps `[B, 8, h, w]` on gazes at `[B, 2]`, `[B, 2]`."""
        height, width = maps.shape[-2:]
        at = self._inside(places).long()
        rows = torch.arange(height, device=maps.device) - at[:, :1]  # [B, h], offsets from the gaze
        columns = torch.arange(width, device=maps.device) - at[:, 1:]  # [B, w]
        highest = (maps * (columns.abs() <= self._half)[:, None, None, :]).amax(3)
        peaks = (highest * (rows.abs() <= self._half)[:, None, :]).amax(2)
        weights = ALPHA / torch.where(peaks == 0, 1, peaks)
        salience = torch.bmm(weights.unsqueeze(1), maps.flatten(2)).view(-1, height, width)
        pull = self._pull[:, rows[:, :, None] + height - 1, columns[:, None, :] + width - 1]
        return (pull * salience).sum((2, 3)).T.double()

    def _inhibit(self) -> None:
        places = self._place.tolist()
        self._inhibition = np.stack([inhibited(old, *at) for old, at in zip(self._inhibition, places, strict=True)])
        self._free = 1 - torch.from_numpy(self._inhibition).to(self._place.device).unsqueeze(1)
