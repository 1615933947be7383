"""The record of a clustering, read back and compared with what went in."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from saccade.clustering import cluster_metrics, write_clustering
from saccade.datasets.layout import Video
from saccade.prototypes import Prototypes

VIDEOS = [
    Video(f"v_{name}", label, Path(), 20, ()) for name, label in (("run_g01", 1), ("bend_g01", 0), ("run_g02", 1))
]
CLASSES = ("bend", "run")


def clustering(assignment: list[int], num_clusters: int, seed: int = 0, **numbers: float) -> Prototypes:
    rng = np.random.default_rng(seed)
    return Prototypes(
        assignment=np.array(assignment, np.int64),
        distance=rng.uniform(size=len(assignment)).astype(np.float32),
        centroids=rng.normal(size=(num_clusters, 4)).astype(np.float32),
        density=rng.uniform(size=num_clusters).astype(np.float32),
        density_mean=numbers.get("density_mean", 0.5),
        objective=numbers.get("objective", 2.5),
    )


FIRST, SECOND = clustering([2, 0, 2, 1, 1, 2], 4), clustering([0, 0, 1, 1, 1, 0], 2, seed=1)


def test_a_row_for_each_fixation_and_clustering(tmp_path: Path) -> None:
    folder = tmp_path / "clusters" / "epoch_0245"
    write_clustering(folder, [FIRST, SECOND], VIDEOS, CLASSES, 2)
    rows = pq.read_table(folder / "assignments.parquet").to_pylist()
    assert list(rows[0]) == ["video", "fixation", "class", "clustering", "cluster", "distance", "cluster_density"]
    assert len(rows) == 12
    for number, row in enumerate(rows):
        which, slot = divmod(number, 6)
        prototypes, video = (FIRST, SECOND)[which], VIDEOS[slot // 2]
        assert row == {
            "video": video.name,
            "fixation": slot % 2,
            "class": CLASSES[video.label],
            "clustering": which,
            "cluster": prototypes.assignment[slot],
            "distance": prototypes.distance[slot],
            "cluster_density": prototypes.density[prototypes.assignment[slot]],
        }
    # By hand: fixation 1 of the second video is slot 3, in cluster 1 of both clusterings.
    assert [(r["video"], r["cluster"]) for r in rows if r["fixation"] == 1][1] == ("v_bend_g01", 1)


def test_centroids_are_read_back_to_the_bit(tmp_path: Path) -> None:
    write_clustering(tmp_path, [FIRST, SECOND], VIDEOS, CLASSES, 2)
    for i, prototypes in enumerate([FIRST, SECOND]):
        read = np.load(tmp_path / f"centroids_{i}.npy", allow_pickle=False)
        assert read.dtype == np.float32
        assert read.tobytes() == prototypes.centroids.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "assignments.parquet",
        "centroids_0.npy",
        "centroids_1.npy",
    ]


def test_writing_again_replaces(tmp_path: Path) -> None:
    write_clustering(tmp_path, [SECOND, SECOND], VIDEOS, CLASSES, 2)
    first = (tmp_path / "assignments.parquet").read_bytes()
    write_clustering(tmp_path, [FIRST, SECOND], VIDEOS, CLASSES, 2)
    assert (tmp_path / "assignments.parquet").read_bytes() != first
    write_clustering(tmp_path, [SECOND, SECOND], VIDEOS, CLASSES, 2)
    assert (tmp_path / "assignments.parquet").read_bytes() == first


def slow_ari(first: list[int], second: list[int]) -> float:
    """Adjusted Rand index over pairs of points."""
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    together = sum(first[i] == first[j] and second[i] == second[j] for i, j in pairs)
    one, other = (sum(c * (c - 1) / 2 for c in Counter(labels).values()) for labels in (first, second))
    expected = one * other / len(pairs)
    return (together - expected) / ((one + other) / 2 - expected)


def test_metrics_are_named_as_the_ui_shows_them() -> None:
    now = [clustering([2, 0, 2, 1, 1, 2], 4, objective=7.0, density_mean=0.3), SECOND]
    assert cluster_metrics(now, []) == {
        "clusters/0/objective": 7.0,
        "clusters/0/nonempty": 3,
        "clusters/0/density_mean": 0.3,
        "clusters/1/objective": 2.5,
        "clusters/1/nonempty": 2,
        "clusters/1/density_mean": 0.5,
    }
    before = [clustering([3, 1, 3, 0, 0, 3], 4), clustering([0, 1, 0, 1, 0, 1], 2)]
    values = cluster_metrics(now, before)
    assert values.keys() == {
        f"clusters/{i}/{name}"
        for i in (0, 1)
        for name in ("objective", "nonempty", "density_mean", "ari_to_previous", "nmi_to_previous")
    }
    # The first is the same partition under other numbers.
    assert values["clusters/0/ari_to_previous"] == pytest.approx(1.0)
    assert values["clusters/0/nmi_to_previous"] == pytest.approx(1.0)
    expected = slow_ari([0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 1])
    assert values["clusters/1/ari_to_previous"] == pytest.approx(expected)
