"""`saccade bench tracking`, on the server that the tests here share."""

from pathlib import Path

import pytest

from saccade.bench.tracking import _of_a_step, _of_the_supervisor
from saccade.journal import read_journal
from saccade.tracking.store import Store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def test_all_ways_log_the_same_steps(server: str, tmp_path: Path) -> None:
    client, direct, journal, step, share = _of_a_step(tmp_path, server, rounds=1, steps=3)
    assert (client.ratio, step.ratio) == (None, None)
    assert direct.ratio == pytest.approx(client.value / direct.value)
    assert journal.ratio == pytest.approx(client.value / journal.value)
    assert share.value == pytest.approx(100 * journal.value / step.value)
    events = [event for event, _ in read_journal(tmp_path / "journal.jsonl") if event["kind"] == "metrics"]
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5, 6]  # a round that does not count, and one that does
    for uri, experiments in ((server, 1), (f"sqlite:///{tmp_path / 'direct.db'}", 1)):
        found = Store(uri, tmp_path).client
        mine = [each for each in found.search_experiments() if each.name.startswith("steps ")]
        assert len(mine) == experiments
        (run,) = found.search_runs([mine[0].experiment_id])
        for name, value in events[-1]["values"].items():
            points = found.get_metric_history(run.info.run_id, name)
            assert [(point.step, point.value) for point in points] == [(event["step"], value) for event in events]


def test_the_supervisor_sends_what_is_logged(server: str, tmp_path: Path) -> None:
    assert _of_the_supervisor(tmp_path, server, rounds=1, steps=4).value > 0
    store = Store(server, tmp_path)
    runs = store.client.search_runs([store.open_experiment("bench")])
    assert [run.data.metrics["pretrain/loss"] for run in runs] == [0.5, 0.5]
    assert [len(store.client.get_metric_history(run.info.run_id, "epoch")) for run in runs] == [4, 4]
