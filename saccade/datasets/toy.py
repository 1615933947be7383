"""A synthetic dataset whose classes differ by motion alone, written in the published layout in seconds.

Textured things move as one in front of a cluttered background; scanpath rows are computed from the frames, as for any
other videos. No single frame tells the class (see `toy_motion`), and appearance hardly tells a video from another: a
scene (background and things) is shared by all classes and both splits. The scene is the `gNN` in the name of a video;
`*_c20` holds out the twentieth video of each class for validation.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from saccade.datasets.gaze_jobs import GazeJob, GazeParameters, write_gaze
from saccade.datasets.layout import FRAMES_FOLDER, SPLIT_FOLDER
from saccade.datasets.marker import read_marker
from saccade.datasets.parallel import in_processes
from saccade.datasets.scanpaths import scanpath_jobs
from saccade.datasets.toy_motion import MOTIONS, draw_trajectory
from saccade.datasets.toy_scene import Scene, draw_scene, paint
from saccade.errors import DataError
from saccade.progress import progress
from saccade.rng import generator

__all__ = ["ToyReport", "write_toy"]

_MARKER = "toy.json"
_VERSION = 3
"""Counted up whenever the same parameters would give other videos."""
_SCENES = 2
"""Few, so that appearance tells little about a video and motion must; all classes and both splits share them."""
_JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True)
class _Parameters:
    """What a toy set depends on; written into its marker file."""

    version: int
    seed: int
    train_per_class: int
    test_per_class: int
    frames: int
    height: int
    width: int
    grid_num: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """One video to write."""

    name: str
    label: int
    scene: int
    clip: int
    train: bool


@dataclass(frozen=True, slots=True)
class ToyReport:
    """What `write_toy` has done."""

    folder: Path
    train: int
    test: int
    frames: int
    already_there: bool
    seconds: float

    def __str__(self) -> str:
        videos = f"{self.train} training and {self.test} test videos of {self.frames} frames, {len(MOTIONS)} classes"
        if self.already_there:
            return f"{self.folder}: already there with the same parameters: {videos}"
        return f"{self.folder}: {videos}, written in {self.seconds:.1f} s"


def _plans(parameters: _Parameters) -> Iterator[_Plan]:
    for label, motion in enumerate(MOTIONS):
        for clip in range(parameters.train_per_class + parameters.test_per_class):
            scene = clip % _SCENES
            name = f"v_{motion}_g{scene + 1:02d}_c{clip + 1:02d}"
            yield _Plan(name, label, scene, clip, train=clip < parameters.train_per_class)


@lru_cache(maxsize=4)
def _scene(seed: int, number: int, height: int, width: int) -> Scene:
    return draw_scene(generator(seed, "toy scene", number), height, width)


def _render(plan: _Plan, parameters: _Parameters) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames `[height, width, 3]` BGR of a video."""
    height, width = parameters.height, parameters.width
    scene = _scene(parameters.seed, plan.scene, height, width)
    rng = generator(parameters.seed, "toy video", plan.scene, plan.label, plan.clip)
    path = draw_trajectory(MOTIONS[plan.label], rng, frames=parameters.frames, height=height)
    for frame in range(parameters.frames):
        picture = cv2.convertScaleAbs(paint(scene, path, frame), alpha=255)  # rounded, and no more than 255
        yield np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)


def _write_video(task: tuple[_Plan, GazeJob | None], folder: Path, parameters: _Parameters) -> None:
    """Draw a video, and compute its scanpath rows if there is a job for them."""
    plan, gaze = task
    target = folder / FRAMES_FOLDER / plan.name
    target.mkdir()
    for number, frame in enumerate(_render(plan, parameters), start=1):
        _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        (target / f"{number:06d}.jpg").write_bytes(data.data)
    # From the files, as the rows of any other videos.
    outcome = write_gaze(gaze) if gaze is not None else None
    if outcome is not None and outcome.fault is not None:
        raise DataError(outcome.fault)


def _write_split(folder: Path, plans: list[_Plan]) -> None:
    lines = {
        "classInd.txt": [f"{index} {motion}" for index, motion in enumerate(MOTIONS, start=1)],
        "trainlist01.txt": [f"{MOTIONS[p.label]}/{p.name}.avi {p.label + 1}" for p in plans if p.train],
        "testlist01.txt": [f"{MOTIONS[p.label]}/{p.name}.avi" for p in plans if not p.train],
    }
    for name, content in lines.items():
        (folder / SPLIT_FOLDER / name).write_text("\n".join(content) + "\n", encoding="utf-8", newline="\n")


