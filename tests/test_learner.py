"""What a checkpoint holds: means over logged steps, rates, and every bit of the learner."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade import builders
from saccade.checkpoint import load_checkpoint, save_checkpoint
from saccade.engine.device import Machine
from saccade.errors import CheckpointError
from saccade.learner import Learner, Means
from saccade.pretrain import training_step
from saccade.prototypes import fit_prototypes
from saccade.spec import Spec
from saccade.spec_reader import parse_spec

CPU = Machine(torch.device("cpu"), "fp32")
VIDEOS = 5


def small_spec(*overrides: str) -> Spec:
    text = """
name: small
clip: {frames: 4, size: 16}
saccade: {focus_num: 2}
encoder: {width: 4}
contrast: {num_negatives: 6, projection_dim: 8}
prototypes: {num_clusters: [3, 4], warmup_epoch: 1, every_epochs: 1}
pretrain: {epochs: 3, batch_size: 2, schedule: cosine}
"""
    return parse_spec(text, "small.yaml", overrides)


class TestMeans:
    def test_by_hand(self) -> None:
        means = Means()
        assert means.take() == {}
        means.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
        means.add({"a": torch.tensor(2.0)})
        means.add({"a": torch.tensor(6.0), "b": torch.tensor(20.0)})
        assert means.take() == {"a": 3.0, "b": 15.0}
        assert means.take() == {}
        means.add({"a": torch.tensor(5.0)})
        assert means.take() == {"a": 5.0}

    def test_a_sum_of_many_does_not_lose_the_small(self) -> None:
        means = Means()
        means.add({"a": torch.tensor(1e8)})
        for _ in range(1000):
            means.add({"a": torch.tensor(1.0)})
        assert means.take()["a"] == pytest.approx((1e8 + 1000) / 1001, rel=1e-12)

    def test_a_window_goes_on_in_another_process(self) -> None:
        first, second = Means(), Means()
        first.add({"a": torch.tensor(0.1), "b": torch.tensor(0.7)})
        first.add({"a": torch.tensor(0.2)})
        state = first.state_dict()
        second.load_state_dict(state, torch.device("cpu"))
        for means in (first, second):
            means.add({"a": torch.tensor(0.3)})
        # What was taken is not changed by what is added after it.
        third = Means()
        third.load_state_dict(state, torch.device("cpu"))
        assert third.take() == {"a": pytest.approx(0.15), "b": pytest.approx(0.7)}
        assert first.take() == second.take() == {"a": pytest.approx(0.2), "b": pytest.approx(0.7)}


class TestBuild:
    def test_the_same_seed_gives_the_same_learner_whatever_was_drawn_before(self) -> None:
        torch.manual_seed(1)
        first = builders.build_learner(small_spec(), VIDEOS, CPU)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        second = builders.build_learner(small_spec(), VIDEOS, CPU)
        other = builders.build_learner(small_spec("seed=1"), VIDEOS, CPU)
        assert torch.equal(before, torch.get_rng_state())
        assert bits(first.state_dict()) == bits(second.state_dict())
        assert first.memory.shape == (VIDEOS * 2, 32)
        assert not torch.equal(first.memory.rows, other.memory.rows)
        assert not torch.equal(first.encoder.stem.conv.weight, other.encoder.stem.conv.weight)  # type: ignore[arg-type]

    def test_memory_and_weights_do_not_depend_on_what_else_is_on(self) -> None:
        full, without = (
            builders.build_learner(small_spec(*extra), VIDEOS, CPU) for extra in ([], ["consistency.weight=0"])
        )
        assert without.propagation is None
        assert full.propagation is not None
        assert bits(full.encoder.state_dict()) == bits(without.encoder.state_dict())
        assert bits(full.projection.state_dict()) == bits(without.projection.state_dict())
        assert torch.equal(full.memory.rows, without.memory.rows)

    def test_the_optimiser_of_the_spec(self) -> None:
        sgd = builders.build_learner(small_spec(), VIDEOS, CPU).optimizer
        adam = builders.build_learner(small_spec("pretrain.optimizer=adam"), VIDEOS, CPU).optimizer
        assert isinstance(sgd, torch.optim.SGD)
        assert isinstance(adam, torch.optim.Adam)
        assert [group["momentum"] for group in sgd.param_groups] == [0.9, 0.9]
        assert [group["betas"] for group in adam.param_groups] == [(0.9, 0.999)] * 2
        for group, other in zip(sgd.param_groups, adam.param_groups, strict=True):
            assert len(group["params"]) == len(other["params"])
            assert (group["lr"], group["weight_decay"]) == (other["lr"], other["weight_decay"])

    def test_each_parameter_is_in_one_group_and_the_projection_has_its_own(self) -> None:
        learner = builders.build_learner(small_spec(), VIDEOS, CPU)
        networks, projection = ([id(p) for p in group["params"]] for group in learner.optimizer.param_groups)
        assert learner.propagation is not None
        assert sorted(networks) == sorted(map(id, [*learner.encoder.parameters(), *learner.propagation.parameters()]))
        assert sorted(projection) == sorted(map(id, learner.projection.parameters()))
        learner.set_rates(0.3, 0.001)
        assert [group["lr"] for group in learner.optimizer.param_groups] == [0.3, pytest.approx(0.0003)]
        for group in learner.optimizer.param_groups:
            assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)


def bits(value: Any) -> Any:
    """A value in a form whose equality is that of every bit, types and layout included."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.detach().reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: bits(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [bits(inner) for inner in value]
    return type(value), value


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randn(8, 3, 4, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last_3d)
    masks = (torch.rand(8, 1, 16, 16, generator=generator) > 0.5).float()
    return clips, masks, torch.randperm(VIDEOS, generator=generator)[:2]


