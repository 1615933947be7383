"""Prototypes against slow numpy and clusters that are known."""

import math

import numpy as np
import pytest

from saccade.errors import SpecError
from saccade.prototypes import cluster_density, fit_prototypes


def blobs(per_cluster: int = 40, dim: int = 8, clusters: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dim)) * 10
    labels = np.repeat(np.arange(clusters), per_cluster)
    spread = 0.1 * (1 + np.arange(clusters))[labels, None]
    return (centres[labels] + rng.normal(size=(len(labels), dim)) * spread).astype(np.float32), labels


def test_known_clusters_are_found() -> None:
    features, labels = blobs()
    found = fit_prototypes(features, 5, seed=1234, temperature=0.07, restarts=40)
    assert found.nonempty == 5
    for label in range(5):
        assert len(set(found.assignment[labels == label])) == 1
    for cluster in range(5):
        members = features[found.assignment == cluster]
        np.testing.assert_allclose(found.centroids[cluster], members.mean(axis=0), rtol=1e-4, atol=1e-4)


def test_assignment_distance_and_objective_are_those_of_the_nearest_centroid() -> None:
    features, _ = blobs()
    found = fit_prototypes(features, 7, seed=3, temperature=0.07)
    distances = np.linalg.norm(features[:, None] - found.centroids[None], axis=2)
    np.testing.assert_array_equal(found.assignment, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distance, distances.min(axis=1), atol=2e-2)
    assert found.objective == pytest.approx((distances.min(axis=1) ** 2).sum(), rel=1e-3)


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


def test_points_without_spread_get_the_temperature() -> None:
    features = np.eye(4, dtype=np.float32)
    assert fit_prototypes(features, 4, seed=0, temperature=0.07).density == pytest.approx([0.07] * 4)


def test_the_same_seed_gives_the_same_bytes() -> None:
    features, _ = blobs()
    first, second = (fit_prototypes(features, 9, seed=5, temperature=0.07) for _ in range(2))
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(first.assignment, second.assignment)


def test_more_clusters_than_points_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"num_clusters: 300 clusters need at least as many fixations, and there are 200"
    ):
        fit_prototypes(blobs()[0], 300, seed=0, temperature=0.07)
