"""A step in parts, one after the other: the whole step where no batch norm looks at other clips, and where it does."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saccade import builders
from saccade.engine.device import Machine
from saccade.learner import Learner
from saccade.pretrain import training_step
from saccade.spec_reader import parse_spec

CPU = Machine(torch.device("cpu"), "fp32")
SPEC = (
    (Path(__file__).parent.parent / "small_spec.yaml").read_text()
    + """
name: parts
prototypes: {num_clusters: []}
pretrain: {epochs: 1, batch_size: 4, schedule: cosine}
"""
)


def step(learner: Learner, parts: int) -> tuple[dict[str, float], Learner]:
    """One step of a copy of the learner on four videos, and what it logs."""
    learner = copy.deepcopy(learner)
    learner.set_rates(0.1, 1.0)
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(16, 3, 4, 16, 16, generator=generator)
    masks = (torch.rand(16, 1, 16, 16, generator=generator) > 0.5).float()
    recipe = builders.build_recipe(parse_spec(SPEC, "x.yaml", [f"pretrain.accumulation_steps={parts}"]))
    logged = training_step(learner, recipe, clips, masks, torch.tensor([5, 0, 3, 6]), CPU)
    return {name: value.item() for name, value in logged.items()}, learner


def weights(learner: Learner) -> dict[str, Tensor]:
    return {**learner.encoder.state_dict(), **learner.projection.state_dict(), "memory": learner.memory.rows}


@pytest.fixture
def learner() -> Learner:
    learner = builders.build_learner(parse_spec(SPEC, "x.yaml"), 8, CPU)
    learner.train()
    step(learner, 1)
    return learner


@pytest.mark.parametrize("parts", [2, 4])
def test_without_batch_statistics_parts_are_the_whole(learner: Learner, parts: int) -> None:
    learner.encoder.eval()
    whole, after = step(learner, 1)
    logged, after_parts = step(learner, parts)
    assert logged == pytest.approx(whole, rel=1e-5)
    moved = 0
    for name, value in weights(after).items():
        torch.testing.assert_close(weights(after_parts)[name], value, rtol=1e-4, atol=1e-6, msg=name)
        moved += not torch.equal(value, weights(learner)[name])
    assert moved > 20


def test_batch_norm_sees_the_parts(learner: Learner) -> None:
    whole, after = step(learner, 1)
    logged, after_parts = step(learner, 2)
    assert logged["pretrain/loss"] != pytest.approx(whole["pretrain/loss"], rel=1e-3)
    before = learner.encoder.stem.bn.num_batches_tracked  # type: ignore[union-attr]
    assert after.encoder.stem.bn.num_batches_tracked == before + 1  # type: ignore[union-attr, operator]
    assert after_parts.encoder.stem.bn.num_batches_tracked == before + 2  # type: ignore[union-attr, operator]
