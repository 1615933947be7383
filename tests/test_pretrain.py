"""The training step against a slow, literal version of method.md, the loop against a list of what should happen."""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade import builders, pretrain
from saccade.datasets.clips import Sample
from saccade.engine.device import Machine
from saccade.engine.stop import Stopped, StopRequest
from saccade.errors import RunError, SpecError
from saccade.journal import Journal, read_journal
from saccade.learner import Learner
from saccade.pretrain import PretrainTimetable, Recipe, training_losses, training_step
from saccade.prototypes import Prototypes
from saccade.rng import derive_seed
from saccade.spec import Spec
from saccade.spec_reader import parse_spec
from saccade.transforms import Crop, View

CPU = Machine(torch.device("cpu"), "fp32")
B, F, T, SIZE = 3, 2, 8, 32
"""Videos in a batch, fixations of each, frames and side of a clip."""
VIDEOS = 7


def small_spec(*overrides: str) -> Spec:
    text = f"""
name: small
seed: 11
clip: {{frames: {T}, size: {SIZE}}}
saccade: {{focus_num: {F}}}
encoder: {{width: 4}}
contrast: {{num_negatives: 16, projection_dim: 8}}
consistency: {{level: 4, power: 2.0, weight: 0.7}}
prototypes: {{num_clusters: [5, 6], warmup_epoch: 1, every_epochs: 1, weight: 0.3}}
pretrain: {{epochs: 3, batch_size: {B}, schedule: cosine}}
"""
    return parse_spec(text, "small.yaml", overrides)


def made(*overrides: str, videos: int = VIDEOS, step: int = 4) -> tuple[Learner, Recipe]:
    spec = small_spec(*overrides)
    learner = builders.build_learner(spec, videos, CPU)
    learner.step = step
    learner.train()
    return learner, builders.build_recipe(spec)


