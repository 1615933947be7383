"""k-means against slow numpy, and its two ways of searching against each other."""

from collections.abc import Callable

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from saccade import kmeans
from saccade.kmeans import KMeans, assign_all, fit_kmeans, lloyd, nearest_by_faiss, nearest_by_torch, seed

SEARCHES = pytest.mark.parametrize("nearest", [nearest_by_faiss, nearest_by_torch])
Nearest = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixture(points: int = 600, dim: int = 12, groups: int = 25, *, key: int = 0) -> Tensor:
    """Points around centres that overlap, so that Lloyd's iterations have something to do."""
    rng = np.random.default_rng(key)
    centres = rng.normal(size=(groups, dim))
    return torch.from_numpy(
        (centres[rng.integers(groups, size=points)] + 0.6 * rng.normal(size=(points, dim))).astype(np.float32)
    )


def slow_distances(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return ((points.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]) ** 2).sum(axis=2)


def slow_lloyd(points: np.ndarray, centroids: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Every point with every centroid, each time; no cluster may come to be empty."""
    centroids = centroids.astype(np.float64)
    labels = slow_distances(points, centroids).argmin(axis=1)
    for _ in range(iterations):
        centroids = np.stack([points[labels == k].mean(axis=0, dtype=np.float64) for k in range(len(centroids))])
        labels = slow_distances(points, centroids).argmin(axis=1)
    return centroids, labels


def random_start(points: Tensor, num_clusters: int, nearest: Nearest = nearest_by_faiss) -> KMeans:
    return seed(points, num_clusters, np.random.default_rng(3), plus_plus=False, nearest=nearest)


@SEARCHES
def test_the_nearest_centroid(nearest: Nearest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_BLOCK", 17 * 50)  # many blocks, and a last one that is not full
    points = mixture()
    centroids = points[::12].clone()
    squared, labels = nearest(points, centroids)
    expected = slow_distances(points.numpy(), centroids.numpy())
    np.testing.assert_array_equal(labels.numpy(), expected.argmin(axis=1))
    np.testing.assert_allclose(squared.numpy(), expected.min(axis=1), atol=1e-4)
    assert squared.min() >= 0


@SEARCHES
@pytest.mark.parametrize("iterations", [1, 4, 50])
def test_skipping_centroids_changes_nothing(nearest: Nearest, iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_ROWS", 250)
    points = mixture()
    start = random_start(points, 30, nearest)
    found = lloyd(points, start, iterations=iterations, nearest=nearest)
    centroids, labels = slow_lloyd(points.numpy(), start.centroids.numpy(), iterations)
    assert len(np.unique(labels)) == 30
    np.testing.assert_array_equal(found.labels.numpy(), labels)
    np.testing.assert_allclose(found.centroids.numpy(), centroids, atol=1e-5)
    expected = slow_distances(points.numpy(), centroids).min(axis=1)
    np.testing.assert_allclose(found.squared.numpy(), expected, rtol=1e-4)
    assert found.objective == pytest.approx(expected.sum(), rel=1e-5)


def test_centroids_are_skipped() -> None:
    compared = []

    def counting(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        compared.append(len(points) * len(centroids))
        return nearest_by_faiss(points, centroids)

    points = mixture()
    start, rounds = random_start(points, 30), 0
    while True:  # how many iterations it takes
        rounds += 1
        compared.clear()
        lloyd(points, start, iterations=rounds, nearest=counting)
        if sum(compared) < len(points) * 30 * rounds / 2:
            break
        assert rounds < 30


@SEARCHES
def test_it_goes_on_as_faiss_does_from_the_same_start(nearest: Nearest) -> None:
    points = mixture(900, 16, 40)
    start = random_start(points, 45, nearest)
    theirs = faiss.Clustering(16, 45)
    theirs.niter, theirs.min_points_per_centroid = 6, 1
    faiss.copy_array_to_vector(start.centroids.numpy().ravel(), theirs.centroids)
    index = faiss.IndexFlatL2(16)
    theirs.train(points.numpy(), index)
    squared, labels = index.search(points.numpy(), 1)
    found = lloyd(points, start, iterations=6, nearest=nearest)
    np.testing.assert_array_equal(found.labels.numpy(), labels[:, 0])
    assert found.objective == pytest.approx(squared.sum(dtype=np.float64), rel=1e-5)
    np.testing.assert_allclose(
        found.centroids.numpy(), faiss.vector_to_array(theirs.centroids).reshape(45, 16), atol=1e-5
    )


def test_both_searches_give_the_same_clustering() -> None:
    settings = {"num_clusters": 40, "key": 7, "plus_plus": True, "iterations": 20, "restarts": 2}
    points = mixture(2000, 24, 60)
    first, second = (
        fit_kmeans(points, nearest=nearest, **settings) for nearest in (nearest_by_faiss, nearest_by_torch)
    )
    np.testing.assert_array_equal(first.labels.numpy(), second.labels.numpy())
    assert first.objective == pytest.approx(second.objective, rel=1e-6)


def test_more_starts_are_never_worse() -> None:
    points = mixture()
    objectives = [
        fit_kmeans(points, 30, key=1, plus_plus=True, iterations=3, restarts=starts, nearest=nearest_by_faiss).objective
        for starts in (1, 2, 4, 8)
    ]
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] < objectives[0]


def test_seeds_know_their_nearest() -> None:
    points = mixture()
    start = seed(points, 200, np.random.default_rng(0), plus_plus=True, nearest=nearest_by_faiss)
    expected = slow_distances(points.numpy(), start.centroids.numpy())
    np.testing.assert_array_equal(start.labels.numpy(), expected.argmin(axis=1))
    np.testing.assert_allclose(start.squared.numpy(), expected.min(axis=1), atol=1e-4)
    assert len(np.unique(start.labels)) == 200


def test_seeds_are_distributed_as_those_of_kmeans_plus_plus() -> None:
    """Pairs of the second and third seed, against the chances that the definition gives; drawn in one block."""
    points = torch.tensor([[0.0, 0], [1, 0], [3, 0], [0, 5], [0.5, 0.5]])
    between = slow_distances(points.numpy(), points.numpy())
    expected = np.zeros((5, 5))
    for second in range(5):
        chance = between[0, second] / between[0].sum()
        left = np.minimum(between[0], between[second])
        expected[second] += chance * left / left.sum()
    rng, times = np.random.default_rng(0), 2500
    drawn = np.zeros((5, 5))
    for _ in range(times):
        found = kmeans._draw(points, torch.from_numpy(between[0]), 12, rng)
        if len(found) == 1:  # the block's others were all rejected
            left = np.minimum(between[0], between[found[0]])
            found = np.append(found, kmeans._draw(points, torch.from_numpy(left), 1, rng))
        drawn[found[0], found[1]] += 1
    np.testing.assert_allclose(drawn / times, expected, atol=0.03)  # three standard deviations of the largest


def test_an_empty_cluster_takes_the_farthest_point() -> None:
    points = torch.tensor([[0.0], [1], [2], [10]])
    centroids = torch.tensor([[1.0], [50], [60]])  # nothing is near the last two
    squared, labels = nearest_by_faiss(points, centroids)
    found = lloyd(points, KMeans(centroids, labels, squared), iterations=20, nearest=nearest_by_faiss)
    # The farthest two of the first cluster, 10 and then 0 or 2, become clusters.
    assert found.labels.bincount(minlength=3).tolist() == [2, 1, 1]
    assert found.objective == pytest.approx(0.5)


def test_fewer_distinct_points_than_clusters() -> None:
    points = torch.tensor([[0.0, 1]] * 5 + [[2.0, 2]] * 4)
    found = fit_kmeans(points, 6, key=0, plus_plus=True, iterations=20, restarts=1, nearest=nearest_by_faiss)
    assert found.objective == 0
    np.testing.assert_array_equal(found.centroids[found.labels].numpy(), points.numpy())


def test_all_points_to_their_nearest_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_ROWS", 64)
    points = mixture()
    found = assign_all(points, points[:20].clone())
    expected = slow_distances(points.numpy(), points[:20].numpy())
    np.testing.assert_array_equal(found.labels.numpy(), expected.argmin(axis=1))
    np.testing.assert_allclose(found.squared.numpy(), expected.min(axis=1), rtol=1e-5, atol=1e-10)
