import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from saccade.datasets.gaze_jobs import GazeJob, GazeParameters, in_batches, video_gaze, write_gaze
from saccade.datasets.scanpaths import ScanpathReport, compute_scanpaths, read_parameters
from saccade.errors import DataError
from saccade.gaze.scanpath import gaze_cells, read_scanpath, rows_from_gaze

FRAMES = 12


def _write_video(folder: Path, seed: int, *, frames: int = FRAMES, height: int = 40, width: int = 96) -> None:
    """A texture that drifts."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed).random((height + frames, width, 3))
    texture = ndimage.gaussian_filter(noise, (2, 2, 0))
    texture = np.uint8((texture - texture.min()) / np.ptp(texture) * 255)
    for t in range(frames):
        cv2.imwrite(str(folder / f"{t + 1:06d}.jpg"), texture[t : t + height])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "mine"
    for seed, name in enumerate(("ann_walk", "bob jump #2", "eve_walk")):
        _write_video(folder / "jpegs_256" / name, seed)
    return folder


def _compute(dataset: Path, **options: object) -> ScanpathReport:
    given: dict[str, object] = {"device": "cpu", "workers": 1} | options
    return compute_scanpaths(dataset, **given)  # type: ignore[arg-type]


def _rows(dataset: Path, grid: int = 7) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted((dataset / f"scan_idx_{grid}").glob("*.txt"))}


def test_rows_are_those_of_the_gaze(dataset: Path) -> None:
    report = _compute(dataset, seed=5, min_frames=2)
    assert (report.written, report.already_there, report.frames) == (3, 0, 3 * FRAMES)
    for name in ("ann_walk", "bob jump #2", "eve_walk"):
        places = video_gaze(dataset / "jpegs_256" / name, GazeParameters(7, 5, 2, 25.0))
        assert places.shape == (FRAMES, 2)
        rows = read_scanpath(dataset / "scan_idx_7" / f"{name}.txt", 7, FRAMES)
        assert rows == rows_from_gaze(gaze_cells(places, 7), 2)
        assert rows
    assert report.fixations == sum(text.count("\n") for text in _rows(dataset).values())
    assert str(report).startswith(f"{dataset / 'scan_idx_7'}: {report.fixations} fixations of 3 videos written in ")


def test_rows_depend_on_seed_and_name_alone(dataset: Path) -> None:
    def rows(**options: object) -> dict[str, str]:
        _compute(dataset, grid_num=60, min_frames=1, overwrite=True, **options)  # cells of two pixels
        return _rows(dataset, 60)

    alone = rows()
    # The same frames under another name begin elsewhere; the others stay as they were, in any number of processes.
    (dataset / "jpegs_256" / "zoe").symlink_to(dataset / "jpegs_256" / "ann_walk")
    more = rows(workers=2)
    assert {name: more[name] for name in alone} == alone
    assert more["zoe"] != more["ann_walk"]
    other = rows(seed=1)
    assert all(other[name] != more[name] for name in more)


def test_it_goes_on_where_it_stopped(dataset: Path) -> None:
    _compute(dataset)
    before = _rows(dataset)
    kept = dataset / "scan_idx_7" / "ann_walk.txt"
    stamp = kept.stat().st_mtime_ns
    (dataset / "scan_idx_7" / "eve_walk.txt").unlink()
    (dataset / "scan_idx_7" / "eve_walk.txt.partial").write_text("24 0")  # as a kill leaves it
    (dataset / "jpegs_256" / "new.partial").mkdir()  # of a `prepare` that was stopped
    report = _compute(dataset)
    assert (report.written, report.already_there) == (1, 2)
    assert _rows(dataset) == before
    assert kept.stat().st_mtime_ns == stamp
    assert _compute(dataset).written == 0


def test_another_grid_has_its_own_folder(dataset: Path) -> None:
    _compute(dataset)
    _compute(dataset, grid_num=4)
    assert read_parameters(dataset / "scan_idx_4") == GazeParameters(4, 632, 3, 25.0)
    assert read_parameters(dataset / "scan_idx_7") == GazeParameters(7, 632, 3, 25.0)


@pytest.mark.parametrize(("name", "value"), [("seed", 7), ("min_frames", 4), ("fps", 30.0)])
def test_other_parameters_are_refused(dataset: Path, name: str, value: object) -> None:
    _compute(dataset)
    before, old = _rows(dataset), {"seed": "632", "min_frames": "3", "fps": "25.0"}[name]
    with pytest.raises(DataError, match=f"holds rows made with {name} {old}, not {value}; --overwrite"):
        _compute(dataset, **{name: value})
    assert _rows(dataset) == before
    assert _compute(dataset, overwrite=True, **{name: value}).written == 3
    assert getattr(read_parameters(dataset / "scan_idx_7"), name) == value


@pytest.mark.parametrize("marker", [None, "{", '{"version": 0}'])
def test_rows_of_others_are_refused(dataset: Path, marker: str | None) -> None:
    (dataset / "scan_idx_7").mkdir()
    (dataset / "scan_idx_7" / "ann_walk.txt").write_text("24 0 7\n")
    if marker is not None:
        (dataset / "scan_idx_7" / "scanpaths.json").write_text(marker)
    with pytest.raises(DataError, match=r"holds rows .*(not made here|made with version 0).*; --overwrite replaces"):
        _compute(dataset)
    with pytest.raises(DataError, match="were not made here, so their gaze is not known"):
        read_parameters(dataset / "scan_idx_7")
    assert _rows(dataset) == {"ann_walk": "24 0 7\n"}
    assert _compute(dataset, overwrite=True).written == 3


def test_videos_without_a_fixation_are_told(dataset: Path) -> None:
    report = _compute(dataset, min_frames=1000)
    assert report.without == ("ann_walk", "bob jump #2", "eve_walk")
    assert "3 videos have no fixation (random ones serve), such as ann_walk" in str(report)
    assert set(_rows(dataset).values()) == {""}


def _break_some(dataset: Path) -> None:
    cut = dataset / "jpegs_256" / "ann_walk" / "000009.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    (dataset / "jpegs_256" / "empty").mkdir()
    _write_video(dataset / "jpegs_256" / "strip", 9, height=8, width=640, frames=3)


def test_broken_videos_do_not_hold_up_the_others(dataset: Path) -> None:
    _break_some(dataset)
    with pytest.raises(DataError, match=r"000009\.jpg: this frame is cut off.*; 2 more videos are broken; all other"):
        _compute(dataset)
    assert set(_rows(dataset)) == {"bob jump #2", "eve_walk"}
    cv2.imwrite(str(dataset / "jpegs_256" / "ann_walk" / "000009.jpg"), np.zeros((40, 97, 3), np.uint8))
    with pytest.raises(DataError, match=r"000009\.jpg: this frame is 97 x 40 px"):
        _compute(dataset)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"grid_num": 0}, "grid: 0 cells a side; it must be 1 to 100"),
        ({"min_frames": 0}, "at least 0 frames"),
        ({"fps": 0.0}, "0.0 frames a second"),
        ({"device": "tpu"}, "--device tpu: it must be one of auto, cpu, cuda"),
    ],
)
def test_bad_arguments(dataset: Path, options: dict[str, object], what: str) -> None:
    with pytest.raises(DataError, match=what):
        _compute(dataset, **options)
    assert not list(dataset.glob("scan_idx_*"))


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="jpegs_256: no such folder; give the folder of a dataset"):
        _compute(tmp_path)
    (tmp_path / "jpegs_256").mkdir()
    with pytest.raises(DataError, match="jpegs_256: holds no folder of frames"):
        _compute(tmp_path)


def test_batches_give_the_same_rows(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.datasets.gaze_jobs._CHUNK_FRAMES", 5)
    _break_some(dataset)
    _write_video(dataset / "jpegs_256" / "tall", 10, height=96, width=40, frames=6)
    _write_video(dataset / "jpegs_256" / "longer", 11, frames=15)
    parameters = GazeParameters(7, 3, 1, 25.0)
    alone, together = tmp_path / "alone", tmp_path / "together"
    outcomes = {}
    for target in (alone, together):
        target.mkdir()
        videos = sorted((dataset / "jpegs_256").iterdir())
        jobs = [GazeJob(video, target / f"{video.name}.txt", parameters) for video in videos]
        ways = map(write_gaze, jobs) if target is alone else in_batches(jobs, device="cpu", workers=2)
        outcomes[target] = {o.job.frames.name: (o.frames, o.fixations, o.fault) for o in ways}
    assert outcomes[together] == outcomes[alone]
    assert sum(fault is not None for *_, fault in outcomes[alone].values()) == 3
    texts = [{path.name: path.read_text() for path in target.iterdir()} for target in (alone, together)]
    assert texts[0] == texts[1]
    assert set(texts[0]) == {f"{name}.txt" for name in ("bob jump #2", "eve_walk", "tall", "longer")}


def test_ctrl_c_leaves_whole_files_and_work_to_go_on_with(dataset: Path) -> None:
    for number in range(500):  # so many that the signal comes before the last, also when this process has to wait
        (dataset / "jpegs_256" / f"v{number:02d}").symlink_to(dataset / "jpegs_256" / "ann_walk")
    command = f"{sys.executable} -m saccade.cli data scanpaths --workers 2 --device cpu".split()
    # A group of its own, all of which gets the signal, as from a terminal.
    process = subprocess.Popen([*command, str(dataset)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(dataset.glob("scan_idx_7/*.txt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in said
    done = _rows(dataset)
    assert 0 < len(done) < 503
    for path in (dataset / "jpegs_256").glob("v[1-9]*"):
        path.unlink()
    report = _compute(dataset)
    assert report.already_there + report.written == 13
    assert {name: _rows(dataset)[name] for name in done} == done
    assert json.loads((dataset / "scan_idx_7" / "scanpaths.json").read_text())["seed"] == 632
