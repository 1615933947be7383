"""Prototypes: k-means over the features of all fixations, with the density of each cluster.

Source: Lai et al. 2023 (see losses.py); prototypes and densities after PCL, Li et al., 2021, arXiv:2005.04966.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

from saccade.errors import SpecError
from saccade.kmeans import KMeans, assign_all, fit_kmeans, nearest_on, with_distances
from saccade.rng import generator

__all__ = ["Prototypes", "cluster_density", "fit_prototypes", "k_means_starts"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_CPU = torch.device("cpu")
_MANY_CLUSTERS = 1000
"""From here on one start of k-means++ was better than five random ones; with few clusters, starts differ by more."""
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

    Clusters of fewer than two members take the largest density, as do those whose members are all the same point, of
    which the formula would say that nothing is ever near them; then all are clipped to their 10th and 90th percentile.

    Args:
        distance: Distance (not squared) of each point to its centroid, `[N]`.
        assignment: Cluster of each point, `[N]`.
        num_clusters: K.
    """
    members = np.bincount(assignment, minlength=num_clusters)
    total = np.bincount(assignment, weights=distance, minlength=num_clusters)
    density = total / np.maximum(members, 1) / np.log(members + _DENSITY_SMOOTHING)
    density[(members < 2) | (total == 0)] = density.max()
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
    seeding: str = "auto",
    iterations: int = 20,
    restarts: int | None = None,
    max_points_per_centroid: int = 1000,
    min_points_per_centroid: int = 10,
    device: torch.device = _CPU,
) -> Prototypes:
    """Cluster `features` by k-means and measure the clusters.

    Args:
        features: `[N, D]`, float32.
        num_clusters: K, at most N.
        seed: Of the initial centroids and the sample.
        temperature: Mean of the densities.
        seeding: "kmeans++" (saccade.kmeans), "random", the published setting, in faiss, or "auto".
        iterations: Of each start.
        restarts: Starts, of which the one with the smallest objective is kept; None: 1 of kmeans++, 5 random ones.
        max_points_per_centroid: A sample of this many points per centroid is clustered when there are more, and all
            points go to the nearest centroid then.
        min_points_per_centroid: faiss prints a warning below this, with random seeding.
        device: Where to compute. On a GPU only the sample and a block of the features are held at a time.

    Raises:
        SpecError: When there are fewer points than clusters.
    """
    points = len(features)
    if num_clusters > points:
        raise SpecError(
            f"prototypes.num_clusters: {num_clusters} clusters need at least as many fixations, "
            f"and there are {points} (training videos x focus_num); lower it"
        )
    features = np.ascontiguousarray(features, np.float32)
    plus_plus, starts = k_means_starts(seeding, restarts, num_clusters)
    if not plus_plus and (device.type == "cpu" or _faiss_has_gpu()):
        kmeans = faiss.Clustering(features.shape[1], num_clusters)
        kmeans.seed, kmeans.niter, kmeans.nredo = seed, iterations, starts
        kmeans.max_points_per_centroid = max_points_per_centroid
        kmeans.min_points_per_centroid = min_points_per_centroid
        found = _by_faiss(features, kmeans)
    else:
        rng = generator(seed, "k-means sample")
        sample = _sample(features, num_clusters * max_points_per_centroid, rng)
        fit = fit_kmeans(
            torch.from_numpy(sample).to(device),
            num_clusters,
            key=seed,
            plus_plus=plus_plus,
            iterations=iterations,
            restarts=starts,
            nearest=nearest_on(device),
        )
        found = fit if sample is features else assign_all(torch.from_numpy(features), fit.centroids)
    return _measured(found, temperature)


def k_means_starts(seeding: str, restarts: int | None, num_clusters: int) -> tuple[bool, int]:
    """Whether k-means begins as k-means++, and how often, for the arguments of `fit_prototypes`."""
    plus_plus = seeding == "kmeans++" or (seeding == "auto" and num_clusters >= _MANY_CLUSTERS)
    return plus_plus, restarts or (1 if plus_plus else 5)


def _sample(features: Floats, most: int, rng: np.random.Generator) -> Floats:
    """All features, or a sample of them."""
    if len(features) <= most:
        return features
    sampled: Floats = features[np.sort(rng.choice(len(features), most, replace=False))]
    return sampled


def _by_faiss(features: Floats, kmeans: faiss.Clustering) -> KMeans:
    """The published setting."""
    index = _flat_index(kmeans.d)
    kmeans.train(features, index)
    _, assignment = index.search(features, 1)
    centroids = torch.from_numpy(faiss.vector_to_array(kmeans.centroids).reshape(kmeans.k, kmeans.d))
    return with_distances(torch.from_numpy(features), centroids, torch.from_numpy(assignment[:, 0]))


def _measured(found: KMeans, temperature: float) -> Prototypes:
    squared, labels = found.squared.cpu().numpy(), found.labels.cpu().numpy()
    distance = np.sqrt(squared)
    density = cluster_density(distance, labels, len(found.centroids))
    return Prototypes(
        assignment=labels,
        distance=distance,
        centroids=found.centroids.cpu().numpy(),
        density=_scaled(density, temperature),
        density_mean=float(density.mean()),
        objective=float(squared.sum(dtype=np.float64)),
    )


def _faiss_has_gpu() -> bool:
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


@cache
def _gpu_resources() -> Any:
    return faiss.StandardGpuResources()  # a GiB and more of scratch memory: one for all clusterings


def _flat_index(dim: int) -> faiss.Index:
    """An exact L2 index, on the GPU if it can."""
    return faiss.GpuIndexFlatL2(_gpu_resources(), dim) if _faiss_has_gpu() else faiss.IndexFlatL2(dim)
