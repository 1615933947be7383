"""Scores by hand, and agreement against its definition."""

from itertools import combinations
from math import log

import numpy as np
import pytest

from saccade.metrics import cluster_agreement, confusion_matrix, hit_at_k


def test_hits_by_hand() -> None:
    neighbours = np.array([[1, 0, 2], [2, 2, 0], [0, 1, 1], [1, 1, 1]])
    labels = np.array([0, 0, 0, 2])
    assert hit_at_k(neighbours, labels, [1, 2, 3]) == {1: 0.25, 2: 0.5, 3: 0.75}


def test_agreement_by_counting_pairs() -> None:
    a = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    b = np.array([1, 1, 0, 0, 0, 2, 2, 1])
    pairs = list(combinations(range(8), 2))
    both = sum(a[i] == a[j] and b[i] == b[j] for i, j in pairs)
    in_a, in_b = sum(a[i] == a[j] for i, j in pairs), sum(b[i] == b[j] for i, j in pairs)
    chance = in_a * in_b / len(pairs)
    ari = (both - chance) / ((in_a + in_b) / 2 - chance)

    def entropy(x: np.ndarray) -> float:
        return -sum((x == v).mean() * log((x == v).mean()) for v in set(x.tolist()))

    joint = entropy(a * 10 + b)
    nmi = (entropy(a) + entropy(b) - joint) / ((entropy(a) + entropy(b)) / 2)
    assert cluster_agreement(a, b) == (pytest.approx(ari), pytest.approx(nmi))
    assert cluster_agreement(a, (a + 1) % 3) == (pytest.approx(1), pytest.approx(1))


def test_confusions_by_hand() -> None:
    labels, predicted = np.array([0, 0, 2, 2, 2, 1]), np.array([0, 2, 2, 0, 0, 1])
    # Class 3 has no video and is never guessed.
    assert confusion_matrix(labels, predicted, 4).tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [2, 0, 1, 0], [0] * 4]
