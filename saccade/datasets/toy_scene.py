"""What the toy looks like: textured backgrounds, textured things with soft edges, and the drawing of a frame.

Images are float32 `[height, width, 3]` in [0, 1], RGB.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from saccade.datasets.toy_motion import Trajectory, draw_trajectory

__all__ = ["Scene", "draw_scene", "faint", "paint"]

Image = npt.NDArray[np.float32]

_THINGS = 4
_CLUTTER = 0.35
"""How much the background and the still things stand out; the mover alone stands out fully."""
_CANDIDATES = 12
"""Places tried for each thing, of which the one farthest from the others is taken."""
_PATCH_PX = 72
_PATCH_RADIUS_PX = 27.0
"""Mean radius of a thing in its patch; drawn at up to this size, so that it never has to be blown up."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Background and things of some videos."""

    background: Image
    """`[height, width, 3]`"""
    things: tuple[Image, ...]
    """RGBA patches, colour premultiplied by alpha, `[P, P, 4]`; a thing's mean radius in it is 17 px."""
    places: tuple[Trajectory, ...]
    """Where each thing stands while another one moves, arrays of one frame."""


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Image:
    """Noise in about [-1, 1] whose blobs are about 1 / `cells` of the height."""
    coarse = rng.uniform(-1, 1, size=(cells + 2, max(cells * width // height, 1) + 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Image:
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]], dtype=np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])


def _background(rng: np.random.Generator, height: int, width: int) -> Image:
    blobs = sum(
        weight * _smooth_noise(rng, height, width, cells)
        for cells, weight in ((2, 0.5), (5, 0.3), (12, 0.2), (24, 0.12))
    )
    blend = np.clip(0.5 + blobs, 0, 1)[..., None]
    dark, light = _colour(rng, (0.15, 0.45), (0.25, 0.4)), _colour(rng, (0.1, 0.35), (0.55, 0.75))
    return faint(np.asarray(dark + (light - dark) * blend, dtype=np.float32))


def faint(image: Image) -> Image:
    """An RGB or premultiplied RGBA image with little contrast, for what does not move."""
    alpha = image[..., 3:] if image.shape[-1] == 4 else np.ones_like(image[..., :1])
    colours = _CLUTTER * image[..., :3] + (1 - _CLUTTER) * 0.45 * alpha
    return np.concatenate([colours, image[..., 3:]], axis=-1)


def _pattern(rng: np.random.Generator) -> Image:
    """A texture in [0, 1]: stripes, spots, rings or blobs, bent by smooth noise."""
    axis = (np.arange(_PATCH_PX, dtype=np.float32) - (_PATCH_PX - 1) / 2) / _PATCH_RADIUS_PX
    x, y = np.meshgrid(axis, axis)
    x = x + 0.25 * _smooth_noise(rng, _PATCH_PX, _PATCH_PX, 5)
    y = y + 0.25 * _smooth_noise(rng, _PATCH_PX, _PATCH_PX, 5)
    frequency = rng.uniform(5.0, 8.5)
    kind = int(rng.integers(4))
    if kind == 0:
        wave = np.sin(frequency * y)
    elif kind == 1:
        wave = np.sin(frequency * 0.8 * x) * np.sin(frequency * 0.8 * y) * 1.5
    elif kind == 2:
        wave = np.sin(frequency * np.hypot(x - 0.5, y))
    else:
        wave = 1.6 * _smooth_noise(rng, _PATCH_PX, _PATCH_PX, 12)
    return np.asarray(1 / (1 + np.exp(-4 * wave)), dtype=np.float32)


def _thing(rng: np.random.Generator) -> Image:
    """A lumpy oblong thing: `[P, P, 4]`, premultiplied."""
    axis = np.arange(_PATCH_PX) - (_PATCH_PX - 1) / 2
    x, y = np.meshgrid(axis, axis)
    stretch = np.sqrt(rng.uniform(1.3, 1.9))
    around, away = np.arctan2(y * stretch, x / stretch), np.hypot(x / stretch, y * stretch)
    outline = np.ones_like(x)
    for lobes in (2, 3, 4):
        outline += rng.uniform(0, 0.12) * np.cos(lobes * around + rng.uniform(0, 2 * np.pi))
    alpha = 1 / (1 + np.exp((away - _PATCH_RADIUS_PX * outline) / 0.6))
    shade = 1 - 0.45 * np.clip(away / (_PATCH_RADIUS_PX * outline), 0, 1) ** 4
    dark, light = _colour(rng, (0.5, 1.0), (0.1, 0.45)), _colour(rng, (0.2, 0.9), (0.85, 1.0))
    colours = (dark + (light - dark) * _pattern(rng)[..., None]) * shade[..., None]
    return np.concatenate([colours * alpha[..., None], alpha[..., None]], axis=2).astype(np.float32)


def _places(rng: np.random.Generator, height: int, width: int) -> tuple[Trajectory, ...]:
    """Sizes and angles by the mover's law, but spread over the frame, so that things seldom hide each other."""
    margin = 0.1 * height
    taken: list[npt.NDArray[np.float64]] = []
    places = []
    for _ in range(_THINGS):
        candidates = rng.uniform((margin, margin), (width - margin, height - margin), size=(_CANDIDATES, 2))
        distances = [min((float(np.hypot(*(spot - other))) for other in taken), default=0.0) for spot in candidates]
        taken.append(candidates[int(np.argmax(distances))])
        law = draw_trajectory(None, rng, frames=1, height=height, width=width)
        places.append(Trajectory(x=taken[-1][:1], y=taken[-1][1:], radius=law.radius, angle=law.angle))
    return tuple(places)


def draw_scene(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draw the appearance that some videos of every class share."""
    return Scene(
        background=_background(rng, height, width),
        things=tuple(_thing(rng) for _ in range(_THINGS)),
        places=_places(rng, height, width),
    )


def paint(canvas: Image, thing: Image, path: Trajectory, frame: int) -> Image:
    """The canvas with a thing on it, placed, scaled and turned as in one frame of a path."""
    scale, angle = path.radius[frame] / _PATCH_RADIUS_PX, path.angle[frame]
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([path.x[frame], path.y[frame]])
    shift = centre - rotation @ np.full(2, (len(thing) - 1) / 2)
    height, width = canvas.shape[:2]
    matrix = np.column_stack([rotation, shift])
    layer = cv2.warpAffine(thing, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(canvas * (1 - layer[..., 3:]) + layer[..., :3])
