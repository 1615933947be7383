"""What the toy looks like: a textured background, a layer of textured things before it, and the drawing of a frame.

Images are float32 `[height, width, 3]` in [0, 1], RGB.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from saccade.datasets.toy_motion import Trajectory

__all__ = ["Scene", "draw_scene", "paint"]

Image = npt.NDArray[np.float32]

_CLUTTER = 0.35
"""How much the background stands out; the things alone stand out fully."""
_SPACING = 0.55
"""Distance between neighbouring things, parts of the frame's height."""
_SCATTER = 0.15
"""How far a thing stands from its place on the grid, parts of the spacing, along each axis."""
_RADIUS = (0.15, 0.20)
"""Mean radius of a thing, parts of the frame's height."""
_PATCH_PX = 72
_PATCH_RADIUS_PX = 27.0
"""Mean radius of a thing in its patch; drawn at up to this size, so that it never has to be blown up."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What some videos look like."""

    background: Image
    """`[height, width, 3]`"""
    layer: Image
    """Textured things, RGBA, colour premultiplied by alpha, `[side, side, 4]`; covers the frame in any state."""


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
    colours = dark + (light - dark) * blend
    return np.asarray(_CLUTTER * colours + (1 - _CLUTTER) * 0.45, dtype=np.float32)


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


def _moved(image: Image, *, x: float, y: float, scale: float, angle: float, height: int, width: int) -> Image:
    """An RGBA image turned and enlarged about its centre, which comes to (x, y) of a canvas; nothing around it."""
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([x, y]) - rotation @ np.full(2, (len(image) - 1) / 2)
    matrix = np.column_stack([rotation, shift])
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR))


def _layer(rng: np.random.Generator, height: int, width: int) -> Image:
    """Things on a loose grid, every second row of it shifted by half a step."""
    # A frame's corner is half a diagonal away from its centre; the layer may be shrunk, and moved off the centre.
    side = int(1.5 * np.hypot(height, width) + height)
    spacing = _SPACING * height
    layer = np.zeros((side, side, 4), dtype=np.float32)
    for row in range(int(side / spacing) + 1):
        for column in range(int(side / spacing) + 1):
            x, y = (np.array([column + 0.5 * (row % 2), row]) + rng.uniform(-_SCATTER, _SCATTER, size=2)) * spacing
            scale, angle = rng.uniform(*_RADIUS) * height / _PATCH_RADIUS_PX, rng.uniform(0, 2 * np.pi)
            layer = _over(layer, _moved(_thing(rng), x=x, y=y, scale=scale, angle=angle, height=side, width=side))
    return layer


def _over(canvas: Image, image: Image) -> Image:
    """An RGBA image laid over a canvas of 3 or 4 channels."""
    channels = canvas.shape[-1]
    # Arrays of one shape, which NumPy takes several times as fast as one with a single channel.
    behind = cv2.merge([1 - image[..., 3]] * channels)
    before = image if channels == 4 else cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)
    return np.asarray(canvas * behind + before)


def draw_scene(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draw the appearance that some videos of every class share."""
    return Scene(background=_background(rng, height, width), layer=_layer(rng, height, width))


def paint(scene: Scene, path: Trajectory, frame: int) -> Image:
    """The scene as in one frame of a path: `[height, width, 3]`."""
    height, width = scene.background.shape[:2]
    x, y = (width - 1) / 2 + path.x[frame], (height - 1) / 2 + path.y[frame]
    scale, angle = path.scale[frame], path.angle[frame]
    layer = _moved(scene.layer, x=x, y=y, scale=scale, angle=angle, height=height, width=width)
    return _over(scene.background, layer)
