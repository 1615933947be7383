import errno
import hashlib
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
from saccade.datasets.toy import write_toy
from saccade.datasets.toy_motion import MOTIONS, Trajectory, draw_trajectory
from saccade.datasets.toy_scene import draw_scene, paint
from saccade.errors import DataError
from saccade.rng import generator

FloatArray = npt.NDArray[np.float64]
SMALL = {"train_per_class": 10, "test_per_class": 6, "frames": 18, "height": 48, "width": 64}
TINY = {"train_per_class": 1, "test_per_class": 1, "frames": 6, "height": 32, "width": 40}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("data")
    write_toy(root, **SMALL)
    return load_dataset(root, "toy", split=1, grid_num=7, scanpaths=True, min_frames=16)


def _paths(motion: str, count: int, frames: int = 40) -> list[Trajectory]:
    draws = (generator(5, motion, index) for index in range(count))
    return [draw_trajectory(motion, rng, frames=frames, height=80, width=107) for rng in draws]


def _mirrored(path: Trajectory) -> Trajectory:
    return Trajectory(x=107 - path.x, y=path.y, radius=path.radius, angle=-path.angle)


def _turns(values: FloatArray) -> int:
    """How often a value turns back in a video: slow drifting does so at most 3 times, a running phase at least 6."""
    return int((np.diff(np.sign(np.diff(values))) != 0).sum())


def _is_sinusoid(values: FloatArray) -> bool:
    """A sinusoid's second difference is proportional to the distance from its centre; trembling has no such law."""
    return bool(np.corrcoef(np.diff(values, 2), values[1:-1])[0, 1] < -0.999)


def _named(path: Trajectory) -> str:
    """Class of a path by what one sees: what runs, and how."""
    if _turns(path.radius) >= 5:
        return "Pulse"
    if np.abs(np.diff(path.angle)).mean() > 2 * np.pi / 20:
        return "Spin"
    if not (_is_sinusoid(path.x) and _is_sinusoid(path.y)):
        return "Hop" if np.hypot(np.diff(path.x), np.diff(path.y)).max() > 21 else "Shake"
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
        columns = [[p.x[frame], p.y[frame], p.radius[frame], p.angle[frame] % (2 * np.pi)] for p in paths]
        states[motion] = np.array(columns)
    for motion in MOTIONS:
        others = np.concatenate([states[other] for other in MOTIONS if other != motion])
        for column in range(4):
            # Two samples of one law differ by more than this once in 100,000 times.
            limit = 2.4 * np.sqrt(1 / count + 1 / len(others))
            assert _distance_of_laws(states[motion][:, column], others[:, column]) < limit, (motion, column)


def test_position_and_size_stay_in_the_frame() -> None:
    for motion in MOTIONS:
        for path in _paths(motion, 50):
            assert min(path.x.min(), path.y.min(), 107 - path.x.max(), 80 - path.y.max()) > 0
            assert min(path.radius.min() - 4, 28 - path.radius.max()) > 0


def test_a_painted_thing_is_where_the_path_says() -> None:
    thing = np.zeros((88, 88, 4), dtype=np.float32)
    cv2.circle(thing, (43, 43), 27, (1, 1, 1, 1), -1)
    thing[44:, :, :3] = 0  # its lower half is black
    path = Trajectory(*(np.array([value]) for value in (30.0, 20.0, 8.5, np.pi / 2)))
    picture = paint(np.full((48, 64, 3), 0.5, dtype=np.float32), thing, path, 0)
    changed = np.abs(picture[..., 0] - 0.5) > 0.25
    rows, columns = np.nonzero(changed)
    assert abs(columns.mean() - 30) < 0.8
    assert abs(rows.mean() - 20) < 0.8
    assert abs(changed.sum() - np.pi * 8.5**2) < 0.15 * np.pi * 8.5**2
    # A quarter turn takes the upper half to the right (from x towards y, which points down).
    assert picture[20, 34, 0] > 0.9
    assert picture[20, 26, 0] < 0.1


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
    """How the part that differs from the median picture moves and grows, and how frames differ in time."""
    grey = video.astype(float).mean(axis=3)
    away = np.abs(grey - np.median(grey, axis=0))
    away[away < 12] = 0
    mass = away.sum(axis=(1, 2)) + 1
    x = (away * np.arange(away.shape[2])).sum(axis=(1, 2)) / mass
    y = (away.sum(axis=2) * np.arange(away.shape[1])).sum(axis=1) / mass
    change = np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2))
    covariance = np.cov(x, y)
    tilt = abs(covariance[0, 1]) / np.sqrt(covariance[0, 0] * covariance[1, 1] + 1e-9)
    steady = np.median(change) / change.max()
    return [
        np.log(x.std() + 0.3),
        np.log(y.std() + 0.3),
        tilt,
        mass.std() / mass.mean(),
        steady,
        change.min() / change.max(),
    ]


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
    # The scene is known from the other classes' videos, so what is left of a frame is the mover.
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


def test_rows_are_the_cells_of_an_eye_that_follows_the_mover(toy: Dataset) -> None:
    parameters = module._Parameters(module._VERSION, 632, 10, 6, 18, 48, 64, 7)
    plans = {plan.name: plan for plan in module._plans(parameters)}
    rows_seen = 0
    for video in toy.train:
        _, path = module._render(plans[video.name], parameters)
        cells = []
        for frame in range(18):
            # The eye is at the mean of nine frames; before the first and after the last the mover rests.
            near = [min(max(frame + offset, 0), 17) for offset in range(-4, 5)]
            x, y = path.x[near].mean(), path.y[near].mean()
            row = next(r for r in range(7) if y < (r + 1) * 48 / 7)
            column = next(c for c in range(7) if x < (c + 1) * 64 / 7)
            cells.append(row * 7 + column)
        for fixation in video.fixations:
            assert set(cells[fixation.start : fixation.end]) == {fixation.cell}
            assert fixation.end - fixation.start >= 3
        rows_seen += len(video.fixations)
    assert rows_seen > 80


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
        write_toy(tmp_path, dataset=name, seed=seed, workers=workers, **TINY)
    one, two, other = (_digests(tmp_path / name) for name in "abc")
    assert one == two
    assert len(one) == 16 * 6 + 16 + 3 + 1
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
