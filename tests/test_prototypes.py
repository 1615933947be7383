"""Prototypes against slow numpy and clusters that are known."""

import math

import faiss
import numpy as np
import pytest
import torch

from saccade import prototypes
from saccade.errors import SpecError
from saccade.prototypes import cluster_density, fit_prototypes, k_means_starts

BOTH = pytest.mark.parametrize("seeding", ["kmeans++", "random"])


def blobs(per_cluster: int = 40, dim: int = 8, clusters: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dim)) * 10
    labels = np.repeat(np.arange(clusters), per_cluster)
    spread = 0.1 * (1 + np.arange(clusters))[labels, None]
    return (centres[labels] + rng.normal(size=(len(labels), dim)) * spread).astype(np.float32), labels


@BOTH
def test_known_clusters_are_found(seeding: str) -> None:
    features, labels = blobs()
    found = fit_prototypes(features, 5, seed=1234, temperature=0.07, seeding=seeding, restarts=40)
    assert found.nonempty == 5
    for label in range(5):
        assert len(set(found.assignment[labels == label])) == 1
    for cluster in range(5):
        members = features[found.assignment == cluster]
        np.testing.assert_allclose(found.centroids[cluster], members.mean(axis=0), rtol=1e-4, atol=1e-4)


@BOTH
def test_assignment_distance_and_objective_are_those_of_the_nearest_centroid(seeding: str) -> None:
    features, _ = blobs()
    found = fit_prototypes(features, 7, seed=3, temperature=0.07, seeding=seeding)
    distances = np.linalg.norm(features[:, None] - found.centroids[None], axis=2)
    np.testing.assert_array_equal(found.assignment, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distance, distances.min(axis=1), rtol=1e-4)
    assert found.objective == pytest.approx((distances.min(axis=1) ** 2).sum(), rel=1e-5)


def test_density_equals_the_formula() -> None:
    rng = np.random.default_rng(1)
    assignment = rng.choice([0, 1, 2, 3, 5, 6, 7, 8, 9, 10], size=200)
    assignment = np.append(assignment, 4)  # a cluster of one; cluster 11 has none
    distance = rng.uniform(0.1, 2, size=201).astype(np.float32)
    raw = []
    for k in range(12):
        mine = [float(d) for d, a in zip(distance, assignment, strict=True) if a == k]
        raw.append(sum(mine) / len(mine) / math.log(len(mine) + 10) if len(mine) > 1 else None)
    largest = max(value for value in raw if value is not None)
    filled = np.array([largest if value is None else value for value in raw])
    expected = np.clip(filled, np.percentile(filled, 10), np.percentile(filled, 90))
    np.testing.assert_allclose(cluster_density(distance, assignment, 12), expected, rtol=1e-6)


def test_densities_are_scaled_to_the_temperature() -> None:
    features, _ = blobs()
    found = fit_prototypes(features, 6, seed=0, temperature=0.07)
    raw = cluster_density(found.distance, found.assignment, 6)
    assert found.density.mean() == pytest.approx(0.07, rel=1e-5)
    np.testing.assert_allclose(found.density, raw * 0.07 / raw.mean(), rtol=1e-5)
    assert found.density_mean == pytest.approx(raw.mean())


@BOTH
def test_videos_that_are_there_twice_make_no_prototype_infinitely_sharp(seeding: str) -> None:
    """Half of the clusters are copies of a point: their density would be 0, and what is divided by it infinite."""
    rng = np.random.default_rng(0)
    copies = np.repeat(10 * np.eye(8, dtype=np.float32)[:4], 20, axis=0)
    others = np.repeat(10 * np.eye(8, dtype=np.float32)[4:], 20, axis=0) + rng.normal(size=(80, 8)).astype(np.float32)
    found = fit_prototypes(np.concatenate([copies, others]), 8, seed=0, temperature=0.07, seeding=seeding)
    assert [len(set(found.assignment[20 * k : 20 * k + 20].tolist())) for k in range(4)] == [1] * 4
    assert found.density.min() > 0.02
    assert found.density.mean() == pytest.approx(0.07, rel=1e-5)