def _is_done(folder: Path, wanted: dict[str, int]) -> bool:
    if not folder.exists():
        return False
    found = read_marker(folder / _MARKER)
    if not isinstance(found, dict):
        raise DataError(f"{folder}: exists and is not a toy set; give another folder, or remove it")
    if found != wanted:
        raise DataError(
            f"{folder}: is a toy set of other parameters, {str(found)[:100]}; give another folder, or remove it"
        )
    return True


def _clear_partial(partial: Path) -> None:
    if partial.exists():
        if not isinstance(read_marker(partial / _MARKER), dict):
            raise DataError(f"{partial}: is in the way and not a half-written toy set; remove it")
        shutil.rmtree(partial)


def _check(parameters: _Parameters) -> None:
    least = {
        "train_per_class": 1,
        "test_per_class": 1,
        "frames": 2,
        "height": 32,
        "width": 32,
        "grid_num": 1,
        "seed": 0,
    }
    for name, low in least.items():
        value = getattr(parameters, name)
        if value < low:
            raise DataError(f"toy set: {name} is {value}; it must be at least {low}")
    if parameters.width < parameters.height:
        raise DataError(
            f"toy set: width {parameters.width} is below height {parameters.height}; make it at least as wide"
        )


def _write_all(plans: list[_Plan], folder: Path, parameters: _Parameters, workers: int) -> None:
    for name in (FRAMES_FOLDER, SPLIT_FOLDER):
        (folder / name).mkdir(parents=True)
    (folder / _MARKER).write_text(json.dumps(asdict(parameters), indent=2) + "\n", encoding="utf-8")
    _write_split(folder, plans)
    # Nobody looks where the eye rests in a test video.
    looked_at = [plan.name for plan in plans if plan.train]
    jobs = scanpath_jobs(folder, looked_at, GazeParameters(parameters.grid_num, parameters.seed))
    gazes = {job.frames.name: job for job in jobs}
    tasks = [(plan, gazes.get(plan.name)) for plan in plans]
    # Frames and rows in one go, for starting workers takes a second.
    work = in_processes(
        partial(_write_video, folder=folder, parameters=parameters), tasks, workers=workers, doing="drawing videos"
    )
    for _ in progress(work, desc="toy videos", unit="video", total=len(plans)):
        pass


def write_toy(
    root: Path,
    *,
    dataset: str = "toy",
    seed: int = 632,
    train_per_class: int = 20,
    test_per_class: int = 20,
    frames: int = 40,
    height: int = 80,
    width: int = 107,
    grid_num: int = 7,
    workers: int | None = None,
) -> ToyReport:
    """Write the toy set into `root / dataset`, or find it there.

    The bytes depend on the parameters alone, not on the number of workers.

    Args:
        root: Folder that holds the datasets.
        dataset: Name of the new folder in it.
        seed: Of all random numbers.
        train_per_class: Training videos of each of the eight classes.
        test_per_class: Test videos of each class.
        frames: Length of every video.
        height: Of the frames, px.
        width: Of the frames, px.
        grid_num: Cells along each side of the grid of the scanpath rows.
        workers: Processes; None: one per core.

    Raises:
        DataError: The folder holds something else, or a parameter is out of range.
    """
    began = time.monotonic()
    parameters = _Parameters(_VERSION, seed, train_per_class, test_per_class, frames, height, width, grid_num)
    _check(parameters)
    plans, folder, marker = list(_plans(parameters)), root / dataset, asdict(parameters)
    report = partial(ToyReport, folder, sum(p.train for p in plans), sum(not p.train for p in plans), frames)
    if _is_done(folder, marker):
        return report(already_there=True, seconds=time.monotonic() - began)
    # Written under another name first: a folder with the final name is always complete.
    unfinished = folder.with_name(folder.name + ".partial")
    _clear_partial(unfinished)
    try:
        _write_all(plans, unfinished, parameters, workers or os.cpu_count() or 1)
        os.replace(unfinished, folder)
    except OSError as error:
        raise DataError(
            f"{unfinished}: cannot be written: {error.strerror}; run the same again when it can be"
        ) from error
    return report(already_there=False, seconds=time.monotonic() - began)
