"""Videos to measure with: textures that drift, and JPEG files about as large as those of real frames."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from saccade.datasets.layout import FRAMES_FOLDER, SPLIT_FOLDER, scanpath_folder
from saccade.rng import generator

__all__ = ["GAZE_ROWS", "GRID", "drifting_texture", "write_rows", "write_videos"]

GRID = 7
GAZE_ROWS = ((24, 1, 9), (16, 11, 16), (32, 18, 25))
"""Three fixations of 3 to 10 frames each, as G-Eymol has them on UCF101: their six clips have 37 different frames."""
_QUALITY = 90
_NOISE = 4.0
"""Standard deviation of each pixel's own noise: makes files of about 20 KB of 340 x 256 px, as UCF101's at 95."""


def drifting_texture(frames: int, height: int, width: int, *, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames `[height, width, 3]` of a smooth random texture that moves by (1, 2) px a frame."""
    noise = generator(seed, "benchmark").random((height + frames, width + 2 * frames, 3), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    texture = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    for step in range(frames):
        yield texture[step : step + height, 2 * step : 2 * step + width].copy()


def write_videos(folder: Path, *, videos: int, frames: int, height: int, width: int, seed: int) -> None:
    """Write a dataset in the published layout, without scanpath rows: all but one of its videos train."""
    names = [f"v_Drift_g{number:02d}_c01" for number in range(videos + 1)]
    for number, name in enumerate(names):
        target = folder / FRAMES_FOLDER / name
        target.mkdir(parents=True)
        rng = generator(seed, "benchmark noise", number)
        for step, image in enumerate(drifting_texture(frames, height, width, seed=seed + number)):
            image = np.clip(image + rng.normal(0, _NOISE, image.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(target / f"{step:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    (folder / SPLIT_FOLDER).mkdir()
    (folder / SPLIT_FOLDER / "classInd.txt").write_text("1 Drift\n", encoding="utf-8")
    for part, listed in (("train", names[1:]), ("test", names[:1])):
        text = "".join(f"Drift/{name}.avi\n" for name in listed)
        (folder / SPLIT_FOLDER / f"{part}list01.txt").write_text(text, encoding="utf-8")


def write_rows(folder: Path, rows: Sequence[tuple[int, int, int]]) -> None:
    """Give every video these fixations (cell, start frame, end frame), in place of any that it has."""
    target = folder / scanpath_folder(GRID)
    target.mkdir(exist_ok=True)
    text = "".join(f"{cell} {start} {end}\n" for cell, start, end in rows)
    for video in (folder / FRAMES_FOLDER).iterdir():
        (target / f"{video.name}.txt").write_text(text, encoding="utf-8")
