"""The three losses of the method and the memory's update, as pure functions in fp32.

Source: Lai et al., "Self-supervised Video Representation Learning via Capturing Semantic Changes Indicated by
Saccades", IEEE TCSVT 2023, doi 10.1109/TCSVT.2023.3290938.

Shapes: M clips in a batch (B videos x V = 2F clips), D dimensions of the projection, S rows of the memory in use, K
negatives, P prototypes; B videos, C channels and N positions (F * t * h * w) of a feature map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "consistency_loss",
    "propagate",
    "prototype_loss",
    "saccade_contrast_loss",
    "updated_slots",
]


def saccade_contrast_loss(
    projected: Tensor, projected_memory: Tensor, own: Tensor, negatives: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Loss 1: tell the memory slot of a clip's own fixation from K drawn ones, other fixations of its video among them.

    Args:
        projected: Normalised projections of the clips, `[M, D]`.
        projected_memory: Normalised projections of the memory rows in use, `[S, D]`.
        own: Row of each clip's own slot, `[M]`.
        negatives: Rows of the drawn slots, `[M, K]`; the own one may be among them.
        temperature: Divisor of the cosines, above 0.

    Returns:
        The loss averaged over the clips, and the mean softmax probability of the own slot (1 = solved).
    """
    # All cosines, then a gather: one matrix product instead of M x (K + 1) gathered rows of D.
    cosines = projected.float() @ projected_memory.float().T
    logits = cosines.gather(1, torch.cat([own[:, None], negatives], dim=1)) / temperature
    log_probability = F.log_softmax(logits, dim=1)[:, 0]
    return -log_probability.mean(), log_probability.detach().exp().mean()


def updated_slots(memory_rows: Tensor, slots: Tensor, features: Tensor, *, momentum: float) -> Tensor:
    """New memory rows of a batch: `m = momentum * m + (1 - momentum) * v`, in batch order where a slot comes twice.

    Args:
        memory_rows: Present rows, `memory[slots]`, `[M, C]`.
        slots: Slot of each clip, `[M]`.
        features: Pooled features of the clips, `[M, C]`.
        momentum: Part of a row that stays.

    Returns:
        Rows for `memory[slots] = ...`, `[M, C]`; clips of one slot get equal rows, so the order of writing is free.
    """
    same = slots[:, None] == slots[None, :]
    # A clip's weight shrinks with every later clip of its slot; the old row's with every clip of its slot.
    later = same.triu(diagonal=1).sum(dim=1)
    weights = same * ((1 - momentum) * momentum ** later.float())[None, :]
    kept = momentum ** same.sum(dim=1).float()
    return kept[:, None] * memory_rows + weights @ features.float()


def propagate(maps: Tensor, values: Tensor, *, power: float, clamp: float = 0.0) -> Tensor:
    """Rebuild each position from all positions, weighted by their affinity `max(cos(z_i, z_j), clamp) ** power` [0].

    [0] PixPro, Xie et al., 2021, arXiv:2011.10043.

    Args:
        maps: Projected features z, `[B, C, N]`.
        values: What is propagated, g, `[B, C, N]`; normalised over channels here.
        power: Exponent of the affinities.
        clamp: Lower bound of the affinities, at least 0.

    Returns:
        `sum_j A_ij g_j`, `[B, C, N]`.
    """
    z = F.normalize(maps.float(), dim=1)
    affinity = (z.transpose(1, 2) @ z).clamp(min=clamp)
    if power < 1:
        affinity = affinity + 1e-6  # the slope of x ** power is infinite at 0
    return F.normalize(values.float(), dim=1) @ (affinity**power).transpose(1, 2)


def _distance(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    target = target.detach().float()
    if kind == "l1":
        return F.l1_loss(prediction, target)
    if kind == "l2":
        return F.mse_loss(prediction, target)
    return -F.cosine_similarity(prediction, target, dim=1).mean()


def consistency_loss(
    first: Tensor,
    second: Tensor,
    first_values: Tensor,
    second_values: Tensor,
    *,
    power: float,
    clamp: float = 0.0,
    distance: str = "l1",
) -> Tensor:
    """Loss 2: each view's map, propagated, predicts the other view's map.

    Args:
        first: Projected maps of the first views of a video's fixations, joined along time, `[B, C, N]`.
        second: The same of the second views.
        first_values: Values to propagate, computed from `first`, `[B, C, N]`.
        second_values: The same from `second`.
        power: Exponent of the affinities.
        clamp: Lower bound of the affinities.
        distance: "l1", "l2" (mean over everything) or "cosine" (negative, over channels).

    Returns:
        Mean of the two directions; no gradient flows into a map as target.
    """
    from_second = propagate(second, second_values, power=power, clamp=clamp)
    from_first = propagate(first, first_values, power=power, clamp=clamp)
    return (_distance(from_second, first, distance) + _distance(from_first, second, distance)) / 2


def prototype_loss(
    projected: Tensor, centroids: Tensor, density: Tensor, own: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss 3 for one clustering: tell a clip's own prototype from the candidates, each at its cluster's density.

    Args:
        projected: Normalised projections of the clips, `[M, D]`.
        centroids: k-means centroids, `[P, D]`; normalised here.
        density: Spread of each cluster, `[P]`, which stands where a temperature would.
        own: Prototype of each clip, `[M]`.
        candidates: Which prototypes take part, booleans `[P]`: those of the batch and the drawn negatives.

    Returns:
        The loss averaged over the clips, and the part of the clips whose own prototype has the largest logit.
    """
    logits = projected.float() @ F.normalize(centroids.float(), dim=1).T / density.float()
    logits = logits.masked_fill(~candidates[None, :], float("-inf"))
    accuracy = (logits.argmax(dim=1) == own).float().mean()
    return F.cross_entropy(logits, own), accuracy