@BOTH
def test_points_without_spread_get_the_temperature(seeding: str) -> None:
    features = np.eye(4, dtype=np.float32)
    found = fit_prototypes(features, 4, seed=0, temperature=0.07, seeding=seeding)
    assert found.density == pytest.approx([0.07] * 4)


@BOTH
def test_the_same_seed_gives_the_same_bytes(seeding: str) -> None:
    features, _ = blobs()
    first, second = (fit_prototypes(features, 9, seed=5, temperature=0.07, seeding=seeding) for _ in range(2))
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(first.assignment, second.assignment)


def test_more_clusters_than_points_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"num_clusters: 300 clusters need at least as many fixations, and there are 200"
    ):
        fit_prototypes(blobs()[0], 300, seed=0, temperature=0.07)


def test_random_seeding_is_faiss_as_published() -> None:
    features, _ = blobs()
    theirs = faiss.Kmeans(8, 6, niter=20, nredo=5, seed=7, max_points_per_centroid=1000, min_points_per_centroid=10)
    theirs.train(features)
    found = fit_prototypes(features, 6, seed=7, temperature=0.07, seeding="random")
    np.testing.assert_array_equal(found.centroids, theirs.centroids)
    np.testing.assert_array_equal(found.assignment, theirs.index.search(features, 1)[1][:, 0])
    assert fit_prototypes(features, 6, seed=7, temperature=0.07).objective == found.objective  # so few clusters


@pytest.mark.parametrize(
    ("seeding", "restarts", "num_clusters", "expected"),
    [
        ("auto", None, 1500, (True, 1)),
        ("auto", None, 1000, (True, 1)),
        ("auto", None, 999, (False, 5)),
        ("auto", 3, 1500, (True, 3)),
        ("kmeans++", None, 10, (True, 1)),
        ("random", None, 1500, (False, 5)),
        ("random", 2, 1500, (False, 2)),
    ],
)
def test_how_k_means_begins(seeding: str, restarts: int | None, num_clusters: int, expected: tuple[bool, int]) -> None:
    assert k_means_starts(seeding, restarts, num_clusters) == expected


@BOTH
def test_a_sample_is_clustered_and_all_points_are_assigned(seeding: str) -> None:
    features, _ = blobs(per_cluster=200)
    found = fit_prototypes(features, 10, seed=0, temperature=0.07, seeding=seeding, max_points_per_centroid=30)
    distances = np.linalg.norm(features[:, None] - found.centroids[None], axis=2)
    np.testing.assert_array_equal(found.assignment, distances.argmin(axis=1))
    # Means of 300 of the 1000 points, where no iteration moves all of them.
    means = np.stack([features[found.assignment == k].mean(axis=0) for k in range(10)])
    assert not np.allclose(found.centroids, means, atol=1e-4)
    every = fit_prototypes(features, 10, seed=0, temperature=0.07, seeding=seeding)
    assert found.objective == pytest.approx(every.objective, rel=0.5)


def test_a_gpu_without_faiss_gpu_starts_at_random_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a CPU can tell: another kind of device takes the way through PyTorch."""
    features, _ = blobs()
    asked = []
    fit = prototypes.fit_kmeans

    def recording(points: torch.Tensor, *arguments: object, **settings: object) -> object:
        asked.append((points.device.type, settings["plus_plus"], settings["restarts"]))
        points, settings["nearest"] = torch.from_numpy(features), prototypes.nearest_on(torch.device("cpu"))
        return fit(points, *arguments, **settings)

    monkeypatch.setattr(prototypes, "fit_kmeans", recording)
    found = fit_prototypes(features, 6, seed=0, temperature=0.07, seeding="random", device=torch.device("meta"))
    assert asked == [("meta", False, 5)]
    distances = np.linalg.norm(features[:, None] - found.centroids[None], axis=2)
    np.testing.assert_array_equal(found.assignment, distances.argmin(axis=1))
