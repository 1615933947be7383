"""k-means with k-means++ seeding, exact and quick: searches through faiss on the CPU, through matrix products on a GPU.

Three things make it several times as fast as random starts of which the best is kept, at an objective that is lower:
k-means++ starts so much better that one start is enough; its seeds are drawn in blocks, so that finding their distances
is matrix products, and gives the first assignment with it; and a point is compared only with centroids that have moved,
where those that have not cannot be nearer than its own.

Sources: k-means++, Arthur and Vassilvitskii, SODA 2007; drawing it by rejection, Cohen-Addad et al., NeurIPS 2020,
arXiv:2012.11891. Shapes: N points of D dimensions, K clusters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.rng import generator

__all__ = [
    "KMeans",
    "Nearest",
    "assign_all",
    "fit_kmeans",
    "lloyd",
    "nearest_by_faiss",
    "nearest_by_torch",
    "nearest_on",
    "seed",
    "with_distances",
]

Nearest = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From points `[N, D]` and centroids `[K, D]` to squared distances `[N]` and numbers `[N]` of the nearest ones."""

_DRAWN = 128
"""Seeds drawn at a time: enough for a matrix product, few enough that most are accepted."""
_ROWS = 16_384
"""Points assigned at a time, which bounds the memory."""
_BLOCK = 1 << 26
"""Cosines that a GPU holds at a time, 256 MiB of them."""


@dataclass(frozen=True)
class KMeans:
    """A clustering of N points into K clusters; tensors on the device of the points."""

    centroids: Tensor
    """`[K, D]`."""
    labels: Tensor
    """Nearest centroid of each point, `[N]`."""
    squared: Tensor
    """Squared distance of each point to its centroid, `[N]`."""

    @property
    def objective(self) -> float:
        """Sum of the squared distances."""
        return float(self.squared.double().sum())


def fit_kmeans(
    points: Tensor, num_clusters: int, *, key: int, plus_plus: bool, iterations: int, restarts: int, nearest: Nearest
) -> KMeans:
    """Cluster `points` `[N, D]`; of several starts the one with the smallest objective.

    Args:
        points: float32, contiguous.
        num_clusters: K, at most N.
        key: Seed of the random numbers.
        plus_plus: Seed by k-means++, and not by points drawn uniformly.
        iterations: Of each start at most: it ends when no point changes its cluster.
        restarts: Starts.
        nearest: How the nearest centroids are found.
    """
    best: KMeans | None = None
    for start in range(restarts):
        seeds = seed(points, num_clusters, generator(key, "k-means", start), plus_plus=plus_plus, nearest=nearest)
        found = lloyd(points, seeds, iterations=iterations, nearest=nearest)
        if best is None or found.objective < best.objective:
            best = found
    assert best is not None
    return best


def nearest_on(device: torch.device) -> Nearest:
    """How the nearest centroids are found on a device."""
    return nearest_by_faiss if device.type == "cpu" else nearest_by_torch


