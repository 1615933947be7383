"""Supervised runs on the local SQLite store: the status is true in every ending."""

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from saccade.journal import last_attempt, read_journal
from saccade.run_dir import RunDir
from saccade.supervisor import supervise
from saccade.tracking.address import local_uri
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store
from saccade.tracking.sync import sync_run

from ..supervised import STUB, curve, history, lines, tracked, train, when

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def test_success(run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    code = train(
        run,
        ["tags", {"encoder": "r3d", "device": "cpu"}],
        ["stage", "pretrain"],
        ["train", 12],
        ["file", "clusters/epoch_0001/assignments.csv", "1,2"],
        ["file", "summary.md", "# Toy\n\n![loss](figures/loss.png)\n"],
        ["print", "half way"],
    )
    assert code == 0
    found = tracked(run)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "toy"
    assert history(run, "pretrain/loss") == curve(12)
    assert found.data.params["pretrain.epochs"] == "300"
    assert len(found.data.params) == len(run.record()["params"])
    tags = found.data.tags
    assert (tags["stage"], tags["encoder"], tags["device"], tags["attempt"]) == ("pretrain", "r3d", "cpu", "1")
    assert tags["mlflow.note.content"] == (
        f"# Toy\n\n![loss](get-artifact?path=figures/loss.png&run_uuid={found.info.run_id})\n"
    )
    assert "saccade.failure" not in tags
    for name in ("spec.yaml", "environment.txt", "trainer.log", "summary.md", "clusters/epoch_0001/assignments.csv"):
        copy = run.root / "mlartifacts" / found.info.run_id / "artifacts" / name
        assert copy.read_bytes() == (run.path / name).read_bytes(), name
    state = ShippingState.load(run.path)
    assert state is not None
    assert state.complete
    assert state.offset == run.journal.stat().st_size
    # Of the last lines, which tell of files and the end, nothing needs to be kept if they went by themselves.
    metrics = [end for event, end in read_journal(run.journal) if event["kind"] == "metrics"]
    assert metrics[-1] <= state.attempted <= state.offset
    said = capfd.readouterr().err
    assert f"saccade: run {run.id} in {run.path}\n" in said
    assert f"tracked at {local_uri(run.root)}, experiment 'tests'\n" in said
    assert "half way\n" in said
    assert f"run {run.id} finished; see it with: saccade ui --runs {run.root}\n" in said


def test_an_exception_is_a_failure(run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(run, ["train", 3], ["print", "10%\r50%\r\x1b[31m90%\x1b[0m"], ["raise"]) == 1
    found = tracked(run)
    assert found.info.status == "FAILED"
    assert history(run, "pretrain/loss") == curve(3)
    assert found.data.tags["saccade.exit_code"] == "1"
    assert found.data.tags["saccade.failure"].startswith("90%\nTraceback (most recent call last):\n")
    assert found.data.tags["saccade.failure"].endswith("\nValueError: the loss is gone")
    said = capfd.readouterr().err
    assert f"failed (exit code 1); its output is in {run.log}; go on with: saccade run --resume {run.id}" in said


def test_other_exit_codes(run: RunDir) -> None:
    assert train(run, ["exit", 7]) == 1
    assert tracked(run).info.status == "FAILED"
    assert tracked(run).data.tags["saccade.ended"] == "exit code 7"


def test_a_mistake_gets_its_one_line(run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(run, ["mistake"]) == 2
    assert tracked(run).info.status == "FAILED"
    assert tracked(run).data.tags["saccade.failure"] == "error: data/toy: no such dataset; run saccade data toy"
    assert capfd.readouterr().err.splitlines()[2:] == ["error: data/toy: no such dataset; run saccade data toy"]


def test_a_killed_trainer(run: RunDir) -> None:
    assert train(run, ["train", 6], ["worker"], ["kill"]) == 1
    worker = Path("/proc") / (run.path / "worker.pid").read_text() / "status"
    assert not worker.exists() or "State:\tZ" in worker.read_text()  # It went with its trainer.
    found = tracked(run)
    assert found.info.status == "FAILED"
    assert found.data.tags["saccade.signal"] == "SIGKILL"
    assert found.data.tags["saccade.ended"] == "killed by SIGKILL"
    assert history(run, "pretrain/loss") == curve(6)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda item: str(item)
)
def test_being_asked_to_stop(run: RunDir, number: signal.Signals, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    when(lambda: lines(run) > 3, lambda: os.kill(os.getpid(), number))
    assert train(run, ["train", 3], ["wait"]) == code
    found = tracked(run)
    assert found.info.status == "KILLED"
    assert found.data.tags["saccade.ended"] == f"stopped by {number.name}"
    assert history(run, "pretrain/loss") == curve(3)
    assert json.loads(run.journal.read_text().splitlines()[-1])["status"] == "stopped"
    assert f"run {run.id} stopped; go on with: saccade run --resume {run.id}" in capfd.readouterr().err
    assert signal.getsignal(number) == before


def test_a_trainer_that_was_sent_sigterm_itself(run: RunDir) -> None:
    def stop() -> None:
        pid = json.loads((run.path / "trainer.pid").read_text())
        os.kill(pid, signal.SIGTERM)

    pid = "import os, pathlib, sys; pathlib.Path(sys.argv[-1], 'trainer.pid').write_text(str(os.getpid()));"
    code = f"{pid} sys.argv = {['', json.dumps([['stage', 'a'], ['wait']])]!r} + sys.argv[-1:];"
    code += f"import runpy; runpy.run_path({str(STUB)!r}, run_name='__main__')"
    when(lambda: lines(run) > 1, stop)
    assert (
        supervise(run, resume=False, tracking_uri=None, experiment="tests", command=[sys.executable, "-c", code]) == 143
    )
    assert tracked(run).info.status == "KILLED"


def test_a_reason_to_stop_from_outside(run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[float] = []

    def stop() -> str | None:
        asked.append(time.monotonic())
        return "pruned after step 3" if lines(run) > 3 else None

    assert train(run, ["train", 3], ["wait"], stop=stop) == 143
    found = tracked(run)
    assert found.info.status == "KILLED"
    assert found.data.tags["saccade.ended"] == "pruned after step 3"
    assert history(run, "pretrain/loss") == curve(3)
    assert all(0.4 < later - before < 5 for before, later in pairwise(asked))
    assert f"run {run.id} stopped; go on with" in capfd.readouterr().err
    # One that has ended by itself has ended as it has, whatever is said meanwhile.
    late = lambda: "too late" if last_attempt(run.journal) == 2 else None  # noqa: E731
    assert train(run, ["sleep", 1.5], resume=True, stop=late) == 0
    assert tracked(run).info.status == "FINISHED"
    assert "saccade.ended" not in tracked(run).data.tags


def test_a_stop_that_fails_leaves_no_trainer(run: RunDir) -> None:
    def stop() -> str | None:
        if lines(run) > 3:
            raise KeyError("storage")
        return None

    with pytest.raises(KeyError, match="storage"):
        train(run, ["train", 3], ["wait"], stop=stop)
    assert not run.trainer_lives()
    assert json.loads(run.journal.read_text().splitlines()[-1]) | {"t": 0} == {
        "t": 0,
        "kind": "end",
        "status": "stopped",
    }


def test_tags_from_outside_and_a_parent(root: Path, run: RunDir) -> None:
    def tags() -> dict[str, str]:
        state = ShippingState.load(run.path)
        assert state is not None
        found: dict[str, str] = Store(local_uri(root), root).client.get_run(state.mlflow_run_id).data.tags
        return {key: found.get(key, "") for key in ("sweep", "trial", "mlflow.parentRunId")}

    assert train(run, ["train", 3], tags={"sweep": "lr", "trial": "7"}, parent_run_id="0" * 32) == 0
    assert tags() == {"sweep": "lr", "trial": "7", "mlflow.parentRunId": "0" * 32}
    # They are the run's own from then on: also where its MLflow run is only made later.
    state = ShippingState.load(run.path)
    assert state is not None
    ShippingState(folder=run.path, tracking_uri=state.tracking_uri, experiment="later", tags=state.tags).save()
    assert sync_run(run) == ""
    assert tags() == {"sweep": "lr", "trial": "7", "mlflow.parentRunId": "0" * 32}
    assert train(run, ["train", 4], resume=True, tags={"trial": "8"}) == 0
    assert tags() == {"sweep": "lr", "trial": "8", "mlflow.parentRunId": "0" * 32}


def test_a_quiet_run_says_nothing_on_the_terminal(run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(run, ["print", "half way"], ["train", 3], quiet=True) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert run.log.read_text() == "half way\n"
    said = (run.path / "supervisor.log").read_text().splitlines()
    assert said[0] == f"saccade: run {run.id} in {run.path}"
    assert said[-1].startswith(f"saccade: run {run.id} finished")
    assert history(run, "pretrain/loss") == curve(3)


def test_a_second_ctrl_c_kills(run: RunDir) -> None:
    def press_twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    when(lambda: lines(run) > 1, press_twice)
    began = time.monotonic()
    assert train(run, ["stage", "a"], ["sleep", 60]) == 130  # It looks at its stop request after a minute only.
    assert time.monotonic() - began < 30
    assert tracked(run).info.status == "KILLED"


@pytest.mark.parametrize(
    ("chosen", "given"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
    ],
)
def test_the_trainer_knows_nothing_of_the_server(
    run: RunDir, chosen: dict[str, str], given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    for name in ("COLUMNS", "SACCADE_SHARED", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):  # of the tests' own environment
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert train(run, ["environment"]) == 0
    assert run.log.read_text() == f"{given | {'SACCADE_SUPERVISED': '1'}}\n"


def test_ctrl_c_before_training_starts_no_trainer(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.supervisor._await_tracking", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    assert train(run, ["stage", "a"]) == 130
    assert not run.journal.exists()
    assert tracked(run).info.status == "KILLED"


def test_sigterm_leaves_in_seconds_though_the_server_is_away(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("saccade.supervisor._CONNECT_SEC", 0.1)
    sent: list[float] = []

    def terminate() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    when(lambda: lines(run) > 3, terminate)
    command = [sys.executable, str(STUB), json.dumps([["train", 3], ["wait"]])]
    nobody = "http://127.0.0.1:9"
    assert supervise(run, resume=False, tracking_uri=nobody, experiment="tests", command=command) == 143
    assert time.monotonic() - sent[0] < 10
    assert f"send it with: saccade runs sync {run.id}" in capfd.readouterr().err
