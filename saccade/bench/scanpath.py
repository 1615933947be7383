"""`saccade bench scanpath`: from a frame to the gaze on one core, beside a literal version of the model.

The literal version is computed as the public implementation of G-Eymol does it: gradients, inhibition, crops and maxima
anew for each call of the field, which SciPy's odeint calls at its own pace.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import odeint
from threadpoolctl import threadpool_limits

from saccade.bench.made_videos import drifting_texture
from saccade.bench.measure import Report, Row, compare, one_thread
from saccade.datasets.frames import list_frames, read_frames
from saccade.datasets.parallel import keep_freed_memory
from saccade.errors import DataError
from saccade.gaze.detail import detail_maps, gabor_kernels, shrink
from saccade.gaze.geymol import Field, Gaze, follow, inhibited
from saccade.gaze.geymol_batch import GazeBatch
from saccade.rng import generator

__all__ = ["bench_scanpath"]

_LITERAL_FRAMES, _BATCH = 10, 64
_FPS = 25.0
_Images = list[npt.NDArray[np.uint8]]


def bench_scanpath(folder: Path | None = None, *, rounds: int = 7, frames: int = 30) -> Report:
    """Measure G-Eymol.

    Args:
        folder: Of a video's JPEG files; None: a texture that drifts.
        rounds: Of which the median counts.
        frames: How many.

    Raises:
        DataError: There are no such frames.
    """
    keep_freed_memory()  # as the workers of `saccade data scanpaths` do
    with threadpool_limits(1), one_thread():
        if folder is None:
            images = list(drifting_texture(frames, 256, 341, seed=0))
        else:
            names = list_frames(folder)[:frames]
            if len(names) < _LITERAL_FRAMES:
                raise DataError(f"{folder}: holds {len(names)} frames; give a folder of at least {_LITERAL_FRAMES}")
            images = list(read_frames([folder / name for name in names]))
        size = f"{images[0].shape[1]} x {images[0].shape[0]}"
        report = Report("scanpath", {"frames": len(images), "frame size": size, "rounds": rounds, "threads": 1})
        report.rows += _versions(images, rounds)
        report.rows += _parts(images, rounds)
        if torch.cuda.is_available():
            report.rows.append(_batched(images, rounds))
    return report


class _LiteralGaze:
    """The model, term by term."""

    def __init__(self, height: int, width: int) -> None:
        self.state = np.array([height / 2, width / 2, 1.0, 1.0])
        self.inhibition = np.zeros((height, width), np.float32)
        self.half, self.frames = max(height, width) // 2, 0
        n = 2 * self.half + 1
        offset = np.mgrid[-self.half : self.half + 1, -self.half : self.half + 1]
        self.kernel = (n // 10 + 1) * offset / ((offset**2).sum(0) + n // 10)

    @staticmethod
    def features(frame: npt.NDArray[np.uint8]) -> list[cv2.typing.MatLike]:
        """What its gradients are taken of."""
        colours = frame.astype(np.float32) / 255
        grey = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
        return [*cv2.split(colours), grey, *(cv2.filter2D(grey, cv2.CV_8U, kernel) for kernel in gabor_kernels())]

    def look(self, features: list[cv2.typing.MatLike]) -> None:
        """Go on through a frame."""
        times = np.arange(0, 1, 0.1)
        self.state = odeint(self._change, self.state, times, args=(features,), mxstep=100, rtol=0.1, atol=0.1)[-1]
        self.frames += 1
        if self.frames % int(_FPS / 3) == 0:
            self.inhibition = inhibited(self.inhibition, *self.state[:2])

    def _change(
        self, state: npt.NDArray[np.float64], _: float, features: list[cv2.typing.MatLike]
    ) -> tuple[float, float, float, float]:
        (height, width), half = self.inhibition.shape, self.half
        row, column = int(np.clip(state[0], 0, height - 1)), int(np.clip(state[1], 0, width - 1))
        channels = []
        for feature in features:
            gradient = np.dstack([cv2.Sobel(feature, cv2.CV_64F, 1 - axis, axis, ksize=5) for axis in (0, 1)])
            channels.append(np.sqrt(gradient[:, :, 0] ** 2 + gradient[:, :, 1] ** 2) * (1 - self.inhibition))
        down, across = 0.0, 0.0
        for channel in channels:
            crop = cv2.copyMakeBorder(channel, half, half, half, half, cv2.BORDER_CONSTANT, value=0)
            crop = crop[row : row + 2 * half + 1, column : column + 2 * half + 1]
            crop = crop / (crop.max() or 1)
            down += 0.2 / 8 * (self.kernel[0] * crop).sum()
            across += 0.2 / 8 * (self.kernel[1] * crop).sum()
        return state[2], state[3], down - 1.5 * state[2], across - 1.5 * state[3]


def _versions(frames: _Images, rounds: int) -> list[Row]:
    small = [shrink(frame) for frame in frames]
    features = [_LiteralGaze.features(frame) for frame in small[:_LITERAL_FRAMES]]

    def literal() -> None:
        gaze = _LiteralGaze(*small[0].shape[:2])
        for frame in features:
            gaze.look(frame)

    def ours() -> None:
        follow((shrink(frame) for frame in frames), rng=generator(0, "benchmark gaze"), fps=_FPS)

    functions = {"literal version, features not counted": literal, "as here, from frame to gaze": ours}
    amount = dict(zip(functions, (len(features), len(frames)), strict=True))
    return compare("gaze", functions, amount=amount, unit="ms/frame", rounds=rounds)


def _parts(frames: _Images, rounds: int) -> list[Row]:
    small = [shrink(frame) for frame in frames]
    maps = [detail_maps(frame) for frame in small]
    pixels = [(row, column) for row in range(40, 120, 8) for column in range(60, 160, 10)]

    def move() -> None:
        gaze = Gaze(*maps[0].shape[1:], rng=generator(0, "benchmark gaze"), fps=_FPS)
        for frame in maps:
            gaze.look(frame)

    def pull() -> None:
        field = Field(maps[0])
        for pixel in pixels:
            field.acceleration(*pixel)

    functions: dict[str, Callable[[], object]] = {
        "scale to 224 px": lambda: [shrink(frame) for frame in frames],
        "detail maps (8 features, gradients)": lambda: [detail_maps(frame) for frame in small],
        "gaze (field, integration, inhibition)": move,
        "of these, one call of the field": pull,
    }
    amount = dict.fromkeys(functions, float(len(frames))) | {"of these, one call of the field": len(pixels)}
    return compare("parts", functions, amount=amount, unit="ms/frame", rounds=rounds, baseline=False)


def _batched(frames: _Images, rounds: int) -> Row:
    """Many videos at once on the GPU, from scaled frames that are there; time by the clock."""
    device = torch.device("cuda")
    small = torch.from_numpy(np.stack([shrink(frame) for frame in frames])).to(device)
    rngs = [generator(number, "x") for number in range(_BATCH)]
    gazes = GazeBatch(*small.shape[1:3], rngs=rngs, fps=_FPS, device=device)
    blocks = [frame.expand(_BATCH, -1, -1, -1) for frame in small]
    gazes.look(blocks[0])
    values = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for block in blocks:
            gazes.look(block)
        torch.cuda.synchronize()
        values.append((time.perf_counter() - began) / (len(blocks) * _BATCH) * 1e3)
    name = f"{_BATCH} videos at once on {torch.cuda.get_device_name()}"
    return Row("on the GPU", name, median(values), "ms/frame", None, tuple(values))
