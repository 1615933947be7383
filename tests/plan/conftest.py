"""Measured pieces with round numbers, for plans that can be reckoned by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from saccade.plan.forecast import Plan, forecast
from saccade.plan.measured import Machinery, Measured, Piece
from saccade.spec import Spec
from saccade.spec_reader import parse_spec

MIB, GIB = 2**20, 2**30
MakePlan = Callable[..., Plan]
MakeSpec = Callable[..., Spec]
WELL = ("contrast.num_negatives=64", "evaluation.retrieval.topk=[1, 5]")
"""100 training videos of 3 fixations are 300 slots."""

MACHINERY = {
    "description": "CPU, 4 threads, fp32",
    "device": "cpu",
    "precision": "fp32",
    "bf16_units": False,
    "cuda_there": False,
    "cores": 4.0,
    "load": 0.5,
    "memory_bytes": 16 * GIB,
    "disk_bytes": 100 * GIB,
}

MEASURED: dict[str, Any] = {
    "start_sec": 5.0,
    "videos": {"train": 100, "validation": 0, "test": 50},
    # A batch of ten: a second to load, four to work on, in which four threads are busy.
    "step": Piece(10, 1.0, 1.0, 4.0, 16.0),
    "prototyping": None,
    "workers_gain": 1.0,
    "frame_px": (240, 320),
    "pictures_sec": 2.0,
    # Five videos of ten clips: 10 s
    "passes": {10: Piece(5, 4.0, 4.0, 6.0, 24.0)},
    "save_sec": 0.5,
    "checkpoint_bytes": 100 * MIB,
    "encoder_bytes": 50 * MIB,
    "peak_host_bytes": 2 * GIB,
    "peak_device_bytes": None,
}

SPEC = """
name: planned
pretrain: {epochs: 20, batch_size: 10, decay_epochs: []}
prototypes: {num_clusters: []}
tracking: {log_every_steps: 1}
checkpoint: {final_epochs: 0, keep_last: 1}
engine: {workers: 0}
"""


@pytest.fixture
def make_spec() -> Callable[..., Spec]:
    """The spec above with overrides."""
    return lambda *overrides: parse_spec(SPEC, "x.yaml", overrides)


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """(spec, what differs from what is measured above) to a plan."""

    def make(spec: Spec, machinery: dict[str, Any] | None = None, **differing: Any) -> Plan:
        measured = Measured(**{**MEASURED, "machinery": Machinery(**{**MACHINERY, **(machinery or {})}), **differing})
        return forecast(spec, measured, [], weights=False)

    return make
