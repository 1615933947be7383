"""Prototypes: faiss k-means over the features of all fixations, with the density of each cluster.

Source: Lai et al. 2023 (see losses.py); prototypes and densities after PCL, Li et al., 2021, arXiv:2005.04966.
"""

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from saccade.errors import SpecError

__all__ = ["Prototypes", "cluster_density", "fit_prototypes", "kmeans_on_gpu"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_DENSITY_SMOOTHING = 10
_DENSITY_PERCENTILES = (10, 90)


@dataclass(frozen=True)
class Prototypes:
    """One clustering of N points into K clusters."""

    assignment: Labels
    """Cluster of each point, `[N]`."""
    distance: Floats
    """Euclidean distance of each point to its centroid, `[N]`."""
    centroids: Floats
    """`[K, D]`, not normalised."""
    density: Floats
    """Spread of each cluster, scaled to a mean of the temperature, `[K]`: the larger, the looser the cluster."""
    density_mean: float
    """Mean of the densities before they are scaled: smaller means tighter clusters."""
    objective: float
    """Sum of the squared distances."""

    @property
    def nonempty(self) -> int:
        """How many clusters have a member."""
        return int(np.unique(self.assignment).size)


def cluster_density(distance: Floats, assignment: Labels, num_clusters: int) -> npt.NDArray[np.float64]:
    """Density of each cluster, `[K]`: mean distance of its members / log(members + 10), bounded.

    Clusters of fewer than two members take the largest density; then all are clipped to their 10th and 90th percentile.

    Args:
        distance: Distance (not squared) of each point to its centroid, `[N]`.
        assignment: Cluster of each point, `[N]`.
        num_clusters: K.
    """
    members = np.bincount(assignment, minlength=num_clusters)
    total = np.bincount(assignment, weights=distance, minlength=num_clusters)
    density = total / np.maximum(members, 1) / np.log(members + _DENSITY_SMOOTHING)
    density[members < 2] = density.max()
    low, high = np.percentile(density, _DENSITY_PERCENTILES)
    bounded: npt.NDArray[np.float64] = np.clip(density, low, high)
    return bounded


def _scaled(density: npt.NDArray[np.float64], mean: float) -> Floats:
    if density.mean() == 0:  # every cluster is a single point: no spread to tell them apart
        return np.full(len(density), mean, np.float32)
    scaled: Floats = (density * (mean / density.mean())).astype(np.float32)
    return scaled


def fit_prototypes(
    features: Floats,
    num_clusters: int,
    *,
    seed: int,
    temperature: float,
    iterations: int = 20,
    restarts: int = 5,
    max_points_per_centroid: int = 1000,
    min_points_per_centroid: int = 10,
) -> Prototypes:
    """Cluster `features` by k-means and measure the clusters.

    Args:
        features: `[N, D]`, float32.
        num_clusters: K, at most N.
        seed: Of the initial centroids and the sample.
        temperature: Mean of the densities.
        iterations: Of each restart.
        restarts: Of which the one with the smallest objective is kept.
        max_points_per_centroid: A sample of this many points per centroid is clustered when there are more.
        min_points_per_centroid: faiss prints a warning below this.

    Raises:
        SpecError: When there are fewer points than clusters.
    """
    points, dim = features.shape
    if num_clusters > points:
        raise SpecError(
            f"prototypes.num_clusters: {num_clusters} clusters need at least as many fixations, "
            f"and there are {points} (training videos x focus_num); lower it"
        )
    features = np.ascontiguousarray(features, np.float32)
    kmeans = faiss.Clustering(dim, num_clusters)
    kmeans.seed, kmeans.niter, kmeans.nredo = seed, iterations, restarts
    kmeans.max_points_per_centroid = max_points_per_centroid
    kmeans.min_points_per_centroid = min_points_per_centroid
    index = _flat_index(dim)
    kmeans.train(features, index)
    squared, assignment = index.search(features, 1)
    distance = np.sqrt(np.maximum(squared[:, 0], 0))
    labels = assignment[:, 0].astype(np.int64)
    density = cluster_density(distance, labels, num_clusters)
    return Prototypes(
        assignment=labels,
        distance=distance,
        centroids=faiss.vector_to_array(kmeans.centroids).reshape(num_clusters, dim),
        density=_scaled(density, temperature),
        density_mean=float(density.mean()),
        objective=float(np.square(distance, dtype=np.float64).sum()),
    )


def kmeans_on_gpu() -> bool:
    """Whether faiss-gpu is installed and sees a GPU."""
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _flat_index(dim: int) -> faiss.Index:
    """An exact L2 index, on the GPU if it can."""
    if kmeans_on_gpu():
        return faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), dim)
    return faiss.IndexFlatL2(dim)
