"""What a supervisor ships: no point is lost or doubled, whoever was killed and whatever was deleted."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saccade.errors import RunError
from saccade.journal import last_attempt
from saccade.run_dir import BusyError, RunDir, update_run
from saccade.spec import PretrainSpec, Spec
from saccade.tracking.address import local_uri
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store
from saccade.tracking.sync import reconcile, sync_run, sync_runs

from ..supervised import command, curve, history, tracked, train

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def test_names_that_mlflow_refuses_do_not_hold_up_the_rest(run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    actions = [["metrics", {"a": step, "bad@key": step, "b": step, "c(d)": step}, step] for step in range(5)]
    assert train(run, *actions, ["artifact", "gone.txt"], ["artifact", "../spec.yaml"], ["file", "good.txt", "x"]) == 0
    assert [value for _, value in history(run, "a")] == [0, 1, 2, 3, 4]
    assert [value for _, value in history(run, "b")] == [0, 1, 2, 3, 4]
    state = ShippingState.load(run.path)
    assert state is not None
    assert sorted(state.refused) == ["file ../spec.yaml", "file gone.txt", "metric bad@key", "metric c(d)"]
    assert "good.txt" in state.uploaded
    assert state.complete
    said = capfd.readouterr().err
    assert said.count("refuses metric bad@key") == 1
    assert said.count("file gone.txt") == 1
    for what in [what for what in state.refused if what.startswith("file ")]:
        del state.refused[what]
    state.save()
    assert sync_runs(run.root) == 0
    assert capfd.readouterr().out == "nothing to send: all is on the server\n"


def test_lines_that_were_only_files_may_be_cut_by_the_next_attempt(run: RunDir) -> None:
    # The end of a run that is later gone on with: files announced and shipped after the last points, as lines that no
    # checkpoint is responsible for.
    assert train(run, ["train", 5], ["await_shipped"], ["file", "a.txt", "1"], ["await_shipped"]) == 0
    state = ShippingState.load(run.path)
    assert state is not None
    assert state.attempted < state.offset == run.journal.stat().st_size
    update_run(run, Spec(name="toy"), [])
    assert train(run, ["train", 9], resume=True) == 0
    assert history(run, "pretrain/loss") == curve(9)
    assert tracked(run).data.tags["attempt"] == "2"


def test_values_that_are_not_finite(run: RunDir) -> None:
    assert train(run, ["metrics", {"a": float("inf"), "b": float("-inf"), "c": float("nan")}, 7]) == 0
    for key in "abc":
        ((step, value),) = history(run, key)
        assert (step, value != value) == (7, True)
    tags = tracked(run).data.tags
    assert tags["saccade.infinite.a"] == "+inf at step 7"
    assert tags["saccade.infinite.b"] == "-inf at step 7"
    assert "saccade.infinite.c" not in tags


@pytest.mark.parametrize("shipped", [True, False], ids=["shipped beyond the mark", "not shipped"])
def test_killed_and_resumed_is_one_clean_curve(run: RunDir, shipped: bool) -> None:
    assert train(run, ["train", 30, {"die_at": 18, "shipped": shipped}]) == 1
    assert json.loads((run.path / "checkpoint.json").read_text())["step"] == 15
    first = tracked(run)
    if shipped:
        assert history(run, "pretrain/loss") == curve(18)
    with open(run.journal, "ab") as journal:
        journal.write(b'{"t": 1, "kind": "metr')  # A torn line

    update_run(run, Spec(name="toy", pretrain=PretrainSpec(epochs=301)), ["saccade", "run", "--resume", run.id])
    assert train(run, ["train", 30], resume=True) == 0
    assert history(run, "pretrain/loss") == curve(30)
    assert history(run, "epoch") == [(step, step // 5) for step in range(1, 31)]
    found = tracked(run)
    assert found.info.run_id == first.info.run_id
    assert found.info.status == "FINISHED"
    assert found.data.tags["attempt"] == "2"
    assert not {"saccade.failure", "saccade.signal", "saccade.ended", "saccade.exit_code"} & found.data.tags.keys()
    assert found.data.params["pretrain.epochs"] == "300"
    assert found.data.tags["override.pretrain.epochs"] == "301"
    assert (run.path / "spec.attempt1.yaml").exists()


def test_a_supervisor_killed_outright(run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; from pathlib import Path; from saccade.run_dir import RunDir; "
    program += "from saccade.supervisor import supervise; run, *command = sys.argv[1:]; "
    program += "supervise(RunDir(Path(run)), resume=False, tracking_uri=None, experiment='tests', command=command)"
    actions = [["train", 5], ["await_shipped"], ["stage", "shipped"], ["wait"]]
    supervisor = subprocess.Popen([sys.executable, "-c", program, str(run.path), *command(*actions)])
    try:
        while b"shipped" not in (run.journal.read_bytes() if run.journal.exists() else b""):
            assert supervisor.poll() is None
            time.sleep(0.05)
        assert reconcile(run.root) == []  # It lives, so nothing is to be put right.
        with pytest.raises(BusyError, match=rf"is being supervised by pid {supervisor.pid}"):
            sync_run(run)
        with pytest.raises(BusyError):
            train(run, ["stage", "b"])
    finally:
        supervisor.kill()
        supervisor.wait()
    assert tracked(run).info.status == "RUNNING"
    while json.loads(run.journal.read_text().splitlines()[-1])["kind"] != "end":  # The trainer stops by itself.
        time.sleep(0.05)
    said: list[str] = []
    assert reconcile(run.root, say=said.append) == [run.id]
    assert said == [f"saccade: run {run.id} of before is tracked to its end now: KILLED"]
    found = tracked(run)
    assert found.info.status == "KILLED"
    assert found.data.tags["saccade.ended"] == "supervisor died"
    assert found.info.end_time == json.loads(run.journal.read_text().splitlines()[-1])["t"]
    assert history(run, "pretrain/loss") == curve(5)
    assert reconcile(run.root) == []


def test_a_deleted_experiment_stops_before_training(root: Path, run: RunDir) -> None:
    store = Store(local_uri(root), root)
    store.client.delete_experiment(store.open_experiment("tests"))
    with pytest.raises(RunError, match="the MLflow experiment 'tests' was deleted; restore it") as caught:
        train(run, ["stage", "a"])
    assert "\n" not in str(caught.value)
    assert not run.journal.exists()
    assert reconcile(root) == []


def test_a_deleted_run_is_not_gone_on_with(root: Path, run: RunDir) -> None:
    assert train(run, ["train", 5]) == 0
    mlflow_run_id = tracked(run).info.run_id
    Store(local_uri(root), root).client.delete_run(mlflow_run_id)
    with pytest.raises(
        RunError, match=rf"run {mlflow_run_id} was deleted; restore it there, or remove .*shipping.json"
    ):
        train(run, ["train", 6], resume=True)
    assert last_attempt(run.journal) == 1
    (run.path / "shipping.json").unlink()
    assert train(run, ["train", 7], resume=True) == 0
    assert history(run, "pretrain/loss") == curve(7)  # All of it, in the new run


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "ftp://host/x", "http://"])
def test_addresses_that_nothing_can_be_tracked_at(run: RunDir, uri: str) -> None:
    with pytest.raises(RunError, match=r"tracking.uri: cannot track at '.*'; give http://HOST:PORT"):
        train(run, ["stage", "a"], tracking_uri=uri)
