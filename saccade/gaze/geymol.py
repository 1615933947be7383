"""G-Eymol: the gaze as a mass that visual detail attracts, with inhibition of return.

Zanca, Melacci, Gori, "Gravitational Laws of Focus of Attention", TPAMI 2019, with the numbers of its public
implementation. Lengths are px of the scaled frame (`saccade.gaze.detail`), times are frames, places and speeds are
(row, column). This is the way for one video on one core; `saccade.gaze.geymol_batch` takes many at once on a GPU.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from saccade.gaze.detail import MAPS, Image, Maps, detail_maps

if TYPE_CHECKING:  # worker processes do without torch
    from torch import Tensor

__all__ = [
    "ALPHA",
    "EDGE_PX",
    "STEPS",
    "STEP_FRAMES",
    "Field",
    "Gaze",
    "attraction",
    "coast",
    "follow",
    "inhibited",
    "inhibition_period",
    "inside",
    "start",
    "window_half",
]

Vector = npt.NDArray[np.float64]
Motion = TypeVar("Motion", float, "Tensor")

ALPHA = 0.2 / MAPS
"""Weight of each detail map."""
STEPS = 8
"""Steps of the integration in a frame."""
STEP_FRAMES = 0.9 / STEPS
"""The release integrates each frame to t + 0.9."""
EDGE_PX = 5
"""The gaze keeps this far from the border."""

_DISSIPATION = 1.5
_SACCADES_PER_SECOND = 3
_START_PART = 0.17
"""The gaze starts at most this part of the shorter side away from the centre, in rows and in columns."""
_SLOWEST, _FASTEST = 0.6, 1.4
"""Of the speeds it starts with."""
_DISC_PX, _BLUR_PX, _FADING = 35, 51, 0.9
"""Inhibition of return: radius of the disc, side of the Gaussian that blurs it, and what is left of earlier ones."""


def window_half(height: int, width: int) -> int:
    """What pulls lies within this many rows and columns of the gaze: half a window as long as the longer side."""
    return max(height, width) // 2


@lru_cache(maxsize=8)
def attraction(height: int, width: int) -> Maps:
    """Pull (towards higher rows, higher columns) of detail by its offset from the gaze, `[2, 2h - 1, 2w - 1]`.

    Offset (0, 0) is at [h - 1, w - 1]; zero there, and outside the window. So the pull of all places of a frame on a
    gaze at (row, column) is the slice `[:, h - 1 - row : 2h - 1 - row, w - 1 - column : 2w - 1 - column]`.
    """
    half = window_half(height, width)
    tenth = (2 * half + 1) // 10
    offset = np.stack(np.meshgrid(np.arange(1 - height, height), np.arange(1 - width, width), indexing="ij"))
    pull = (tenth + 1) * offset / ((offset**2).sum(0) + tenth)
    return np.where(np.abs(offset).max(0) <= half, pull, 0).astype(np.float32)


def inside(place: float, size: int, margin: int = 0) -> float:
    """The place moved to at least `margin` px from both ends of an axis of `size` px, or to its middle."""
    margin = min(margin, (size - 1) // 2)
    return min(max(place, margin), size - 1 - margin)


class Field:
    """The pull of a frame's detail on a gaze anywhere in it."""

    def __init__(self, maps: Maps) -> None:
        """Take detail maps `[8, h, w]`, inhibition of return applied."""
        _, self._height, self._width = maps.shape
        self._maps, self._half = maps, window_half(self._height, self._width)
        flat = maps.reshape(MAPS, -1)
        highest = flat.argmax(1)
        self._peaks: Maps = flat[np.arange(MAPS), highest]
        self._peak_places = [divmod(place, self._width) for place in highest.tolist()]
        # A gaze goes on by fractions of a pixel, so that most of what it asks for in a frame has been asked for before.
        self._known: dict[tuple[int, int], tuple[float, float]] = {}
        self._known_salience: dict[bytes, Maps] = {}
        self._known_columns: dict[tuple[int, int, int], Maps] = {}

    def acceleration(self, row: float, column: float) -> tuple[float, float]:
        """The pull on a gaze at a place, px / frame ** 2; the same all over a pixel, as in the release."""
        pixel = int(inside(row, self._height)), int(inside(column, self._width))
        if pixel not in self._known:
            self._known[pixel] = self._at(*pixel)
        return self._known[pixel]

    def _at(self, row: int, column: int) -> tuple[float, float]:
        height, width = self._height, self._width
        towards = attraction(height, width)[
            :, height - 1 - row : 2 * height - 1 - row, width - 1 - column : 2 * width - 1 - column
        ]
        down, across = np.einsum("kij,ij->k", towards, self._salience(row, column)).tolist()
        return down, across

    def _salience(self, row: int, column: int) -> Maps:
        """All maps in one, `[h, w]`: each divided by its maximum within the window, and weighted."""
        half = self._half
        top, bottom = max(row - half, 0), min(row + half + 1, self._height)
        left, right = max(column - half, 0), column + half + 1
        peaks = self._peaks
        # Maps whose highest value lies outside the window
        others = [n for n, at in enumerate(self._peak_places) if abs(at[0] - row) > half or abs(at[1] - column) > half]
        if others:
            peaks = peaks.copy()
            for number in others:
                peaks[number] = self._columns(number, top, bottom)[left:right].max()
        key = peaks.tobytes()
        if key not in self._known_salience:
            self._known_salience[key] = self._weighted(peaks)
        return self._known_salience[key]

    def _columns(self, number: int, top: int, bottom: int) -> Maps:
        """The highest value of each column of a map within the rows [top, bottom), `[w]`."""
        key = number, top, bottom
        if key not in self._known_columns:
            self._known_columns[key] = self._maps[number, top:bottom].max(0)
        return self._known_columns[key]

    def _weighted(self, peaks: Maps) -> Maps:
        weights = np.divide(ALPHA, peaks, out=np.zeros_like(peaks), where=peaks != 0)
        salience: Maps = weights @ self._maps.reshape(MAPS, -1)
        return salience.reshape(self._height, self._width)


