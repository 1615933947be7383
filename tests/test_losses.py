"""The losses against slow, literal numpy versions of method.md."""

import math

import numpy as np
import pytest
import torch

from saccade.losses import consistency_loss, propagate, prototype_loss, saccade_contrast_loss, updated_slots


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float32)


class TestSaccadeContrast:
    def test_equals_the_formula(self) -> None:
        rng = np.random.default_rng(0)
        clips, rows, dim, k = 6, 20, 8, 9
        p, memory = unit(rng, clips, dim), unit(rng, rows, dim)
        own, negatives = rng.integers(rows, size=clips), rng.integers(rows, size=(clips, k))
        negatives[0, 0] = own[0]  # the own slot may be drawn
        losses, probabilities = [], []
        for i in range(clips):
            logits = [memory[j] @ p[i] / 0.07 for j in [own[i], *negatives[i]]]
            total = sum(math.exp(v) for v in logits)
            probabilities.append(math.exp(logits[0]) / total)
            losses.append(-math.log(probabilities[-1]))
        loss, probability = saccade_contrast_loss(
            tensor(p), tensor(memory), torch.tensor(own), torch.tensor(negatives), temperature=0.07
        )
        assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
        assert probability.item() == pytest.approx(np.mean(probabilities), rel=1e-5)

    def test_no_information_costs_log_of_the_candidates(self) -> None:
        same = torch.ones(4, 3) / math.sqrt(3)
        loss, probability = saccade_contrast_loss(
            same, same, torch.arange(4), torch.zeros(4, 15, dtype=torch.long), temperature=0.07
        )
        assert loss.item() == pytest.approx(math.log(16), rel=1e-6)
        assert probability.item() == pytest.approx(1 / 16, rel=1e-6)

    def test_gradients_flow_into_both_sides(self) -> None:
        p = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        memory = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
        saccade_contrast_loss(p, memory, torch.arange(4), torch.tensor([[4, 5, 6]] * 4), temperature=0.5)[0].backward()
        assert p.grad is not None
        assert memory.grad is not None
        assert (p.grad.abs().sum(1) > 0).all()
        assert (memory.grad.abs().sum(1) > 0).all()


class TestUpdatedSlots:
    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
    def test_equals_one_update_after_the_other(self, momentum: float) -> None:
        rng = np.random.default_rng(1)
        memory, features = rng.normal(size=(10, 4)), rng.normal(size=(7, 4))
        slots = np.array([3, 1, 3, 7, 1, 3, 0])
        expected = memory.copy()
        for slot, v in zip(slots, features, strict=True):
            expected[slot] = momentum * expected[slot] + (1 - momentum) * v
        bank = tensor(memory)
        where = torch.tensor(slots)
        bank[where] = updated_slots(bank[where], where, tensor(features), momentum=momentum)
        np.testing.assert_allclose(bank.numpy(), expected, atol=1e-6)


def slow_propagate(z: np.ndarray, g: np.ndarray, power: float, clamp: float) -> np.ndarray:
    """z, g: [C, N]."""
    channels, positions = z.shape
    out = np.zeros((channels, positions))
    for i in range(positions):
        for j in range(positions):
            cosine = z[:, i] @ z[:, j] / np.linalg.norm(z[:, i]) / np.linalg.norm(z[:, j])
            affinity = max(cosine, clamp)
            if power < 1:
                affinity += 1e-6
            out[:, i] += affinity**power * g[:, j] / np.linalg.norm(g[:, j])
    return out


class TestConsistency:
    @pytest.mark.parametrize(("power", "clamp"), [(1, 0), (4, 0), (0.5, 0), (2, 0.1)])
    def test_propagation_equals_the_formula(self, power: float, clamp: float) -> None:
        rng = np.random.default_rng(2)
        z, g = rng.normal(size=(2, 5, 12)), rng.normal(size=(2, 5, 12))
        expected = [slow_propagate(z[b], g[b], power, clamp) for b in range(2)]
        np.testing.assert_allclose(
            propagate(tensor(z), tensor(g), power=power, clamp=clamp).numpy(), expected, rtol=2e-4, atol=1e-5
        )

    @pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
    def test_loss_is_the_mean_of_both_directions(self, distance: str) -> None:
        rng = np.random.default_rng(3)
        z1, z2, g1, g2 = rng.normal(size=(4, 2, 5, 6))

        def compare(prediction: np.ndarray, target: np.ndarray) -> float:
            if distance == "l1":
                return float(np.abs(prediction - target).mean())
            if distance == "l2":
                return float(((prediction - target) ** 2).mean())
            norms = np.linalg.norm(prediction, axis=0) * np.linalg.norm(target, axis=0)
            return float(-((prediction * target).sum(axis=0) / norms).mean())

        expected = np.mean(
            [
                (
                    compare(slow_propagate(z2[b], g2[b], 1, 0), z1[b])
                    + compare(slow_propagate(z1[b], g1[b], 1, 0), z2[b])
                )
                / 2
                for b in range(2)
            ]
        )
        loss = consistency_loss(*map(tensor, (z1, z2, g1, g2)), power=1, distance=distance)
        assert loss.item() == pytest.approx(expected, rel=1e-4)

    def test_a_target_gets_no_gradient(self) -> None:
        maps = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
        first, second = maps.clone().requires_grad_(), maps.clone().requires_grad_()
        values = torch.zeros(1, 4, 6)
        # With values that are zero the predictions are constant, so all that is left are the targets.
        consistency_loss(first, second, values, values, power=1.0).backward()
        assert first.grad is not None
        assert torch.count_nonzero(first.grad) == 0


class TestPrototypes:
    def test_equals_the_formula(self) -> None:
        rng = np.random.default_rng(4)
        clips, k, dim = 5, 12, 6
        p, centroids = unit(rng, clips, dim), rng.normal(size=(k, dim)) * 3
        density, own = rng.uniform(0.05, 0.2, k), rng.integers(4, size=clips)
        candidates = np.zeros(k, bool)
        candidates[[0, 1, 2, 3, 7, 9]] = True
        losses, right = [], []
        for i in range(clips):
            logits = {
                c: p[i] @ centroids[c] / np.linalg.norm(centroids[c]) / density[c] for c in range(k) if candidates[c]
            }
            losses.append(-logits[own[i]] + math.log(sum(math.exp(v) for v in logits.values())))
            right.append(max(logits, key=lambda c: logits[c]) == own[i])
        loss, accuracy = prototype_loss(
            tensor(p), tensor(centroids), tensor(density), torch.tensor(own), torch.tensor(candidates)
        )
        assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
        assert accuracy.item() == pytest.approx(np.mean(right))
