"""What a packed store (`saccade.datasets.packed`) costs on disk, and what each frame becomes in it."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from saccade.amounts import bytes_text
from saccade.datasets.extract import frame_size
from saccade.datasets.frames import FrameFolder, decode_frame, list_frames, read_frames, scan_frames
from saccade.datasets.layout import FRAMES_FOLDER
from saccade.datasets.links import refuse_links_out
from saccade.datasets.packed import ALIGNMENT, Settings, padded
from saccade.errors import DataError
from saccade.progress import progress

__all__ = ["PackPlan", "Shape", "plan_pack", "stored_frame", "stored_shape"]

_SAMPLED = 32
"""Frames that are written for trial, to estimate what all will take."""


class Shape(NamedTuple):
    """Of frames, px."""

    height: int
    width: int


@dataclass(frozen=True)
class PackPlan:
    """A store to write."""

    dataset: Path
    settings: Settings
    videos: tuple[FrameFolder, ...]
    """In order of their names."""
    bytes: int
    """What the store will take."""
    jpeg_bytes: int
    """What the JPEG files take, by some of them."""

    @property
    def target(self) -> Path:
        return self.dataset / self.settings.name

    @property
    def frames(self) -> int:
        return sum(video.count for video in self.videos)

    def __str__(self) -> str:
        about = "" if self.settings.kind == "decoded" else "about "
        return (
            f"{self.target}: {len(self.videos)} videos, {self.frames} frames, {about}{bytes_text(self.bytes)} "
            f"(their JPEG files: about {bytes_text(self.jpeg_bytes)}); free on this disk: "
            f"{bytes_text(shutil.disk_usage(self.dataset).free)}"
        )


def stored_shape(folder: FrameFolder, settings: Settings) -> Shape:
    """Of a video's frames once they are stored, by its first one."""
    height, width = read_frames([folder.folder / list_frames(folder.folder)[0]]).shape[1:3]
    if settings.short_side is None or settings.short_side >= min(height, width):
        return Shape(height, width)
    width, height = frame_size(width, height, settings.short_side)
    return Shape(height, width)


def stored_frame(path: Path, settings: Settings, shape: Shape) -> bytes:
    """A frame as it is stored."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: this frame cannot be read: {error.strerror}; look at its permissions and its disk"
        ) from error
    pixels = decode_frame(data, path)
    resized = settings.short_side is not None and settings.short_side < min(pixels.shape[:2])
    if resized:
        size = frame_size(pixels.shape[1], pixels.shape[0], settings.short_side or 0)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    if pixels.shape[:2] != shape:
        raise DataError(
            f"{path}: this frame comes to {pixels.shape[1]} x {pixels.shape[0]} px, but the first of the video to "
            f"{shape.width} x {shape.height}; write the video's frames again"
        )
    if settings.kind == "decoded":
        return pixels.tobytes()
    if not resized:
        return data
    # As `prepare` writes them.
    quality = [] if settings.quality is None else [cv2.IMWRITE_JPEG_QUALITY, settings.quality]
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


def plan_pack(dataset: Path, settings: Settings) -> PackPlan:
    """See what there is to pack and what it will take.

    Raises:
        DataError: There are no frames, or some cannot be read.
    """
    folder = dataset / FRAMES_FOLDER
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        raise DataError(
            f"{folder}: the folder of frames cannot be read: {error.strerror}; look at its permissions"
        ) from None
    refuse_links_out(folder, dataset)
    videos = [scan_frames(folder / n, dataset) for n in progress(names, desc="reading folders", unit="video")]
    empty = [video.folder for video in videos if not video.count]
    half = [name for name in names if name.endswith(".partial")]
    if empty or half or not videos:
        what = f"{empty[0].name} holds no .jpg" if empty else f"{half[0]} is half written" if half else "no video"
        raise DataError(f"{folder}: {what}; see `saccade data check {dataset}`")
    jpeg_bytes = round(sum(video.count * float(np.mean(video.sizes)) for video in videos))
    frames = sum(video.count for video in videos)
    if settings.kind == "decoded":
        shapes = (stored_shape(v, settings) for v in progress(videos, desc="frame sizes", unit="video"))
        cost = sum(v.count * padded(3 * s.height * s.width) for v, s in zip(videos, shapes, strict=True))
    elif settings.short_side is None:
        cost = jpeg_bytes + frames * ALIGNMENT // 2
    else:
        cost = round(frames * float(np.mean([len(data) for data in _trial(videos, settings)])))
    return PackPlan(dataset, settings, tuple(videos), cost, jpeg_bytes)


def _trial(videos: Sequence[FrameFolder], settings: Settings) -> Iterator[bytes]:
    for at in sorted({round(at) for at in np.linspace(0, len(videos) - 1, min(_SAMPLED, len(videos)))}):
        folder = videos[at].folder
        yield stored_frame(
            folder / list_frames(folder)[videos[at].count // 2], settings, stored_shape(videos[at], settings)
        )
