"""What a shipment says of its run, without a server to say it to."""

from pathlib import Path
from typing import Any

import pytest

from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec
from saccade.tracking.shipment import Shipment, _hide_secrets_in
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import PARENT_TAG

URI = "http://mlflow.lab:5000"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create_run(tmp_path, Spec(name="toy"), ["saccade", "run", "toy.yaml"])


@pytest.fixture
def shipment(run: RunDir) -> Shipment:
    state = ShippingState(folder=run.path, tracking_uri=URI, mlflow_run_id="5e")
    return Shipment(run, state, URI, print, attempt=None)


@pytest.mark.parametrize(
    ("first", "parent"),
    [
        (None, {}),  # its folder is on another machine
        ({"tracking_uri": URI, "mlflow_run_id": "a1"}, {PARENT_TAG: "a1"}),
        ({"tracking_uri": "http://elsewhere:5000", "mlflow_run_id": "a1"}, {}),
        ({"tracking_uri": URI}, {}),  # it never came so far
    ],
)
def test_a_follower_is_nested_where_its_first_run_is_there(
    run: RunDir, shipment: Shipment, first: dict[str, str] | None, parent: dict[str, str]
) -> None:
    if first is not None:
        (run.root / "first").mkdir()
        ShippingState(folder=run.root / "first", **first).save()  # type: ignore[arg-type]
    record = {**run.record(), "follows": {"run": "first", "place": 2, "of": 3}}
    assert shipment._chain_tags(record) == {"saccade.follows": "first, as 2 of 3", **parent}
    assert shipment._chain_tags(run.record()) == {}


def test_a_run_is_described_once_it_has_a_summary(run: RunDir, shipment: Shipment) -> None:
    logged: list[tuple[Any, ...]] = []

    class Recorder:
        def log(self, *words: Any) -> dict[str, str]:
            logged.append(words)
            return {}

    shipment._describe(Recorder())  # type: ignore[arg-type]
    assert logged == []
    (run.path / "summary.md").write_text("# Toy\n")
    shipment._describe(Recorder())  # type: ignore[arg-type]
    ((run_id, points, tags),) = logged
    assert (run_id, points) == ("5e", [])
    assert tags["mlflow.note.content"].startswith("# Toy")


def test_a_log_is_sent_without_its_secrets_and_else_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    log.write_bytes(b"cloned http://ann:s3cret@git.lab/x\n\xff half a letter\n")
    _hide_secrets_in(log)
    shown = log.read_bytes()
    assert b"s3cret" not in shown
    assert shown.endswith(b"@git.lab/x\n\xff half a letter\n")
    before = log.stat().st_mtime_ns
    _hide_secrets_in(log)
    assert (log.read_bytes(), log.stat().st_mtime_ns) == (shown, before)
