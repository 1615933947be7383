"""Scores as pure functions of arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["cluster_agreement", "confusion_matrix", "hit_at_k"]


def hit_at_k(
    neighbour_labels: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], ks: Sequence[int]
) -> dict[int, float]:
    """Part of the queries that find their class among their k nearest neighbours, in [0, 1].

    Not recall@k: one neighbour of the right class is enough.

    Args:
        neighbour_labels: Labels of the neighbours of each query, nearest first, `[Q, max(ks)]` or wider.
        labels: Labels of the queries, `[Q]`.
        ks: Values of k.
    """
    right = neighbour_labels == labels[:, None]
    return {k: float(right[:, :k].any(axis=1).mean()) for k in ks}


def cluster_agreement(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Adjusted Rand index (0 chance, 1 equal) and normalised mutual information (0 to 1) of two clusterings `[N]`."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score  # 1 s to import, seldom needed

    return float(adjusted_rand_score(first, second)), float(normalized_mutual_info_score(first, second))


def confusion_matrix(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.int64]:
    """How many of each class (row) were taken for each class (column), `[classes, classes]`."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)
