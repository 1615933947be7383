"""The training step against a slow, literal version of method.md."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade import pretrain
from saccade.engine.device import Machine
from saccade.errors import RunError
from saccade.learner import Learner
from saccade.pretrain import Recipe, training_losses, training_step
from saccade.rng import derive_seed

from ..split_mix import split_mix
from .small import CPU, VIDEOS, F, batch, clusterings, made

# The method, slowly ------------------------------------------------------------------------------------------------


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def drawn_negatives(slots: int, clips: int, number: int, step: int) -> np.ndarray:
    words = itertools.islice(split_mix(derive_seed(11, "negatives", step)), clips * number)
    return np.array([(word >> 32) * slots >> 32 for word in words]).reshape(clips, number)


def softmax_loss(logits: Sequence[float], right: int = 0) -> tuple[float, float]:
    """Cross-entropy and the probability of the right one."""
    total = sum(math.exp(logit) for logit in logits)
    return -math.log(math.exp(logits[right]) / total), math.exp(logits[right]) / total


Project = Callable[[np.ndarray], np.ndarray]


def slow_projection(learner: Learner) -> Project:
    linear = learner.projection.linear
    weight, bias = (parameter.detach().double().numpy() for parameter in (linear.weight, linear.bias))
    return lambda x: unit(weight @ x + bias)


def slow_consistency(learner: Learner, maps: np.ndarray) -> float:
    """Loss 2 of maps `[M, C, t, h, w]`, position for position."""
    assert learner.propagation is not None
    convs = learner.propagation.projector, learner.propagation.value_transform
    z_weight, g_weight = (conv.weight.detach().double().numpy()[:, :, 0, 0, 0] for conv in convs)
    z_bias, g_bias = (conv.bias.detach().double().numpy() for conv in convs if conv.bias is not None)

    def positions(video: int, view: int) -> list[np.ndarray]:
        """z of every position of the F clips of a view, fixations one after the other in time."""
        first = video * 2 * F + view * F
        found = []
        for m in range(first, first + F):
            _, t, h, w = maps[m].shape
            found += [z_weight @ maps[m][:, a, b, c] + z_bias for a in range(t) for b in range(h) for c in range(w)]
        return found

    def propagated(z: list[np.ndarray]) -> list[np.ndarray]:
        g = [unit(g_weight @ zj + g_bias) for zj in z]
        return [sum(max(unit(zi) @ unit(zj), 0) ** 2 * gj for zj, gj in zip(z, g, strict=True)) for zi in z]

    distances = []
    for video in range(len(maps) // (2 * F)):
        for source, target in ((1, 0), (0, 1)):
            predicted = propagated(positions(video, source))
            wanted = positions(video, target)
            distances.append(np.mean([np.abs(a - b).mean() for a, b in zip(predicted, wanted, strict=True)]))
    return float(np.mean(distances))


def slow_prototypes(learner: Learner, v: np.ndarray, slots: Sequence[int], p: Project) -> tuple[float, float]:
    """Loss 3 with every prototype as a candidate, and its accuracy."""
    losses, right = [], []
    for clustering in learner.prototypes:
        centroids, density = clustering.centroids.astype(float), clustering.density.astype(float)
        for m, slot in enumerate(slots):
            own = int(clustering.assignment[slot])
            logits = [p(v[m]) @ unit(c) / d for c, d in zip(centroids, density, strict=True)]
            losses.append(softmax_loss(logits, own)[0])
            right.append(max(range(len(logits)), key=logits.__getitem__) == own)
    return float(np.mean(losses)), float(np.mean(right))


def slow_losses(
    learner: Learner, clips: Tensor, masks: Tensor, videos: Sequence[int], *, negatives: int
) -> dict[str, Any]:
    """All losses, one clip after the other, in float64."""
    with torch.no_grad():
        features, maps = copy.deepcopy(learner.encoder).forward_levels(clips, masks, 0, 4)
    v, memory, p = features.double().numpy(), learner.memory.rows.double().numpy(), slow_projection(learner)
    # Clip m of video b: fixation m % F of it, first views before second views; its slot is video * F + fixation.
    slots = [videos[m // (2 * F)] * F + m % F for m in range(len(clips))]
    drawn = drawn_negatives(len(memory), len(clips), negatives, learner.step)
    contrast = [softmax_loss([p(memory[j]) @ p(v[m]) / 0.07 for j in [slots[m], *drawn[m]]]) for m in range(len(clips))]
    result: dict[str, Any] = {
        "features": v,
        "slots": slots,
        "pretrain/loss_saccade": np.mean([loss for loss, _ in contrast]),
        "pretrain/positive_probability": np.mean([probability for _, probability in contrast]),
        "pretrain/loss_consistency": slow_consistency(learner, maps.double().numpy()),
    }
    total = result["pretrain/loss_saccade"] + 0.7 * result["pretrain/loss_consistency"]
    if learner.prototypes:
        loss, accuracy = slow_prototypes(learner, v, slots, p)
        result |= {"pretrain/loss_prototype": loss, "pretrain/prototype_accuracy": accuracy}
        total += 0.3 * loss
    result["pretrain/loss"] = total
    return result


def fast_losses(learner: Learner, recipe: Recipe, clips: Tensor, masks: Tensor, slots: list[int]) -> dict[str, float]:
    _, metrics, _ = training_losses(learner, recipe, clips, masks, torch.tensor(slots), CPU)
    return {name: value.item() for name, value in metrics.items()}


class TestLosses:
    # 16 negatives of each of 12 clips among 14 slots: the whole bank is projected. 3 among 80: only the rows drawn.
    @pytest.mark.parametrize(("negatives", "videos"), [(16, VIDEOS), (3, 40)], ids=["whole bank", "unique rows"])
    @pytest.mark.parametrize("prototypes", [False, True])
    def test_equal_the_method(self, negatives: int, videos: int, prototypes: bool) -> None:
        learner, recipe = made(f"contrast.num_negatives={negatives}", videos=videos)
        if prototypes:
            # No more clusters than negatives may be drawn, so that all of them take part.
            learner.set_prototypes(clusterings((5, 6) if negatives == 16 else (3, 2), slots=videos * F))
        clips, masks, which = batch()
        expected = slow_losses(learner, clips, masks, which.tolist(), negatives=negatives)
        slots = expected.pop("slots")
        features = expected.pop("features")
        rows, _, _ = pretrain._memory_rows(learner, recipe, torch.tensor(slots))
        assert (rows is None) == (negatives == 16)
        loss, metrics, returned = training_losses(learner, recipe, clips, masks, torch.tensor(slots), CPU)
        assert metrics.keys() == expected.keys()
        for name, value in metrics.items():
            assert value.item() == pytest.approx(expected[name], rel=2e-4), name
        assert loss.item() == metrics["pretrain/loss"].item()
        np.testing.assert_allclose(returned.numpy(), features, atol=1e-5)
        assert not returned.requires_grad

    def test_projecting_all_rows_or_those_drawn_is_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        learner, recipe = made("contrast.num_negatives=3", videos=40)
        clips, masks, videos = batch()
        slots = (videos[:, None] * F + torch.arange(F).repeat(2)).flatten()

        def run() -> tuple[Tensor, list[Tensor]]:
            learner.optimizer.zero_grad()
            loss, _, _ = training_losses(learner, recipe, clips, masks, slots, CPU)
            loss.backward()
            parameters = [*learner.encoder.parameters(), *learner.projection.parameters()]
            return loss.detach(), [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]

        rows, own, negatives = pretrain._memory_rows(learner, recipe, slots)
        assert rows is not None
        assert len(rows) < 80
        assert rows[own].tolist() == slots.tolist()
        assert rows[negatives].tolist() == drawn_negatives(80, 12, 3, 4).tolist()
        loss, gradients = run()
        monkeypatch.setattr(pretrain, "_memory_rows", lambda *_: (None, slots, rows[negatives]))
        whole_loss, whole_gradients = run()
        torch.testing.assert_close(loss, whole_loss, rtol=1e-6, atol=0)
        for one, other in zip(gradients, whole_gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)

    def test_negatives_change_with_the_step_and_the_seed_only(self) -> None:
        slots = torch.arange(6)

        def negatives(step: int, *overrides: str) -> list[list[int]]:
            learner, recipe = made(*overrides, step=step)
            return pretrain._memory_rows(learner, recipe, slots)[2].tolist()

        torch.manual_seed(0)
        first = negatives(4)
        torch.manual_seed(1)
        assert negatives(4) == first
        assert negatives(5) != first
        assert negatives(4, "seed=12") != first
        assert {slot for row in first for slot in row} == set(range(VIDEOS * F))  # 96 draws of 14 slots

    def test_left_out_losses_are_not_logged(self) -> None:
        learner, recipe = made("consistency.weight=0")
        clips, masks, _ = batch()
        metrics = fast_losses(learner, recipe, clips, masks, [10, 11, 10, 11, 0, 1, 0, 1, 6, 7, 6, 7])
        assert metrics.keys() == {"pretrain/loss", "pretrain/loss_saccade", "pretrain/positive_probability"}
        assert metrics["pretrain/loss"] == metrics["pretrain/loss_saccade"]

    def test_the_mask_matters_where_the_recipe_says_so(self) -> None:
        clips, masks, _ = batch()
        slots = [10, 11, 10, 11, 0, 1, 0, 1, 6, 7, 6, 7]
        with_mask = fast_losses(*made(), clips, masks, slots)
        unmasked = fast_losses(*made("saccade.focus_level=-1"), clips, masks, slots)
        assert with_mask["pretrain/loss"] != unmasked["pretrain/loss"]
        assert unmasked == fast_losses(*made(), clips, torch.zeros_like(masks), slots)

    def test_under_bf16_the_losses_are_near_and_in_fp32(self) -> None:
        learner, recipe = made()
        learner.set_prototypes(clusterings())
        clips, masks, _ = batch()
        slots = torch.tensor([10, 11, 10, 11, 0, 1, 0, 1, 6, 7, 6, 7])
        exact = fast_losses(learner, recipe, clips, masks, slots.tolist())
        half = Machine(torch.device("cpu"), "bf16")
        loss, metrics, features = training_losses(learner, recipe, clips, masks, slots, half)
        assert loss.dtype == features.dtype == torch.float32
        assert metrics["pretrain/loss"].item() == pytest.approx(exact["pretrain/loss"], rel=0.05)


class OnGpu(Tensor):
    """A tensor that says so."""

    is_cuda = True  # type: ignore[assignment]


def test_a_gpu_takes_the_same_rows_without_finding_repeated_ones() -> None:
    learner, recipe = made("contrast.num_negatives=3", videos=40)
    slots = torch.tensor([10, 11, 10, 11])
    rows, own, negatives = pretrain._memory_rows(learner, recipe, slots.as_subclass(OnGpu))
    assert rows is not None
    assert len(rows) == len(slots) * (1 + 3)
    assert rows[own].tolist() == slots.tolist()
    assert rows[negatives].tolist() == drawn_negatives(80, 4, 3, learner.step).tolist()
    fewer, own, negatives = pretrain._memory_rows(learner, recipe, slots)
    assert fewer is not None
    assert len(fewer) == len(set(rows.tolist())) < len(rows)
    assert fewer[own].tolist() == slots.tolist()
    assert fewer[negatives].tolist() == drawn_negatives(80, 4, 3, learner.step).tolist()


class TestCandidates:
    @staticmethod
    def draw(num_clusters: int, negatives: int, slots: list[int], step: int = 4) -> tuple[set[int], set[int]]:
        """Prototypes that take part, and those of the batch."""
        learner, recipe = made(f"contrast.num_negatives={negatives}", step=step)
        learner.set_prototypes(clusterings([num_clusters]))
        own = {int(learner.prototypes[0].assignment[slot]) for slot in slots}
        candidates = pretrain._candidates(learner, recipe, 0, torch.tensor(slots))
        assert candidates.shape == (num_clusters,)
        return set(candidates.nonzero().flatten().tolist()), own

    @pytest.mark.parametrize(("num_clusters", "negatives"), [(50, 10), (50, 1), (14, 10), (12, 10), (3, 10)])
    def test_own_ones_and_as_many_others_as_there_are_or_may_be(self, num_clusters: int, negatives: int) -> None:
        taking_part, own = self.draw(num_clusters, negatives, [0, 1, 0, 1, 6])
        assert own <= taking_part
        assert len(taking_part - own) == min(negatives, num_clusters - len(own))

    def test_others_are_drawn_evenly(self) -> None:
        learner, recipe = made("contrast.num_negatives=3")
        learner.set_prototypes(clusterings([10]))
        own = set(learner.prototypes[0].assignment[:2].tolist())
        counts = np.zeros(10)
        for learner.step in range(400):
            taking_part = pretrain._candidates(learner, recipe, 0, torch.tensor([0, 1])).nonzero().flatten().tolist()
            counts[list(set(taking_part) - own)] += 1
        others = [cluster for cluster in range(10) if cluster not in own]
        expected = 400 * 3 / len(others)
        assert counts.sum() == 1200
        # Standard deviation of a count is below sqrt(expected); five of them.
        assert np.abs(counts[others] - expected).max() < 5 * math.sqrt(expected)

    def test_each_clustering_draws_for_itself(self) -> None:
        learner, recipe = made("contrast.num_negatives=5")
        one = clusterings([40])[0]
        learner.set_prototypes([one, one])
        first, second = (pretrain._candidates(learner, recipe, i, torch.tensor([0, 1])) for i in (0, 1))
        assert not torch.equal(first, second)
        assert torch.equal(first, pretrain._candidates(learner, recipe, 0, torch.tensor([0, 1])))

    def test_the_loss_sees_the_candidates_only(self) -> None:
        learner, recipe = made("contrast.num_negatives=2")
        learner.set_prototypes(clusterings([9]))
        clips, masks, _ = batch()
        slots = [10, 11, 10, 11, 0, 1, 0, 1, 6, 7, 6, 7]
        candidates = pretrain._candidates(learner, recipe, 0, torch.tensor(slots))
        before = fast_losses(learner, recipe, clips, masks, slots)
        learner.targets[0][1][~candidates] += 100.0
        assert fast_losses(learner, recipe, clips, masks, slots) == before
        learner.targets[0][1][candidates] += 100.0
        assert fast_losses(learner, recipe, clips, masks, slots) != before


class TestStep:
    def test_a_slot_is_written_by_its_first_view_and_then_by_its_second(self) -> None:
        learner, recipe = made()
        clips, masks, videos = batch()
        memory, slow = (
            learner.memory.rows.clone().double().numpy(),
            slow_losses(learner, *batch()[:2], [5, 0, 3], negatives=16),
        )
        for m, slot in enumerate([10, 11, 10, 11, 0, 1, 0, 1, 6, 7, 6, 7]):
            assert slow["slots"][m] == slot
            memory[slot] = 0.5 * memory[slot] + 0.5 * slow["features"][m]
        training_step(learner, recipe, clips, masks, videos, CPU)
        np.testing.assert_allclose(learner.memory.rows.numpy(), memory, atol=1e-5)
        assert not learner.memory.rows.requires_grad

    def test_each_parameter_moves_at_the_rate_of_its_group(self) -> None:
        learner, recipe = made()
        reference = copy.deepcopy(learner)
        clips, masks, videos = batch()
        slots = torch.tensor([10, 11, 10, 11, 0, 1, 0, 1, 6, 7, 6, 7])
        training_losses(reference, recipe, clips, masks, slots, CPU)[0].backward()
        learner.set_rates(0.5, 0.001)
        before = {name: p.detach().clone() for name, p in named_parameters(learner).items()}
        training_step(learner, recipe, clips, masks, videos, CPU)
        gradients = {name: p.grad for name, p in named_parameters(reference).items()}
        assert any(name.startswith("propagation") for name in gradients)
        for name, parameter in named_parameters(learner).items():
            gradient = gradients[name]
            assert gradient is not None, name
            assert gradient.abs().sum() > 0, name
            rate = 0.0005 if name.startswith("projection") else 0.5
            # The first step of SGD with momentum: the momentum is the gradient with its penalty.
            expected = before[name] - rate * (gradient + 1e-4 * before[name])
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)

    def test_momentum_goes_on(self) -> None:
        learner, recipe = made()
        learner.set_rates(0.01, 1.0)
        weight = learner.projection.linear.bias
        positions, gradients = [weight.detach().clone()], []
        for seed in (0, 1):
            training_step(learner, recipe, *batch(seed=seed), CPU)
            assert weight.grad is not None
            gradients.append(weight.grad + 1e-4 * positions[-1])
            positions.append(weight.detach().clone())
        moves = [after - before for before, after in pairwise(positions)]
        torch.testing.assert_close(moves[1], -0.01 * (gradients[1] + 0.9 * gradients[0]), rtol=1e-4, atol=1e-8)

    @pytest.mark.parametrize("broken", ["saccade", "consistency", "prototype"])
    def test_a_loss_that_is_not_finite_stops_before_the_update(self, broken: str) -> None:
        learner, recipe = made()
        learner.set_prototypes(clusterings())
        training_step(learner, recipe, *batch(seed=1), CPU)
        if broken == "saccade":
            learner.memory.rows[:] = float("nan")
        elif broken == "consistency":
            assert learner.propagation is not None
            learner.propagation.projector.bias.data[0] = float("inf")
        else:
            learner.targets[1][2][:] = 0.0  # densities: a division by zero
        before = {name: p.detach().clone() for name, p in named_parameters(learner).items()}
        momentum = copy.deepcopy(learner.optimizer.state_dict()["state"])
        memory = learner.memory.rows.clone()
        with pytest.raises(RunError) as caught:
            training_step(learner, recipe, *batch(), CPU)
        message = str(caught.value)
        assert message.startswith("step 5: the loss is not finite (pretrain/loss = ")
        parts = dict(part.split(" = ") for part in message.split("(")[1].split(")")[0].split(", "))
        wrong = {name for name, value in parts.items() if not math.isfinite(float(value))}
        assert wrong == {"pretrain/loss", f"pretrain/loss_{broken}"}
        assert "\n" not in message
        for name, parameter in named_parameters(learner).items():
            assert torch.equal(parameter, before[name]) or name == "propagation.projector.bias", name
        torch.testing.assert_close(learner.optimizer.state_dict()["state"], momentum, rtol=0, atol=0)
        torch.testing.assert_close(learner.memory.rows, memory, rtol=0, atol=0, equal_nan=True)


def named_parameters(learner: Learner) -> dict[str, torch.nn.Parameter]:
    return {
        f"{part}.{name}": parameter
        for part, module in learner._modules().items()
        for name, parameter in module.named_parameters()
    }
