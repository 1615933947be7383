import errno
import hashlib
import itertools
import json
import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from saccade.datasets import toy as module
from saccade.datasets.frames import list_frames, read_frames
from saccade.datasets.layout import Dataset, load_dataset
from saccade.datasets.scanpaths import compute_scanpaths
from saccade.datasets.toy import write_toy
from saccade.datasets.toy_motion import MOTIONS, Trajectory, draw_trajectory
from saccade.datasets.toy_scene import Scene, draw_scene, paint
from saccade.errors import DataError
from saccade.rng import generator

FloatArray = npt.NDArray[np.float64]
SMALL = {"train_per_class": 10, "test_per_class": 6, "frames": 18, "height": 48, "width": 64}
TINY = {"train_per_class": 1, "test_per_class": 1, "frames": 6, "height": 32, "width": 40, "workers": 1}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "scanpath_jobs", lambda *_, **__: [])  # slow, and tested apart
        write_toy(root, workers=1, **SMALL)
    return load_dataset(root, "toy", split=1, grid_num=7, scanpaths=False, min_frames=16)


def _paths(motion: str, count: int, frames: int = 40) -> list[Trajectory]:
    draws = (generator(5, motion, index) for index in range(count))
    return [draw_trajectory(motion, rng, frames=frames, height=80) for rng in draws]


def _mirrored(path: Trajectory) -> Trajectory:
    return Trajectory(x=-path.x, y=path.y, scale=path.scale, angle=-path.angle)


def _turns(values: FloatArray) -> int:
    """How often a value turns back in a video: drifting does so at most twice, a running phase at least 8 times."""
    return int((np.diff(np.sign(np.diff(values))) != 0).sum())


def _is_sinusoid(values: FloatArray) -> bool:
    """A sinusoid's second difference is proportional to the distance from its centre; trembling has no such law."""
    return bool(np.corrcoef(np.diff(values, 2), values[1:-1])[0, 1] < -0.999)


def _named(path: Trajectory) -> str:
    """Class of a path by what one sees: what runs, and how."""
    if _turns(path.scale) >= 5:
        return "Pulse"
    if np.abs(np.diff(path.angle)).mean() > 2 * np.pi / 40:
        return "Spin"
    if not (_is_sinusoid(path.x) and _is_sinusoid(path.y)):
        leaps = np.abs(np.diff(path.x)) > 2
        return "Shake" if (leaps[1:] & leaps[:-1]).any() else "Hop"  # which rests after each leap
    if (_turns(path.x) >= 5) != (_turns(path.y) >= 5):
        return "Sway" if _turns(path.x) >= 5 else "Bob"
    return "Slant" if abs(np.corrcoef(path.x, path.y)[0, 1]) > 0.999 else "Orbit"


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_tells_the_class_also_mirrored(motion: str) -> None:
    paths = _paths(motion, 40)
    for path in paths:
        assert _named(path) == motion
        assert _named(_mirrored(path)) == motion


def _distance_of_laws(first: FloatArray, second: FloatArray) -> float:
    """Kolmogorov-Smirnov statistic: the largest difference of the two distribution functions."""
    points = np.concatenate([first, second])
    below = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


@pytest.mark.parametrize("frame", [0, 17])
def test_one_frame_shows_the_same_law_in_every_class(frame: int) -> None:
    count = 500
    states = {}
    for motion in MOTIONS:
        paths = _paths(motion, count, frames=18)
        columns = [[p.x[frame], p.y[frame], p.scale[frame], p.angle[frame] % (2 * np.pi)] for p in paths]
        states[motion] = np.array(columns)
    for motion in MOTIONS:
        others = np.concatenate([states[other] for other in MOTIONS if other != motion])
        for column in range(4):
            # Two samples of one law differ by more than this once in 100,000 times.
            limit = 2.4 * np.sqrt(1 / count + 1 / len(others))
            assert _distance_of_laws(states[motion][:, column], others[:, column]) < limit, (motion, column)


def test_the_layer_covers_the_frame_in_every_state() -> None:
    drawn = draw_scene(generator(632, "toy scene", 0), 80, 107)
    opaque = Scene(background=np.zeros((80, 107, 3), np.float32), layer=np.ones_like(drawn.layer))
    for motion in MOTIONS:
        for path in _paths(motion, 10):
            for frame in range(0, 40, 3):
                assert paint(opaque, path, frame).min() > 0.99