def coast(speed: Motion, acceleration: Motion, frames: float) -> tuple[Motion, Motion]:
    """Way and new speed after `frames` under a constant pull, with dissipation; the exact solution."""
    final = acceleration / _DISSIPATION
    left = math.exp(-_DISSIPATION * frames)
    return final * frames + (speed - final) * ((1 - left) / _DISSIPATION), final + (speed - final) * left


def start(rng: np.random.Generator, height: int, width: int) -> Vector:
    """Place and speed that a gaze begins with, `[2, 2]`."""
    reach = int(min(height, width) * _START_PART)
    place = np.array([height // 2, width // 2]) + rng.integers(-reach, reach, size=2, endpoint=True)
    return np.stack([place, rng.uniform(_SLOWEST, _FASTEST, size=2) * rng.choice([-1, 1], size=2)])


def inhibition_period(fps: float) -> int:
    """Frames from one update of the inhibition of return to the next."""
    return max(int(fps / _SACCADES_PER_SECOND), 1)


def inhibited(inhibition: Maps, row: float, column: float) -> Maps:
    """The inhibition `[h, w]`, from 0 to 1, after a gaze has rested at a place."""
    height, width = inhibition.shape
    blob = np.zeros((height, width), np.float32)
    centre = int(inside(column, width, _DISC_PX)), int(inside(row, height, _DISC_PX))
    cv2.circle(blob, centre, _DISC_PX, 1.0, cv2.FILLED)
    blob = np.asarray(cv2.GaussianBlur(blob, (_BLUR_PX, _BLUR_PX), 0), np.float32)
    together: Maps = np.minimum(np.float32(_FADING) * inhibition + blob / blob.max(), 1)
    return together


class Gaze:
    """A gaze that follows a video, frame by frame."""

    def __init__(self, height: int, width: int, *, rng: np.random.Generator, fps: float) -> None:
        """Begin on scaled frames of `height` x `width` px, of which there are `fps` a second."""
        (self._row, self._column), (self._row_speed, self._column_speed) = start(rng, height, width).tolist()
        self._inhibition = np.zeros((height, width), np.float32)
        self._free = 1 - self._inhibition
        self._period, self._frames = inhibition_period(fps), 0

    def look(self, maps: Maps) -> tuple[float, float]:
        """Go on through a frame, given as its detail maps, and say at which row and column the gaze is then."""
        field = Field(maps * self._free)
        for _ in range(STEPS):
            # The pull half-way stands for the pull all along, which makes the error of a step one of third order.
            half = STEP_FRAMES / 2
            down, across = field.acceleration(
                self._row + self._row_speed * half, self._column + self._column_speed * half
            )
            way, self._row_speed = coast(self._row_speed, down, STEP_FRAMES)
            self._row += way
            way, self._column_speed = coast(self._column_speed, across, STEP_FRAMES)
            self._column += way
        height, width = self._inhibition.shape
        self._row, self._column = inside(self._row, height, EDGE_PX), inside(self._column, width, EDGE_PX)
        self._frames += 1
        if self._frames % self._period == 0:
            self._inhibition = inhibited(self._inhibition, self._row, self._column)
            self._free = 1 - self._inhibition
        return self._row, self._column


def follow(frames: Iterable[Image], *, rng: np.random.Generator, fps: float) -> Vector:
    """Where the gaze is at the end of each frame of a video.

    Args:
        frames: Scaled RGB frames `[h, w, 3]`, at least one.
        rng: Source of place and speed at the start.
        fps: Frames in a second.

    Returns:
        Places `[T, 2]` as parts of height and width, from 0 to 1.
    """
    gaze, places, size = None, [], (0, 0)
    for frame in frames:
        if gaze is None:
            size = frame.shape[:2]
            gaze = Gaze(*size, rng=rng, fps=fps)
        places.append(gaze.look(detail_maps(frame)))
    return np.array(places) / size
