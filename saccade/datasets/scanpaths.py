"""Scanpath rows of a dataset's videos, computed by G-Eymol from their frames."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from saccade.atomic import write_text
from saccade.datasets.gaze_jobs import GazeJob, GazeOutcome, GazeParameters, in_batches, write_gaze
from saccade.datasets.layout import FRAMES_FOLDER, scanpath_folder
from saccade.datasets.links import refuse_links_out
from saccade.datasets.marker import read_marker
from saccade.datasets.parallel import in_processes
from saccade.errors import DataError
from saccade.progress import progress

__all__ = ["ScanpathReport", "compute_scanpaths", "read_parameters", "scanpath_jobs"]

_MARKER = "scanpaths.json"
"""In the folder of the rows: what they were made with."""
_VERSION = 1
"""Counted up whenever the same parameters would give other rows."""
_MOST_CELLS, _MOST_FPS = 100, 1000
_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class ScanpathReport:
    """What `compute_scanpaths` has done."""

    folder: Path
    written: int
    """Videos whose rows were written now."""
    already_there: int
    """Videos that an earlier call had finished."""
    frames: int
    """Frames looked at now."""
    fixations: int
    """Rows written now."""
    seconds: float
    without: tuple[str, ...] = ()
    """Videos without any fixation; their files are empty."""

    def __str__(self) -> str:
        rate = self.frames / max(self.seconds, 1e-3)
        done = f"{self.fixations} fixations of {self.written} videos written in {self.seconds:.0f} s"
        lines = [f"{self.folder}: {done} ({rate:.0f} frames/s), {self.already_there} videos already there"]
        if self.without:
            lines.append(f"{len(self.without)} videos have no fixation (random ones serve), such as {self.without[0]}")
        return "\n".join(lines)


def read_parameters(folder: Path) -> GazeParameters:
    """What the rows in a folder were made with, to make their gaze again.

    Raises:
        DataError: They were not made here, or by another version.
    """
    found = read_marker(folder / _MARKER)
    wanted = {"version": int, "grid_num": int, "seed": int, "min_frames": int, "fps": float}
    if (
        not isinstance(found, dict)
        or {key: type(value) for key, value in found.items()} != wanted
        or found.pop("version") != _VERSION
    ):
        raise DataError(f"{folder}: its rows were not made here, so their gaze is not known; leave out --gaze")
    parameters = GazeParameters(**found)
    _check(parameters, "cpu")
    return parameters


def _claim(folder: Path, parameters: GazeParameters, *, overwrite: bool) -> None:
    """Make the folder ours, or see that it is, with rows of the same parameters."""
    wanted = {"version": _VERSION, **asdict(parameters)}
    found = read_marker(folder / _MARKER)
    rows = list(folder.glob("*.txt"))
    if rows and not overwrite and found != wanted:
        made = "that were not made here"
        if isinstance(found, dict):
            made = "made with " + ", ".join(
                f"{key} {str(found.get(key))[:60]}, not {wanted[key]}"
                for key in wanted
                if found.get(key) != wanted[key]
            )
        raise DataError(f"{folder}: holds rows {made}; --overwrite replaces them, another --grid has its own folder")
    try:
        if overwrite:
            for path in rows:
                path.unlink()
        folder.mkdir(exist_ok=True)
        write_text(folder / _MARKER, json.dumps(wanted) + "\n")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to: {error.strerror}; look at its permissions") from None


def _videos(dataset: Path) -> list[str]:
    folder = dataset / FRAMES_FOLDER
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        raise DataError(
            f"{folder}: no such folder; give the folder of a dataset (ROOT/NAME), as `saccade data prepare` writes it"
        ) from None
    # `prepare` names what it has not finished so.
    names = sorted(entry.name for entry in entries if entry.name[0] != "." and not entry.name.endswith(".partial"))
    if not names:
        raise DataError(f"{folder}: holds no folder of frames; write them with `saccade data prepare`")
    return names


def _check(parameters: GazeParameters, device: str) -> None:
    if not 1 <= parameters.grid_num <= _MOST_CELLS:
        raise DataError(f"grid: {parameters.grid_num} cells a side; it must be 1 to {_MOST_CELLS}")
    if not 0 <= parameters.seed < 2**63:
        raise DataError(f"seed {parameters.seed}; it must be 0 or more, below 2^63")
    if parameters.min_frames < 1:
        raise DataError(f"fixations of at least {parameters.min_frames} frames; it must be 1 or more")
    if not 1 <= parameters.fps <= _MOST_FPS:
        raise DataError(f"{parameters.fps} frames a second; it must be 1 to {_MOST_FPS}")
    if device not in _DEVICES:
        raise DataError(f"--device {device}: it must be one of {', '.join(_DEVICES)}")


def _on_gpu(device: str) -> bool:
    if device == "cpu":
        return False
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise DataError("cuda was asked for and PyTorch sees no CUDA device; use --device auto or cpu")
    return there


def _compute(
    jobs: Sequence[GazeJob], *, done: int, device: str, workers: int | None
) -> tuple[list[GazeOutcome], list[GazeOutcome]]:
    """What went well, and what did not."""
    if jobs and _on_gpu(device):
        outcomes = in_batches(jobs, device="cuda", workers=workers)
    else:
        outcomes = in_processes(write_gaze, jobs, workers=workers, doing="following a gaze")
    well: list[GazeOutcome] = []
    broken: list[GazeOutcome] = []
    with progress(desc="scanpaths", unit="video", total=done + len(jobs), initial=done) as bar:
        for outcome in outcomes:
            bar.update()
            (well if outcome.fault is None else broken).append(outcome)
    return well, broken


def scanpath_jobs(
    dataset: Path, videos: Sequence[str], parameters: GazeParameters, *, overwrite: bool = False
) -> list[GazeJob]:
    """Make the folder for the rows of some videos, or see that it is there with rows of the same parameters.

    Args:
        dataset: The dataset's folder, `<root>/<dataset>`.
        videos: Their names.
        parameters: What the rows are made with.
        overwrite: Replace rows made with other parameters, or by others.

    Returns:
        What is left to do, for `saccade.datasets.gaze_jobs`.

    Raises:
        DataError: The folder holds other rows, or cannot be written to.
    """
    folder = dataset / scanpath_folder(parameters.grid_num)
    _claim(folder, parameters, overwrite=overwrite)
    targets = {name: folder / f"{name}.txt" for name in videos}
    return [
        GazeJob(dataset / FRAMES_FOLDER / name, target, parameters)
        for name, target in targets.items()
        if not target.exists()
    ]


def compute_scanpaths(
    dataset: Path,
    *,
    videos: Sequence[str] | None = None,
    grid_num: int = 7,
    seed: int = 632,
    min_frames: int = 3,
    fps: float = 25.0,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
) -> ScanpathReport:
    """Write `scan_idx_<G>/<video>.txt` for the videos of a dataset; called again, it goes on where it was stopped.

    Rows depend on the frames, the name of the video and the parameters, not on which videos there are beside it.

    Args:
        dataset: The dataset's folder, `<root>/<dataset>`.
        videos: Names of those wanted; None: all there are.
        grid_num: G, cells along each side of the grid.
        seed: Of the places and speeds that gazes begin with.
        min_frames: Shorter stays in a cell are no fixations.
        fps: Frames in a second of the videos; inhibition of return is updated three times a second.
        device: "cpu": a video per process; "cuda": many videos at once on a GPU; "auto": cuda where there is one.
        workers: Processes, or threads that decode for the GPU; None: one per core.
        overwrite: Replace rows made with other parameters, or by others.

    Raises:
        DataError: Something is wrong with the arguments, the rows that are there, frames or the disk.
    """
    began = time.monotonic()
    parameters = GazeParameters(grid_num, seed, min_frames, float(fps))
    _check(parameters, device)
    refuse_links_out(dataset / FRAMES_FOLDER, dataset)
    names = _videos(dataset) if videos is None else videos
    jobs = scanpath_jobs(dataset, names, parameters, overwrite=overwrite)
    done = len(names) - len(jobs)
    well, broken = _compute(jobs, done=done, device=device, workers=workers)
    if broken:
        first, *others = sorted(outcome.fault or "" for outcome in broken)
        more = f"; {len(others)} more videos are broken" if others else ""
        raise DataError(f"{first}{more}; all other videos have their rows, run the same again for these")
    return ScanpathReport(
        folder=dataset / scanpath_folder(grid_num),
        written=len(well),
        already_there=done,
        frames=sum(outcome.frames for outcome in well),
        fixations=sum(outcome.fixations for outcome in well),
        seconds=time.monotonic() - began,
        without=tuple(sorted(outcome.job.frames.name for outcome in well if not outcome.fixations)),
    )