def nearest_by_faiss(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """A `Nearest` for tensors on the CPU."""
    squared, labels = faiss.knn(points.numpy(), centroids.numpy(), 1)
    return torch.from_numpy(squared[:, 0]).clamp_(min=0), torch.from_numpy(labels[:, 0])


def nearest_by_torch(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """A `Nearest` for any device: matrix products in blocks that fit in its memory, without waiting for any of them."""
    squared, labels = points.new_empty(len(points)), points.new_empty(len(points), dtype=torch.int64)
    halves = centroids.square().sum(dim=1) / 2
    rows = max(1, _BLOCK // len(centroids))
    with _full_precision():
        for first in range(0, len(points), rows):
            block = slice(first, first + rows)
            # |x - c|^2 = |x|^2 + 2 (|c|^2 / 2 - x c), and |x|^2 decides nothing.
            least = torch.addmm(halves, points[block], centroids.T, alpha=-1).min(dim=1)
            squared[block] = points[block].square().sum(dim=1) + 2 * least.values
            labels[block] = least.indices
    return squared.clamp_(min=0), labels


@contextmanager
def _full_precision() -> Iterator[None]:
    """Whatever the networks compute with: TF32 errs by more than the distances between two centroids differ."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def seed(points: Tensor, num_clusters: int, rng: np.random.Generator, *, plus_plus: bool, nearest: Nearest) -> KMeans:
    """Points `[N, D]` as first centroids, and each point's nearest one.

    Random numbers come from the CPU, so that every device draws from the same ones.

    Args:
        points: To choose from.
        num_clusters: K.
        rng: Random numbers.
        plus_plus: A point is drawn with a chance in proportion to its squared distance to those drawn before it
            (k-means++); else all have the same chance.
        nearest: How the nearest centroids are found.
    """
    wanted = 1 if plus_plus else num_clusters
    chosen = rng.choice(len(points), wanted, replace=False)
    squared, labels = nearest(points, points[chosen])
    while len(chosen) < num_clusters:
        wanted = min(_DRAWN, max(8, len(chosen)), num_clusters - len(chosen))
        drawn = _draw(points, squared, wanted, rng)
        new_squared, new_labels = nearest(points, points[drawn])
        labels = torch.where(new_squared < squared, new_labels + len(chosen), labels)
        squared = torch.minimum(new_squared, squared)
        # Exactly, where a product of matrices leaves a little, which would be drawn again.
        squared[drawn] = 0
        labels[drawn] = torch.arange(len(chosen), len(chosen) + len(drawn), device=labels.device)
        chosen = np.concatenate([chosen, drawn])
    return KMeans(points[chosen], labels, squared)


def _draw(points: Tensor, squared: Tensor, wanted: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most `wanted` seeds at once, distributed as if drawn one after the other.

    All are drawn by the distances as they are, and each is then rejected with the part by which those accepted before
    it have lowered its own.
    """
    cumulated = np.cumsum(squared.cpu().numpy(), dtype=np.float64)
    if cumulated[-1] == 0:  # fewer distinct points than clusters
        return np.asarray(rng.choice(len(points), wanted, replace=False))
    drawn = np.searchsorted(cumulated, rng.random(wanted) * cumulated[-1], side="right").clip(max=len(points) - 1)
    rows = points[drawn].cpu()
    between = torch.cdist(rows, rows).square().numpy()
    between[drawn[:, None] == drawn[None, :]] = 0
    before = squared[drawn].cpu().numpy()
    places: list[int] = []
    for place, chance in enumerate(rng.random(wanted)):
        if chance * before[place] < between[place, places].min(initial=before[place]):
            places.append(place)
    accepted: npt.NDArray[np.int64] = drawn[places]
    return accepted


def lloyd(points: Tensor, start: KMeans, *, iterations: int, nearest: Nearest) -> KMeans:
    """Lloyd's iterations: centroids become means, points go to their nearest centroid, until none changes.

    A cluster that is left empty takes the point farthest from its centroid (as scikit-learn does; faiss halves a large
    cluster), which can only lower the objective.

    Args:
        points: `[N, D]`.
        start: First centroids and assignment.
        iterations: At most so many.
        nearest: How the nearest centroids are found.
    """
    centroids, labels, squared = start.centroids.clone(), start.labels.clone(), start.squared.clone()
    changed = torch.ones(len(centroids), dtype=torch.bool, device=points.device)
    for _ in range(iterations):
        _fill_empty(labels, squared, changed)
        _update(centroids, points, labels, changed)
        changed = _assign(points, centroids, labels, squared, changed, nearest)
        if not changed.any():
            break
    return KMeans(centroids, labels, squared)


def _fill_empty(labels: Tensor, squared: Tensor, changed: Tensor) -> None:
    """Give the farthest points to the clusters without one, in `labels` and `changed`."""
    counts = labels.bincount(minlength=len(changed))
    empty = (counts == 0).nonzero()[:, 0]
    if not len(empty):
        return
    far, places = torch.where(counts[labels] > 1, squared, 0).topk(len(empty))
    places, empty = places[far > 0], empty[far > 0]
    changed[labels[places]] = True
    changed[empty] = True
    labels[places] = empty


def _update(centroids: Tensor, points: Tensor, labels: Tensor, changed: Tensor) -> None:
    """Put changed centroids in the middle of their points; one without any stays where it is."""
    sums = torch.zeros_like(centroids)
    # Each is the one that gives the same bits each time on its device.
    if points.device.type == "cpu":
        sums.index_add_(0, labels, points)
    else:
        sums.index_put_((labels,), points, accumulate=True)
    counts = labels.bincount(minlength=len(centroids))[:, None]
    centroids.copy_(torch.where(changed[:, None] & (counts > 0), sums / counts.clamp(min=1), centroids))


def _assign(
    points: Tensor, centroids: Tensor, labels: Tensor, squared: Tensor, changed: Tensor, nearest: Nearest
) -> Tensor:
    """Move points to nearer centroids, in `labels` and `squared`; returns which clusters have changed, `[K]`.

    Exact: a centroid that has not moved is no nearer than a point's own was before. So only a point whose own centroid
    has moved away from it has to look at all of them, and any other only at those that have moved.
    """
    moved, every = changed.nonzero()[:, 0], torch.arange(len(centroids), device=points.device)
    now_changed = torch.zeros_like(changed)
    for first in range(0, len(points), _ROWS):
        x, own, before = (values[first : first + _ROWS] for values in (points, labels, squared))
        stale = changed[own].nonzero()[:, 0]
        now = before.clone()
        now[stale] = _squared_distance(x[stale], centroids[own[stale]])
        away = now > before
        for group, pool in ((~away, moved), (away, every)):
            places = group.nonzero()[:, 0]
            if not len(places) or not len(pool):
                continue
            found_squared, found = nearest(x[places], centroids[pool])
            nearer = (found_squared < now[places]).nonzero()[:, 0]
            places, found = places[nearer], pool[found[nearer]]
            # Once more without the rounding of a product: so the objective falls with every move, and all this ends.
            exact = _squared_distance(x[places], centroids[found])
            nearer = ((exact < now[places]) & (found != own[places])).nonzero()[:, 0]
            places, found = places[nearer], found[nearer]
            now_changed[own[places]] = True
            now_changed[found] = True
            now[places], own[places] = exact[nearer], found
        before.copy_(now)
    return now_changed


def assign_all(points: Tensor, centroids: Tensor) -> KMeans:
    """Every point to its nearest centroid.

    Args:
        points: `[N, D]`, on the CPU; sent to the centroids' device in blocks.
        centroids: `[K, D]`.
    """
    nearest = nearest_on(centroids.device)
    labels = [nearest(x.to(centroids.device), centroids)[1].cpu() for x in torch.split(points, _ROWS)]
    return with_distances(points, centroids.cpu(), torch.cat(labels))


def with_distances(points: Tensor, centroids: Tensor, labels: Tensor) -> KMeans:
    """A clustering `labels` `[N]`, measured."""
    blocks = zip(torch.split(points, _ROWS), torch.split(labels, _ROWS), strict=True)
    return KMeans(centroids, labels, torch.cat([_squared_distance(x, centroids[own]) for x, own in blocks]))


def _squared_distance(points: Tensor, centroids: Tensor) -> Tensor:
    """Of each point to the centroid in its row, `[N]`, without the rounding of a product of matrices."""
    return (points - centroids).square_().sum(dim=1)
