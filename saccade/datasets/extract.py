"""One video to one folder of JPEG frames; the part of `prepare` that runs in worker processes."""

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import numpy.typing as npt

from saccade.datasets.archives import MemberError, open_archive
from saccade.datasets.frames import list_frames
from saccade.datasets.sources import Source
from saccade.errors import DataError

__all__ = ["Job", "Outcome", "extract", "frame_size"]

_MAX_PIXELS, _MAX_SIDE_PX = 1 << 26, 65500
"""Of a frame, before and after it is made smaller: twice those of 8K video, and what JPEG can hold."""
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<")
"""How texts begin that FFmpeg takes for videos, and then reads the files and addresses that they name."""
_TOLERANCE_FRAMES, _TOLERANCE_PART = 2, 0.02
"""Containers count their frames loosely; only a video that lacks more than this is cut off."""


@dataclass(frozen=True, slots=True)
class Job:
    """A video to write."""

    source: Source
    target: Path
    """Folder of its frames; exists only once it is complete."""
    short_side: int
    quality: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job."""

    job: Job
    frames: int
    """Frames written."""
    fault: str | None = None
    """Why the video cannot be used, if so."""


class _BrokenVideoError(Exception):
    """The file is at fault, not the disk it is written to."""


def frame_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) with the shorter side at `short_side` and the aspect kept, px."""
    short = min(width, height)
    return round(width * short_side / short), round(height * short_side / short)


def _resized(image: npt.NDArray[np.uint8], short_side: int) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    size = frame_size(width, height, short_side)
    if max(size) > _MAX_SIDE_PX or size[0] * size[1] > _MAX_PIXELS:
        raise _BrokenVideoError(f"has frames of {width} x {height} px, which would come to {size[0]} x {size[1]}")
    if size == (width, height):
        return image
    shrinks = short_side < min(width, height)
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


def _check_head(video: Path) -> None:
    with video.open("rb") as file:
        head = file.read(1024)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_PLAYLISTS):
        raise _BrokenVideoError("is a text that names other videos, not a video")


def _decode(video: Path, job: Job, folder: Path) -> int:
    _check_head(video)
    # Only FFmpeg: OpenCV's other readers take a % in a name for a pattern of numbered pictures.
    capture = cv2.VideoCapture(str(video.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not capture.isOpened():
            raise _BrokenVideoError("cannot be opened as a video")
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if width * height > _MAX_PIXELS:
            raise _BrokenVideoError(f"claims frames of {width:.0f} x {height:.0f} px, which no video has")
        count, shape = 0, None
        while True:
            read, image = capture.read()
            if not read:
                break
            shape = shape or image.shape
            if image.shape != shape:
                raise _BrokenVideoError(f"changes its frame size after {count} frames")
            count += 1
            small = _resized(np.asarray(image, dtype=np.uint8), job.short_side)
            _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, job.quality])
            (folder / f"{count:06d}.jpg").write_bytes(data.tobytes())
    finally:
        capture.release()
    if count == 0:
        raise _BrokenVideoError("has no frame that can be decoded")
    if count < promised - max(_TOLERANCE_FRAMES, _TOLERANCE_PART * promised):
        raise _BrokenVideoError(f"is cut off: {count} frames can be decoded, its header says {promised}")
    return count


def _write_frames(job: Job, folder: Path) -> int:
    source = job.source
    if source.archive is None:
        return _decode(source.path, job, folder)
    archive = open_archive(source.archive)
    if source.has_frames:
        for member in source.members:
            archive.extract(member, folder / PurePosixPath(member).name)
        return len(list_frames(folder))
    video = folder / f".video{source.path.suffix}"
    archive.extract(source.members[0], video)
    count = _decode(video, job, folder)
    video.unlink()
    return count


def extract(job: Job) -> Outcome:
    """Write the frames of a video; its folder appears when it is complete, in place of one that was there.

    Raises:
        DataError: The frames cannot be written.
    """
    partial = job.target.with_name(job.target.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        frames = _write_frames(job, partial)
        shutil.rmtree(job.target, ignore_errors=True)
        os.replace(partial, job.target)
    except (_BrokenVideoError, MemberError) as fault:
        shutil.rmtree(partial, ignore_errors=True)
        return Outcome(job, 0, str(fault))
    except cv2.error as error:
        shutil.rmtree(partial, ignore_errors=True)
        return Outcome(job, 0, f"cannot be decoded: {error.err}")
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        hint = "; free some space and run the same again" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
        raise DataError(f"{job.target}: its frames cannot be written: {error.strerror}{hint}") from None
    return Outcome(job, frames)