def take_steps(learner: Learner, spec: Spec, *seeds: int) -> None:
    learner.train()
    for seed in seeds:
        learner.set_rates(0.1, spec.pretrain.projection_lr_ratio)
        learner.means.add(training_step(learner, builders.build_recipe(spec), *batch(seed), CPU))
        learner.step += 1


@pytest.mark.parametrize("encoder", ["r3d", "r2plus1d"])
def test_a_learner_survives_a_checkpoint_to_the_bit_and_trains_on_alike(encoder: str, tmp_path: Path) -> None:
    spec = small_spec(f"encoder.name={encoder}")
    learner = builders.build_learner(spec, VIDEOS, CPU)
    take_steps(learner, spec, 0, 1)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(VIDEOS * 2, 8)).astype(np.float32)
    learner.set_prototypes(
        [fit_prototypes(features, k, seed=k, temperature=0.07, min_points_per_centroid=1) for k in (3, 4)]
    )
    take_steps(learner, spec, 2)
    save_checkpoint(tmp_path / "last.pt", {"learner": learner.state_dict()})

    other = builders.build_learner(small_spec(f"encoder.name={encoder}", "seed=1"), VIDEOS, CPU)
    take_steps(other, spec, 7)  # so that everything has to be replaced, momentum and means included
    other.load_state_dict(load_checkpoint(tmp_path / "last.pt")["learner"])
    assert bits(other.state_dict()) == bits(learner.state_dict())
    assert other.step == 3
    assert [p.objective for p in other.prototypes] == [p.objective for p in learner.prototypes]
    for one, two in zip(other.targets, learner.targets, strict=True):
        assert bits(one) == bits(two)

    for each in (learner, other):
        take_steps(each, spec, 3, 4)
    assert bits(other.state_dict()) == bits(learner.state_dict())
    assert other.means.take() == learner.means.take()


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    state = builders.build_learner(small_spec(), VIDEOS, CPU).state_dict()
    wider = builders.build_learner(small_spec("encoder.width=8"), VIDEOS, CPU)
    with pytest.raises(CheckpointError, match=r"memory bank is \[10, 32\], but this run's is \[10, 64\]"):
        wider.load_state_dict(state)
    # One row must not be repeated over all.
    with pytest.raises(CheckpointError, match=r"is \[1, 32\], but"):
        builders.build_learner(small_spec(), VIDEOS, CPU).load_state_dict({**state, "memory": state["memory"][:1]})
    factorised = builders.build_learner(small_spec("encoder.name=r2plus1d"), VIDEOS, CPU)
    with pytest.raises(RuntimeError, match="Missing key"):
        factorised.load_state_dict(state)