def test_the_layer_is_painted_where_the_path_says() -> None:
    layer = np.zeros((89, 89, 4), dtype=np.float32)
    cv2.circle(layer, (44 + 20, 44), 8, (1, 1, 1, 1), -1)  # a white disc, 20 px right of the centre
    path = Trajectory(*(np.array([value]) for value in (5.0, -3.0, 0.5, np.pi / 2)))
    picture = paint(Scene(np.zeros((48, 64, 3), np.float32), layer), path, 0)
    rows, columns = np.nonzero(picture[..., 0] > 0.5)
    # A quarter turn takes right to below (from x towards y, which points down), at half the distance.
    assert abs(columns.mean() - (31.5 + 5)) < 0.3
    assert abs(rows.mean() - (23.5 - 3 + 10)) < 0.3
    assert abs(len(rows) - np.pi * 4**2) < 0.2 * np.pi * 4**2


def _read(dataset: Dataset, part: str) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int64]]:
    videos = getattr(dataset, part)
    frames = [read_frames([v.frame_dir / name for name in list_frames(v.frame_dir)]) for v in videos]
    return frames, np.array([v.label for v in videos])


def _nearest_score(train: FloatArray, train_labels: FloatArray, test: FloatArray, test_labels: FloatArray) -> float:
    """Part of the test rows whose class most of the five nearest training rows have."""
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-9
    train, test = (train - mean) / scale, (test - mean) / scale
    nearest = np.argsort(((test[:, None] - train[None]) ** 2).sum(axis=2), axis=1)[:, :5]
    votes = [np.bincount(train_labels[row], minlength=len(MOTIONS)).argmax() for row in nearest]
    return float((np.array(votes) == test_labels).mean())


def _coarse_frames(videos: list[npt.NDArray[np.uint8]]) -> FloatArray:
    small = [cv2.resize(v[t], (12, 9), interpolation=cv2.INTER_AREA).ravel() for v in videos for t in (2, 9, 15)]
    return np.array(small, dtype=np.float64)


