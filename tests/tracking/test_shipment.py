"""What a shipment says of its run, without a server to say it to."""

from pathlib import Path
from typing import Any

import pytest

from saccade.journal import Journal
from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec
from saccade.tracking.shipment import Shipment, _hide_secrets_in
from saccade.tracking.shipper import Shipper
from saccade.tracking.shipping_state import LetGoError, Outcome, ShippingState, attempted_offset
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


def test_who_has_let_a_run_go_sends_nothing_that_is_not_written_down(
    run: RunDir, shipment: Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process would send the same steps with other times, or take the run up again."""
    asked: list[str] = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: asked.append(name) or {}

    with Journal.open(run.journal, mark=None, attempted=0) as journal:
        journal.metrics({"pretrain/loss": 1.0}, 1)
    with monkeypatch.context() as patch:
        # It is let go while the disk takes its time, before anything is sent.
        patch.setattr("saccade.atomic.sync", lambda _: shipment.state.close())
        shipment._store = Recorder()  # type: ignore[assignment]
        shipper = Shipper(shipment, print)
        shipper.start()
        shipper.join(20)
    assert not shipper.is_alive()
    assert (asked, attempted_offset(run.path)) == ([], 0)


def test_a_run_that_was_let_go_is_not_ended(run: RunDir, shipment: Shipment) -> None:
    shipment.state.outcome = Outcome(status="FAILED", end_ms=5, tags={})

    class Slow:
        def log(self, *_: Any) -> dict[str, str]:
            shipment.state.close()
            return {}

    with pytest.raises(LetGoError):
        shipment._send_status(Slow())  # type: ignore[arg-type]  # has no set_status
    assert not shipment.state.status_final


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
