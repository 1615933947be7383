"""A run with all that docs/examples adds: `test_contributing` starts this in a copy of the code that has it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.journal import read_journal
from saccade.report import curves_of
from saccade.runner import main

OWN = """
name: contributed
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: []}}
pretrain: {{epochs: 1, batch_size: 4, decay_epochs: []}}
evaluation: {{retrieval: {{enabled: false}}}}
tracking: {{log_every_steps: 1}}
"""
SPEC = (Path(__file__).parent / "small_spec.yaml").read_text() + OWN
ADDED = [
    *("encoder.name=c3d", "contrast.uniformity_weight=0.5"),
    *("evaluation.grouping.enabled=true", "evaluation.grouping.clips=1"),
]


def test_run(make_run: Callable[..., Path], make_toy: Callable[..., Path], no_pictures: None) -> None:
    folder = make_run(SPEC.format(root=make_toy()), *ADDED)
    assert main([str(folder)]) == 0
    curves = curves_of(event for event, _ in read_journal(folder / "journal.jsonl"))
    total, saccade, consistency, uniformity = (
        curves[f"pretrain/{name}"][1][0] for name in ("loss", "loss_saccade", "loss_consistency", "loss_uniformity")
    )
    assert total == pytest.approx(saccade + consistency + 0.5 * uniformity)
    assert -8 < uniformity < 0  # squared distances on the sphere are at most 4
    assert 0 <= curves["test/grouping_nmi"][1][-1] <= 1