def _motion_features(video: npt.NDArray[np.uint8]) -> list[float]:
    """How much, and how steadily, the picture shifts, grows and turns from frame to frame, by its optical flow."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    height, width = grey[0].shape
    y, x = (axis.ravel() for axis in np.mgrid[:height, :width] - np.array([height / 2, width / 2])[:, None, None])
    zero, one = np.zeros_like(x), np.ones_like(x)
    # Flow of a similarity: (dx, dy) + growth * (x, y) + turn * (-y, x).
    design = np.concatenate([np.stack([one, zero, x, -y], 1), np.stack([zero, one, y, x], 1)])
    states = []
    for before, after in itertools.pairwise(grey):
        flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.7, 6, 31, 2, 7, 1.5, cv2.OPTFLOW_FARNEBACK_GAUSSIAN)
        states.append(np.linalg.lstsq(design, np.concatenate([flow[..., 0].ravel(), flow[..., 1].ravel()]))[0])
    motion = np.array(states) * [1, 1, height / 2, height / 2]
    spread = np.sqrt((motion**2).mean(axis=0))
    tilt = abs((motion[:, 0] * motion[:, 1]).mean()) / (spread[0] * spread[1])
    steady = np.median(np.hypot(motion[:, 0], motion[:, 1])) / np.hypot(spread[0], spread[1])
    return [*np.log(spread + 0.3), tilt, steady]


def test_motion_tells_the_class_and_a_frame_does_not(toy: Dataset) -> None:
    (train, train_labels), (test, test_labels) = _read(toy, "train"), _read(toy, "test")
    single = _nearest_score(
        _coarse_frames(train), np.repeat(train_labels, 3), _coarse_frames(test), np.repeat(test_labels, 3)
    )
    assert single < 0.22  # chance is 0.125, of 48 test videos
    moving = _nearest_score(
        np.array([_motion_features(v) for v in train]),
        train_labels,
        np.array([_motion_features(v) for v in test]),
        test_labels,
    )
    assert moving > 0.6


def test_frames_within_one_scene_do_not_tell_the_class_either(toy: Dataset) -> None:
    # The scene is known from the other classes' videos, so what is left of a frame are the things.
    videos, labels = _read(toy, "train")
    groups = np.array([video.name.split("_")[2] for video in toy.train])
    first = np.array([int(video.name[-2:]) % 4 < 2 for video in toy.train])
    coarse = _coarse_frames(videos).reshape(len(videos), 3, -1)
    for group in set(groups):
        coarse[groups == group] -= coarse[groups == group].mean(axis=(0, 1))
    rows = [coarse[part].reshape(-1, coarse.shape[2]) for part in (first, ~first)]
    score = _nearest_score(rows[0], np.repeat(labels[first], 3), rows[1], np.repeat(labels[~first], 3))
    assert score < 0.25


def test_the_layout(toy: Dataset) -> None:
    assert toy.classes == MOTIONS
    assert len(MOTIONS) >= 8
    assert (len(toy.train), len(toy.test)) == (80, 48)
    assert np.bincount([v.label for v in toy.train]).tolist() == [10] * 8
    assert all(video.name == f"v_{toy.classes[video.label]}_{video.name[-7:]}" for video in toy.train)
    scenes = [{video.name.split("_")[2] for video in part} for part in (toy.train, toy.test)]
    assert scenes == [{"g01", "g02"}, {"g01", "g02"}]
    assert read_frames([toy.train[0].frame_dir / "000001.jpg"]).shape == (1, 48, 64, 3)


def test_rows_are_those_of_the_gaze_model(tmp_path: Path) -> None:
    write_toy(tmp_path, **TINY)
    made = _digests(tmp_path / "toy" / "scan_idx_7")
    assert len(made) == 8 + 1  # of the training videos, and what they were made with
    report = compute_scanpaths(tmp_path / "toy", grid_num=7, seed=632, device="cpu", workers=1, overwrite=True)
    assert report.written == 16
    again = _digests(tmp_path / "toy" / "scan_idx_7")
    assert {name: again[name] for name in made} == made


def test_a_scene_looks_the_same_in_every_class() -> None:
    scenes = [draw_scene(generator(632, "toy scene", 3), 48, 64) for _ in range(2)]
    assert np.array_equal(scenes[0].background, scenes[1].background)
    other = draw_scene(generator(632, "toy scene", 4), 48, 64)
    assert np.abs(other.background - scenes[0].background).mean() > 0.02


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_bytes_depend_on_the_seed_and_not_on_the_workers(tmp_path: Path) -> None:
    for name, seed, workers in (("a", 3, 1), ("b", 3, 4), ("c", 4, 1)):
        write_toy(tmp_path, dataset=name, seed=seed, **(TINY | {"workers": workers}))
    one, two, other = (_digests(tmp_path / name) for name in "abc")
    assert one == two
    assert len(one) == 16 * 6 + 3 + 1 + 8 + 1
    assert sum(one[name] == other[name] for name in one if name.endswith(".jpg")) == 0


def test_what_is_there_is_found_again(tmp_path: Path) -> None:
    first = write_toy(tmp_path, **TINY)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").rglob("*")}
    again = write_toy(tmp_path, **TINY)
    assert (first.already_there, again.already_there) == (False, True)
    assert "already there" in str(again)
    assert "8 training and 8 test videos of 6 frames" in str(first)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").rglob("*")}


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    write_toy(tmp_path, **TINY)
    with pytest.raises(DataError, match="toy set of other parameters"):
        write_toy(tmp_path, seed=1, **TINY)
    (tmp_path / "UCF101").mkdir()
    with pytest.raises(DataError, match="exists and is not a toy set"):
        write_toy(tmp_path, dataset="UCF101", **TINY)
    (tmp_path / "new.partial").mkdir()
    with pytest.raises(DataError, match="is in the way"):
        write_toy(tmp_path, dataset="new", **TINY)


def test_an_interrupted_toy_is_done_again(tmp_path: Path) -> None:
    write_toy(tmp_path, dataset="whole", **TINY)
    (tmp_path / "whole").rename(tmp_path / "toy.partial")
    (tmp_path / "toy.partial" / "jpegs_256" / "stale").mkdir()
    write_toy(tmp_path, **TINY)
    assert not (tmp_path / "toy.partial").exists()
    assert not (tmp_path / "toy" / "jpegs_256" / "stale").exists()
    assert json.loads((tmp_path / "toy" / "toy.json").read_text())["frames"] == 6


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(
        DataError, match=r"toy\.partial: cannot be written: No space left on device; run the same again"
    ):
        write_toy(tmp_path, **TINY)
    monkeypatch.undo()
    assert not write_toy(tmp_path, **TINY).already_there


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"frames": 1}, "frames is 1; it must be at least 2"),
        ({"train_per_class": 0}, "train_per_class is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"width": 20}, "width is 20"),
        ({"height": 60}, "width 40 is below height 60"),
    ],
)
def test_parameters_out_of_range(tmp_path: Path, change: dict[str, int], what: str) -> None:
    with pytest.raises(DataError, match=what):
        write_toy(tmp_path, **(TINY | change))
    assert list(tmp_path.iterdir()) == []
