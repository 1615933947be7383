"""Pre-training on a GPU never has the host wait: shown with a device that has no values to wait for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SPEC = (
    (REPOSITORY / "tests" / "small_spec.yaml").read_text()
    + """
name: parts
prototypes: {num_clusters: [3], warmup_epoch: 1, every_epochs: 1}
pretrain: {epochs: 4, batch_size: 4, schedule: cosine}
"""
)


@pytest.fixture(scope="module")
def happened() -> dict[str, Any]:
    """What the program saw of a batch and a step with all three losses."""
    program = [sys.executable, "-m", "tests.pretrain.pretend_gpu", SPEC]
    done = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_no_value_is_asked_for_in_a_step(happened: dict[str, Any]) -> None:
    assert happened["noticed"]["value"] == "DataDependentOutputException", "it would not be noticed"
    assert len(happened["metrics"]) == 6
    assert all(happened["metrics"].values()), "a metric left the device"
    assert happened["gradients"]
    assert happened["held_on_device"], "the optimiser learns from the host whether the loss was finite"


def test_all_that_arrives_is_sent_from_pinned_memory(happened: dict[str, Any]) -> None:
    assert len(happened["noticed"]["arrivals"]) == 1, "it would not be noticed"
    assert happened["arrivals"] == []


def test_nothing_is_mixed_with_the_host(happened: dict[str, Any]) -> None:
    """The step came to its end, though tensors of two devices in one operation are an error."""
    assert happened["noticed"]["mixed"] == "FakeTensorDeviceMismatchError"


def test_a_batch_is_drawn_in_as_many_operations_however_many_clips_it_has(happened: dict[str, Any]) -> None:
    few, many = happened["asked"]["few"], happened["asked"]["many"]
    assert few > 100, "the drawing was not seen"
    assert many <= 1.01 * few
