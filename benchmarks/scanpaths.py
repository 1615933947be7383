"""Time of a scanpath on one core, part by part, and how much a literal version of the model takes.

    python benchmarks/scanpaths.py [FRAMES]

FRAMES is a folder of JPEGs, such as data/UCF101/jpegs_256/<video>; without it a texture drifts. Times are CPU time of
this process, the least of several rounds. The literal version is computed as the public implementation of G-Eymol does
it: gradients, inhibition, crops and maxima anew for each call of the field, which SciPy's odeint calls at its own pace.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import odeint
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from saccade.datasets.frames import list_frames, read_frames
from saccade.datasets.parallel import keep_freed_memory
from saccade.gaze.detail import detail_maps, gabor_kernels, shrink
from saccade.gaze.geymol import Field, Gaze, follow, inhibited
from saccade.gaze.geymol_batch import GazeBatch
from saccade.rng import generator

FRAMES, LITERAL_FRAMES, ROUNDS, BATCH = 30, 10, 15, 64
FPS = 25.0
Images = list[npt.NDArray[np.uint8]]


def drifting_texture() -> Images:
    """Frames of UCF101's size once its shorter side is 256 px."""
    noise = generator(0, "benchmark").random((256 + FRAMES, 341 + 2 * FRAMES, 3), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    texture = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    return [texture[step : step + 256, 2 * step : 2 * step + 341].copy() for step in range(FRAMES)]


def milliseconds(function: Callable[[], object], *, per: int, rounds: int = ROUNDS) -> float:
    """CPU time of a call, divided by `per`."""
    function()
    times = []
    for _ in range(rounds):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times) / per * 1e3


class LiteralGaze:
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
        if self.frames % int(FPS / 3) == 0:
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


def parts(frames: Images) -> dict[str, float]:
    """Milliseconds a frame on one core."""
    small = [shrink(frame) for frame in frames]
    maps = [detail_maps(frame) for frame in small]
    size = maps[0].shape[1:]
    pixels = [(row, column) for row in range(40, 120, 8) for column in range(60, 160, 10)]
    times = {
        "scale to 224 px": milliseconds(lambda: [shrink(frame) for frame in frames], per=len(frames)),
        "detail maps (8 features, gradients)": milliseconds(lambda: [detail_maps(f) for f in small], per=len(frames)),
    }

    def move() -> None:
        gaze = Gaze(*size, rng=generator(0, "benchmark gaze"), fps=FPS)
        for frame in maps:
            gaze.look(frame)

    def pull() -> None:
        field = Field(maps[0])
        for pixel in pixels:
            field.acceleration(*pixel)

    times["gaze (field, integration, inhibition)"] = milliseconds(move, per=len(frames))
    rng = generator(0, "benchmark gaze")
    times["all: from frame to gaze"] = milliseconds(
        lambda: follow((shrink(frame) for frame in frames), rng=rng, fps=FPS), per=len(frames)
    )
    times["of these, one call of the field"] = milliseconds(pull, per=len(pixels))
    features = [LiteralGaze.features(frame) for frame in small[:LITERAL_FRAMES]]

    def literal() -> None:
        gaze = LiteralGaze(*size)
        for frame in features:
            gaze.look(frame)

    times["literal version, features not counted"] = milliseconds(literal, per=len(features), rounds=3)
    return times


def batched(frames: Images, device: str) -> float:
    """Milliseconds a frame and video of many videos at once, from scaled frames on the device."""
    small = torch.from_numpy(np.stack([shrink(frame) for frame in frames])).to(device)
    gazes = GazeBatch(
        *small.shape[1:3], rngs=[generator(b, "x") for b in range(BATCH)], fps=FPS, device=torch.device(device)
    )
    blocks = [frame.expand(BATCH, -1, -1, -1) for frame in small]
    gazes.look(blocks[0])
    torch.cuda.synchronize()
    began = time.perf_counter()
    for block in blocks:
        gazes.look(block)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / (len(blocks) * BATCH) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path, nargs="?", help="folder of JPEGs")
    folder = parser.parse_args().frames
    cv2.setNumThreads(1)
    keep_freed_memory()  # as the workers of `saccade data scanpaths` do
    frames = drifting_texture() if folder is None else read_frames([folder / n for n in list_frames(folder)[:FRAMES]])
    with threadpool_limits(1):
        times = parts(list(frames))
    if torch.cuda.is_available():
        name = f"{BATCH} videos at once on {torch.cuda.get_device_name()}"
        times[name] = batched(list(frames), "cuda")
    for name, time_ms in times.items():
        print(f"{name:48s} {time_ms:8.3f} ms/frame")
    ratio = times["literal version, features not counted"] / times["all: from frame to gaze"]
    print(f"{'literal version / all':48s} {ratio:8.1f}")


if __name__ == "__main__":
    main()