def batch(videos: Sequence[int] = (5, 0, 3), seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = len(videos) * 2 * F
    clips = torch.randn(count, 3, T, SIZE, SIZE, generator=generator).contiguous(memory_format=torch.channels_last_3d)
    masks = (torch.rand(count, 1, SIZE, SIZE, generator=generator) > 0.5).float()
    return clips, masks, torch.tensor(videos)


def clusterings(num_clusters: Sequence[int] = (5, 6), slots: int = VIDEOS * F) -> list[Prototypes]:
    rng = np.random.default_rng(1)
    return [
        Prototypes(
            assignment=rng.integers(k, size=slots),
            distance=rng.uniform(size=slots).astype(np.float32),
            centroids=rng.normal(size=(k, 8)).astype(np.float32),
            density=rng.uniform(0.05, 0.1, size=k).astype(np.float32),
            density_mean=1.0,
            objective=2.0,
        )
        for k in num_clusters
    ]


# The method, slowly ------------------------------------------------------------------------------------------------


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def drawn_negatives(slots: int, clips: int, number: int, step: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(derive_seed(11, "negatives", step))
    return torch.randint(slots, (clips, number), generator=generator).numpy()


def softmax_loss(logits: Sequence[float], right: int = 0) -> tuple[float, float]:
    """Cross-entropy and the probability of the right one."""
    total = sum(math.exp(logit) for logit in logits)
    return -math.log(math.exp(logits[right]) / total), math.exp(logits[right]) / total


def slow_losses(
    learner: Learner, clips: Tensor, masks: Tensor, videos: Sequence[int], *, negatives: int
) -> dict[str, Any]:
    """Loss 1, 2 and 3 with every prototype as a candidate, one clip after the other, in float64."""
    with torch.no_grad():
        features, maps = copy.deepcopy(learner.encoder).forward_levels(clips, masks, 0, 4)
    v, maps_np = features.double().numpy(), maps.double().numpy()
    weight, bias = (
        p.detach().double().numpy() for p in (learner.projection.linear.weight, learner.projection.linear.bias)
    )
    memory = learner.memory.double().numpy()

    def p(x: np.ndarray) -> np.ndarray:
        return unit(weight @ x + bias)

    # Clip m of video b: fixation m % F of it, first views before second views; its slot is video * F + fixation.
    slots = [videos[m // (2 * F)] * F + m % F for m in range(len(clips))]
    drawn = drawn_negatives(len(memory), len(clips), negatives, learner.step)
    contrast = [softmax_loss([p(memory[j]) @ p(v[m]) / 0.07 for j in [slots[m], *drawn[m]]]) for m in range(len(clips))]

    assert learner.propagation is not None
    convs = learner.propagation.projector, learner.propagation.value_transform
    z_weight, g_weight = (conv.weight.detach().double().numpy()[:, :, 0, 0, 0] for conv in convs)
    z_bias, g_bias = (conv.bias.detach().double().numpy() for conv in convs if conv.bias is not None)

    def positions(video: int, view: int) -> list[np.ndarray]:
        """z of every position of the F clips of a view, fixations one after the other in time."""
        first = video * 2 * F + view * F
        found = []
        for m in range(first, first + F):
            _, t, h, w = maps_np[m].shape
            found += [z_weight @ maps_np[m][:, a, b, c] + z_bias for a in range(t) for b in range(h) for c in range(w)]
        return found

    def propagated(z: list[np.ndarray]) -> list[np.ndarray]:
        g = [unit(g_weight @ zj + g_bias) for zj in z]
        return [sum(max(unit(zi) @ unit(zj), 0) ** 2 * gj for zj, gj in zip(z, g, strict=True)) for zi in z]

    distances = []
    for video in range(len(videos)):
        for source, target in ((1, 0), (0, 1)):
            predicted = propagated(positions(video, source))
            wanted = positions(video, target)
            distances.append(np.mean([np.abs(a - b).mean() for a, b in zip(predicted, wanted, strict=True)]))

    result: dict[str, Any] = {
        "features": v,
        "slots": slots,
        "pretrain/loss_saccade": np.mean([loss for loss, _ in contrast]),
        "pretrain/positive_probability": np.mean([probability for _, probability in contrast]),
        "pretrain/loss_consistency": np.mean(distances),
    }
    total = result["pretrain/loss_saccade"] + 0.7 * result["pretrain/loss_consistency"]
    if learner.prototypes:
        losses, right = [], []
        for clustering in learner.prototypes:
            centroids = clustering.centroids.astype(float)
            for m, slot in enumerate(slots):
                own = int(clustering.assignment[slot])
                logits = [
                    p(v[m]) @ unit(c) / d for c, d in zip(centroids, clustering.density.astype(float), strict=True)
                ]
                losses.append(softmax_loss(logits, own)[0])
                right.append(max(range(len(logits)), key=logits.__getitem__) == own)
        result["pretrain/loss_prototype"] = np.mean(losses)
        result["pretrain/prototype_accuracy"] = np.mean(right)
        total += 0.3 * result["pretrain/loss_prototype"]
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
            learner.memory.clone().double().numpy(),
            slow_losses(learner, *batch()[:2], [5, 0, 3], negatives=16),
        )
        for m, slot in enumerate([10, 11, 10, 11, 0, 1, 0, 1, 6, 7, 6, 7]):
            assert slow["slots"][m] == slot
            memory[slot] = 0.5 * memory[slot] + 0.5 * slow["features"][m]
        training_step(learner, recipe, clips, masks, videos, CPU)
        np.testing.assert_allclose(learner.memory.numpy(), memory, atol=1e-5)
        assert not learner.memory.requires_grad

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
            learner.memory[:] = float("nan")
        elif broken == "consistency":
            assert learner.propagation is not None
            learner.propagation.projector.bias.data[0] = float("inf")
        else:
            learner.targets[1][2][:] = 0.0  # densities: a division by zero
        before = {name: p.detach().clone() for name, p in named_parameters(learner).items()}
        momentum = copy.deepcopy(learner.optimizer.state_dict()["state"])
        memory = learner.memory.clone()
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
        torch.testing.assert_close(learner.memory, memory, rtol=0, atol=0, equal_nan=True)


def named_parameters(learner: Learner) -> dict[str, torch.nn.Parameter]:
    return {
        f"{part}.{name}": parameter
        for part, module in learner._modules().items()
        for name, parameter in module.named_parameters()
    }


# What happens when -------------------------------------------------------------------------------------------------


def published(*overrides: str) -> PretrainTimetable:
    return builders.build_timetable(parse_spec("name: paper", "paper.yaml", overrides), 9537)


class TestTimetable:
    def test_the_published_r3d(self) -> None:
        timetable = published()
        assert timetable.steps_per_epoch == 596  # 9537 // 16
        assert timetable.steps == 300 * 596 == 178_800
        assert [timetable.epoch(step) for step in (1, 596, 597, 178_800)] == [1, 1, 2, 300]
        assert [timetable.ends_epoch(step) for step in (595, 596, 597, 1192)] == [False, True, False, True]
        rates = {1: 0.1, 90: 0.1, 91: 0.02, 180: 0.02, 181: 0.004, 240: 0.004, 241: 0.0008, 300: 0.0008}
        assert {epoch: timetable.rate(epoch) for epoch in rates} == pytest.approx(rates)
        assert timetable.projection_lr_ratio == 0.001
        clustered = [epoch for epoch in range(1, 301) if timetable.clusters_after(epoch)]
        assert clustered == [245, 250, 255, 260, 265, 270, 275, 280, 285, 290, 295]
        before = [step for step in range(1, timetable.steps + 1) if timetable.clusters_before(step)]
        assert before == [epoch * 596 + 1 for epoch in clustered]
        kept = [epoch for epoch in range(1, 301) if builders.keeps(parse_spec("name: x", "x.yaml"), epoch)]
        assert kept == [60, 120, 180, 240, 250, 260, 270, 280, 290, 300]

    def test_the_published_r2plus1d(self) -> None:
        timetable = published("pretrain.epochs=360", "pretrain.batch_size=8", "prototypes.warmup_epoch=301")
        assert timetable.steps_per_epoch == 1192  # 9537 // 8
        clustered = [epoch for epoch in range(1, 361) if timetable.clusters_after(epoch)]
        assert clustered == list(range(305, 360, 5))

    def test_logging_and_saving(self) -> None:
        timetable = published("pretrain.epochs=2", "pretrain.decay_epochs=[]", "prototypes.num_clusters=[]")
        logged = [step for step in range(1, timetable.steps + 1) if timetable.logs(step)]
        assert logged == [*range(10, 1192, 10), 1192]
        assert [step for step in range(1, 1193) if timetable.saves(step)] == [596, 1192]

    def test_saves_within_epochs_and_not_after_each(self) -> None:
        overrides = ["pretrain.epochs=5", "pretrain.decay_epochs=[]", "prototypes.num_clusters=[]"]
        timetable = published(
            *overrides, "checkpoint.every_epochs=2", "checkpoint.every_steps=500", "checkpoint.final_epochs=0"
        )
        saved = [step for step in range(1, 5 * 596 + 1) if timetable.saves(step)]
        # Epochs 2 and 4 by the rule, 5 as the last, and each 500 steps.
        assert saved == [500, 1000, 1192, 1500, 2000, 2384, 2500, 2980]

    def test_a_cosine_falls_from_the_rate_to_nothing(self) -> None:
        timetable = published("pretrain.schedule=cosine")
        assert timetable.rate(1) == 0.1
        assert timetable.rate(151) == pytest.approx(0.05)
        assert timetable.rate(300) == pytest.approx(0.1 * 0.5 * (1 - math.cos(math.pi / 300)))

    def test_without_prototypes_nothing_is_clustered(self) -> None:
        timetable = published("prototypes.num_clusters=[]")
        assert not any(timetable.clusters_after(epoch) for epoch in range(1, 301))

    def test_a_batch_must_fit(self) -> None:
        with pytest.raises(
            SpecError, match=r"pretrain\.batch_size: 16 videos do not fit in a training list of 15; use at most 15"
        ):
            builders.build_timetable(parse_spec("name: x", "x.yaml"), 15)

    def test_no_training_has_no_steps(self) -> None:
        assert published("pretrain.epochs=0").steps == 0


# The loop ----------------------------------------------------------------------------------------------------------


class Loop:
    """`pretrain` on samples of one grey each, with a list of what it does."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, epochs: int = 3, log_every: int = 2
    ) -> None:
        settings = [f"pretrain.epochs={epochs}", f"tracking.log_every_steps={log_every}", "consistency.weight=0"]
        spec = small_spec(*settings, *overrides)
        self.learner = builders.build_learner(spec, 6, CPU)
        self.recipe, self.timetable = builders.build_recipe(spec), builders.build_timetable(spec, 6)
        assert self.timetable.steps_per_epoch == 2
        self.folder, self.stop, self.done = folder, StopRequest(), list[Any]()
        self.stop_in: int | str | None = None
        monkeypatch.setattr(pretrain, "training_step", self.step)

    def step(
        self, learner: Learner, recipe: Recipe, clips: Tensor, masks: Tensor | None, videos: Tensor, machine: Machine
    ) -> dict[str, Tensor]:
        assert all(module.training for module in learner._modules().values())
        number = learner.step + 1
        rates = [group["lr"] for group in learner.optimizer.param_groups]
        self.done.append(("step", number, videos.tolist(), len(clips), pytest.approx(rates)))
        if self.stop_in == number:
            self.stop.request("it was told to")
        return {"pretrain/loss": torch.tensor(float(number**2))}

    def cluster(self, epoch: int) -> list[Prototypes]:
        self.done.append(("cluster", epoch))
        self.learner.train(False)
        if self.stop_in == "cluster":
            raise Stopped("it was told to")
        return clusterings([epoch + 2], slots=12)

    def validate(self) -> None:
        self.done.append(("validate", self.learner.step))
        self.learner.train(False)
        if self.stop_in == "validate":
            raise Stopped("it was told to")

    def save(self, epoch: int) -> None:
        self.done.append(("save", epoch))
        if self.stop_in == "save":
            self.stop.request("it was told to")

    def run(self) -> None:
        left = range(self.learner.step, self.timetable.steps)
        frame = torch.full((1, 3, SIZE, SIZE), 7, dtype=torch.uint8)
        batches = [
            [
                Sample(
                    v + number % 4,
                    frame,
                    torch.zeros(4, T, dtype=torch.long),
                    (View(Crop(0, 0, SIZE, SIZE)),) * 4,
                    None,
                )
                for v in range(B)
            ]
            for number in left
        ]
        with Journal.open(self.folder / "journal.jsonl", mark=None, attempted=1 << 40) as journal:
            pretrain.pretrain(
                self.learner,
                self.recipe,
                self.timetable,
                batches,
                machine=CPU,
                cluster=self.cluster,
                validate=self.validate,
                save=self.save,
                journal=journal,
                stop=self.stop,
            )

    def logged(self) -> list[tuple[int, dict[str, float]]]:
        return [
            (event["step"], event["values"])
            for event, _ in read_journal(self.folder / "journal.jsonl")
            if event["kind"] == "metrics"
        ]


def kinds(done: list[Any]) -> list[Any]:
    return [entry[:2] for entry in done]


class TestLoop:
    def test_everything_in_its_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.run()
        # Three epochs of two steps; prototypes after epochs 1 and 2, never after the last.
        assert kinds(loop.done) == [
            *[("step", 1), ("step", 2), ("save", 1), ("cluster", 1)],
            *[("step", 3), ("step", 4), ("save", 2), ("cluster", 2)],
            *[("step", 5), ("step", 6), ("save", 3)],
        ]
        assert loop.learner.step == 6
        assert [len(p.centroids) for p in loop.learner.prototypes] == [4]
        steps = [entry for entry in loop.done if entry[0] == "step"]
        assert [videos for _, _, videos, _, _ in steps] == [[v + n % 4 for v in range(3)] for n in range(6)]
        assert {clips for _, _, _, clips, _ in steps} == {12}
        # Half a cosine over three epochs: 1, 3/4 and 1/4 of the rate.
        assert [rates for *_, rates in steps] == [
            [0.1 * part, 0.0001 * part] for part in (1, 1, 0.75, 0.75, 0.25, 0.25)
        ]

    def test_what_is_logged_is_the_mean_since_the_last_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = Loop(tmp_path, monkeypatch, log_every=4)
        loop.run()
        logged = loop.logged()
        assert [step for step, _ in logged] == [4, 6]
        assert logged[0][1]["pretrain/loss"] == pytest.approx((1 + 4 + 9 + 16) / 4)
        assert logged[1][1]["pretrain/loss"] == pytest.approx((25 + 36) / 2)
        assert [values["epoch"] for _, values in logged] == [2, 3]
        assert [values["optim/learning_rate"] for _, values in logged] == pytest.approx([0.075, 0.025])
        for _, values in logged:
            assert values.keys() == {
                *("pretrain/loss", "optim/learning_rate", "epoch"),
                *("perf/clips_per_sec", "perf/data_wait_fraction"),
            }
            assert values["perf/clips_per_sec"] > 0
            assert 0 <= values["perf/data_wait_fraction"] <= 1

    def test_a_stop_finishes_the_step_and_saves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.stop_in = 3
        with pytest.raises(Stopped, match="it was told to"):
            loop.run()
        assert kinds(loop.done)[-2:] == [("step", 3), ("save", 2)]
        assert loop.learner.step == 3

    def test_a_stop_while_saving_waits_for_the_next_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.stop_in = "save"
        with pytest.raises(Stopped):
            loop.run()
        # Whatever has been done when it leaves has been saved.
        assert kinds(loop.done)[-1] == ("save", loop.timetable.epoch(loop.learner.step))

    def test_a_stop_while_clustering_loses_no_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.stop_in = "cluster"
        with pytest.raises(Stopped):
            loop.run()
        assert kinds(loop.done) == [("step", 1), ("step", 2), ("save", 1), ("cluster", 1)]
        # Resumed from that checkpoint, the clustering comes first.
        loop.done.clear()
        loop.stop_in = None
        loop.run()
        assert kinds(loop.done)[:2] == [("cluster", 1), ("step", 3)]
        assert kinds(loop.done)[-1] == ("save", 3)

    def test_validations_come_between_epochs_of_saved_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        every = [f"checkpoint.{name}=60" for name in ("every_epochs", "final_epochs", "keep_every_final_epochs")]
        validation = ["data.validation=[x]", "evaluation.retrieval.validate_every_epochs=2"]
        loop = Loop(tmp_path, monkeypatch, *every, *validation, epochs=4)
        loop.stop_in = "validate"
        with pytest.raises(Stopped):
            loop.run()
        first = [*[("step", 1), ("step", 2), ("cluster", 1)], *[("step", 3), ("step", 4), ("save", 2), ("validate", 4)]]
        assert kinds(loop.done) == first
        loop.done.clear()
        loop.stop_in = None
        loop.run()
        # Again from that checkpoint. The one after the last epoch is not the loop's.
        assert kinds(loop.done) == [
            *[("validate", 4), ("cluster", 2), ("step", 5), ("step", 6)],
            *[("cluster", 3), ("step", 7), ("step", 8), ("save", 4)],
        ]

    def test_nothing_is_done_after_the_last_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.learner.step = 6
        loop.run()
        assert loop.done == []
