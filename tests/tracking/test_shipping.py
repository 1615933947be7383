"""Runs on a real server that is there, away, slow, out of order or unwilling: everything arrives once, in the end."""

import hashlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import RunError
from saccade.run_dir import RunDir, create_run, list_runs
from saccade.spec import Spec, TrackingSpec
from saccade.supervisor import supervise
from saccade.tracking.errors import RefusedError
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store
from saccade.tracking.sync import reconcile, sync_run, sync_runs

from ..mlflow_server import Door

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

STUB = Path(__file__).parent.parent / "trainer_stub.py"


@pytest.fixture
def run(root: Path) -> RunDir:
    return create_run(root, Spec(name="toy"), ["saccade", "run", "toy.yaml"])


def train(run: RunDir, uri: str, *actions: list[Any], resume: bool = False, patience_sec: float = 20.0) -> int:
    return supervise(
        run,
        resume=resume,
        tracking_uri=uri,
        experiment="tests",
        command=[sys.executable, str(STUB), json.dumps(actions)],
        patience_sec=patience_sec,
    )


def tracked(server: str, run: RunDir) -> Any:
    """The MLflow run, which must be the only one of this run."""
    store = Store(server, run.root)
    found = store.client.search_runs([store.open_experiment("tests")], f"tags.`saccade.run_id` = '{run.id}'")
    assert len(found) == 1
    return found[0]


def history(server: str, run: RunDir, key: str = "pretrain/loss") -> list[tuple[int, float]]:
    points = Store(server, run.root).client.get_metric_history(tracked(server, run).info.run_id, key)
    return sorted((point.step, point.value) for point in points)


def curve(last: int) -> list[tuple[int, float]]:
    return [(step, 1 / step) for step in range(1, last + 1)]


def state_of(run: RunDir) -> ShippingState:
    state = ShippingState.load(run.path)
    assert state is not None
    return state


def test_a_run_on_a_server(server: str, run: RunDir, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    contents = {"figures/a.png": "a" * 100_000, "clusters/epoch_0001/x.csv": "1,2", "clusters/epoch_0001/ü b.csv": ""}
    actions = [["silent_file", name, content] for name, content in contents.items()]
    announced = [["artifact", "figures/a.png"], ["artifact", "clusters/epoch_0001"]]
    assert train(run, server, ["train", 1200, {"save_every": 500}], *actions, *announced) == 0
    found = tracked(server, run)
    assert found.info.status == "FINISHED"
    assert history(server, run) == curve(1200)
    client = Store(server, run.root).client
    for name in (*contents, "spec.yaml", "environment.txt", "trainer.log"):
        copy = Path(client.download_artifacts(found.info.run_id, name, str(tmp_path)))
        here = hashlib.sha256((run.path / name).read_bytes()).hexdigest()
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == here, name
        assert state_of(run).uploaded[name] == here
    link = f"{server}/#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}?workflowType=machine_learning"
    said = capfd.readouterr().err
    assert f"saccade: tracked at {link}\n" in said
    assert f"finished; see it at {link}\n" in said


def _use(context: str, digest: str) -> list[Any]:
    name, profile = f"toy split 1 {context}", {"videos": 3}
    return ["dataset", {"name": name, "digest": digest, "context": context, "source": "/d/toy", "profile": profile}]


def test_the_datasets_of_a_run(server: str, run: RunDir) -> None:
    uses = [_use("train", "ab" * 16), _use("test", "ab" * 16)]
    # A resumed run says it again.
    assert train(run, server, *uses, ["train", 3, {"save_every": 1}], ["exit", 1]) == 1
    assert train(run, server, *uses, ["train", 3, {"save_every": 1}], resume=True) == 0
    inputs = tracked(server, run).inputs.dataset_inputs
    shown = {each.dataset.name: ({tag.key: tag.value for tag in each.tags}, each.dataset) for each in inputs}
    assert len(inputs) == 2
    for context in ("train", "test"):
        tags, dataset = shown[f"toy split 1 {context}"]
        assert tags == {"mlflow.data.context": context}
        assert (dataset.digest, dataset.source_type) == ("ab" * 16, "local")
        assert json.loads(dataset.source) == {"uri": "/d/toy"}
        assert json.loads(dataset.profile) == {"videos": 3}


def test_a_dataset_that_the_server_refuses_costs_nothing_else(
    server: str, run: RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(run, server, _use("train", "a" * 64), ["train", 3, {"save_every": 1}]) == 0
    assert history(server, run) == curve(3)
    assert "MLflow refuses dataset toy split 1 train" in capfd.readouterr().err


def test_away_from_the_start_then_synced(run: RunDir, door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert train(run, door.address, ["train", 8], ["file", "a.txt", "a"], patience_sec=2.0) == 0
    assert time.monotonic() - began < 20
    state = state_of(run)
    assert (state.mlflow_run_id, state.offset, state.attempted, state.complete) == ("", 0, 0, False)
    assert state.outcome is not None
    said = capfd.readouterr().err
    assert said.count(f"tracking: cannot reach {door.address}") == 1
    assert f"saccade: not on the server yet: 11 events, its status; send it with: saccade runs sync {run.id}" in said

    said_later: list[str] = []
    assert sync_runs(run.root, run.id, say=said_later.append) == 1  # Still away
    assert "11 events" in said_later[-1]
    door.open()
    assert sync_runs(run.root, run.id, say=said_later.append) == 0
    assert said_later[-1] == f"run {run.id}: all is on the server"
    found = tracked(door.address, run)
    assert found.info.status == "FINISHED"
    assert found.info.end_time == state.outcome.end_ms
    assert history(door.address, run) == curve(8)
    expected = {"a.txt", "environment.txt", "git.diff", "journal.jsonl", "run.json", "spec.yaml", "trainer.log"}
    assert state_of(run).uploaded.keys() == expected - (
        {"git.diff"} if not (run.path / "git.diff").read_text() else set()
    )
    door.requests.clear()
    assert sync_runs(run.root, say=said_later.append) == 0
    assert said_later[-1] == "nothing to send: all is on the server"
    assert door.requests == []


def test_gone_in_the_middle_and_back(run: RunDir, door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    door.open()

    def break_down() -> None:
        while not run.journal.exists() or b'"name": "shipped"' not in run.journal.read_bytes():
            time.sleep(0.02)
        door.shut()
        while b'"name": "late"' not in run.journal.read_bytes():
            time.sleep(0.02)
        door.open()

    threading.Thread(target=break_down, daemon=True).start()
    actions: list[list[Any]] = [["train", 5], ["await_shipped"], ["stage", "shipped"], ["train", 90, {"pause": 0.02}]]
    assert train(run, door.address, *actions, ["stage", "late"], ["sleep", 0.5], ["train", 100]) == 0
    assert tracked(door.address, run).info.status == "FINISHED"
    assert history(door.address, run) == curve(100)
    assert state_of(run).complete
    said = capfd.readouterr().err
    assert said.count("cannot reach") == said.count("answers again") == 1


def test_an_answer_that_is_lost_makes_no_second_run(run: RunDir, door: Door) -> None:
    """The server makes the run, stores the points, and then nobody hears of it."""
    door.open()
    assert train(run, door.address, ["train", 7]) == 0
    state = state_of(run)
    state.mlflow_run_id, state.offset, state.status_final, state.complete = "", 0, False, False
    state.save()
    assert sync_run(run) == ""
    assert history(door.address, run) == curve(7)


def test_killed_and_resumed_on_a_server(server: str, run: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(run, server, ["train", 30, {"die_at": 18, "shipped": True}]) == 1
    first = tracked(server, run)
    assert first.info.status == "FAILED"
    assert history(server, run) == curve(18)
    # Another address configured meanwhile: the run goes on where it is.
    assert train(run, "http://127.0.0.1:9", ["train", 30], resume=True) == 0
    assert f"goes on where it is tracked, at {server}, not at http://127.0.0.1:9" in capfd.readouterr().err
    assert tracked(server, run).info.run_id == first.info.run_id
    assert tracked(server, run).info.status == "FINISHED"
    assert history(server, run) == curve(30)


def test_nothing_is_sent_that_the_trainer_may_still_cut(run: RunDir, door: Door) -> None:
    assert train(run, door.address, ["train", 30, {"die_at": 18}], patience_sec=0.1) == 1
    assert state_of(run).attempted == 0

    def come_back() -> None:
        while (run.path / "slow").exists():
            time.sleep(0.02)
        door.open()

    # The server is back just when the trainer has read what was attempted, and is about to cut steps 16 to 18.
    (run.path / "slow").touch()
    threading.Thread(target=come_back, daemon=True).start()
    assert train(run, door.address, ["train", 30], resume=True) == 0
    assert history(door.address, run) == curve(30)


@pytest.mark.parametrize("status", [500, 403, 413])
def test_a_server_that_takes_no_files(run: RunDir, door: Door, status: int) -> None:
    door.open()
    door.status, door.refuse = status, "/mlflow-artifacts/"
    assert train(run, door.address, ["file", "a.txt", "a"], ["train", 9], patience_sec=4.0) == 0
    assert history(door.address, run) == curve(9)
    assert tracked(door.address, run).info.status == "FINISHED"
    assert state_of(run).uploaded == {}
    door.status = None
    assert sync_run(run, say=lambda _: None) == ""
    assert "a.txt" in state_of(run).uploaded
    assert state_of(run).complete
    assert not state_of(run).refused


def test_a_server_that_errs(run: RunDir, door: Door) -> None:
    door.open()
    door.status = 500

    def recover() -> None:
        while not run.journal.exists() or b'"finished"' not in run.journal.read_bytes():
            time.sleep(0.02)
        door.status = None

    threading.Thread(target=recover, daemon=True).start()
    assert train(run, door.address, ["train", 9]) == 0
    assert history(door.address, run) == curve(9)
    assert state_of(run).complete


def test_a_slow_server_does_not_slow_training(run: RunDir, door: Door) -> None:
    door.open()
    door.delay_sec = 0.3
    (run.path / "times").mkdir()
    assert train(run, door.address, ["train", 100, {"pause": 0.005}]) == 0
    assert history(door.address, run) == curve(100)
    times = [json.loads(line)["t"] for line in run.journal.read_text().splitlines()]
    assert times[-1] - times[0] < 3000  # 100 steps; a call for each would take 30 s


def test_a_wrong_password_is_known_before_training(run: RunDir, door: Door) -> None:
    door.open()
    door.status = 401
    with pytest.raises(RunError, match=rf"cannot track run {run.id}: .*; set MLFLOW_TRACKING_USERNAME and"):
        train(run, door.address, ["train", 9])
    assert not run.journal.exists()
    assert not (run.path / "shipping.json").exists()


def test_a_password_in_the_address_stays_in_memory(server: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    address = server.replace("http://", "http://ann:hunter2@")
    run = create_run(root, Spec(name="toy", tracking=TrackingSpec(uri=address)), ["saccade", "run", address])
    assert train(run, address, ["file", "a.txt", "a"]) == 0
    found = tracked(server, run)
    assert found.info.status == "FINISHED"
    assert "a.txt" in state_of(run).uploaded
    everywhere = {str(path): path.read_text() for path in run.path.rglob("*") if path.is_file()}
    everywhere |= {"said": capfd.readouterr().err, "tags": str(found.data.tags), "params": str(found.data.params)}
    assert [name for name, text in everywhere.items() if "hunter2" in text] == []
    assert state_of(run).tracking_uri == server


def test_two_runs_at_once(server: str, root: Path) -> None:
    runs = [create_run(root, Spec(name=f"toy {index}"), []) for index in range(2)]
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda run=run: codes.append(train(run, server, ["train", 50, {"pause": 0.01}])))
        for run in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    for run in runs:
        assert history(server, run) == curve(50)


# What a supervisor leaves behind --------------------------------------------------------------------------------------


def leave(root: Path, uri: str, *lines: str) -> RunDir:
    """A run whose supervisor died before anything was sent, with these lines in its journal."""
    run = create_run(root, Spec(name="toy"), [])
    attempt = '{"t": 1795000000000, "kind": "attempt", "number": 1}'
    run.journal.write_text("\n".join([attempt, *lines, ""]) if lines else "")
    ShippingState(folder=run.path, tracking_uri=uri, experiment="tests").save()
    return run


POINT = '{"t": 1795000001000, "kind": "metrics", "step": 1, "values": {"pretrain/loss": 1.0}}'


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ('{"t": 1795000002000, "kind": "end", "status": "finished"}', "FINISHED"),
        ('{"t": 1795000002000, "kind": "end", "status": "stopped"}', "KILLED"),
        ('{"t": 1795000002000, "kind": "stage", "name": "evaluate"}', "KILLED"),
        ('{"t": 1795000002000, "kind": "attempt", "number": 2}', "KILLED"),
    ],
)
def test_the_status_that_a_run_deserves(server: str, root: Path, last: str, status: str) -> None:
    run = leave(root, server, POINT, '{"t": 1, "kind": "end", "status": "finished"}', last)
    assert reconcile(root, say=lambda _: None) == [run.id]
    found = tracked(server, run)
    assert (found.info.status, found.info.end_time) == (status, 1795000002000)
    assert found.data.tags.get("saccade.ended") == ("supervisor died" if status == "KILLED" else None)
    assert history(server, run) == [(1, 1.0)]


def test_reconciling_is_quick_when_there_is_nothing_to_do(root: Path) -> None:
    for index in range(300):
        folder = root / f"20260101-{index:06}-toy-aaaa"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        state = ShippingState(folder=folder, tracking_uri="http://127.0.0.1:9", status_final=True, complete=True)
        (folder / "shipping.json").write_text("{}")
        state.save()
    began = time.monotonic()
    assert reconcile(root) == []
    assert time.monotonic() - began < 1.0


def test_old_trouble_never_stops_a_new_run(server: str, root: Path) -> None:
    broken = leave(root, server, POINT)
    (broken.path / "shipping.json").write_text("{")
    damaged = leave(root, server, "not json", POINT)
    no_record = leave(root, server, POINT)
    (no_record.path / "run.json").write_text("{}")
    away = [leave(root, "http://127.0.0.1:9", POINT) for _ in range(3)]
    fine = leave(root, server, POINT)
    said: list[str] = []
    began = time.monotonic()
    assert reconcile(root, say=said.append) == [fine.id]
    assert time.monotonic() - began < 15
    text = "\n".join(said)
    for run in (broken, damaged, no_record):
        assert f"run {run.id} of before could not be put right" in text
    assert text.count("cannot reach http://127.0.0.1:9") == 1  # Asked once, not for each run.
    said.clear()
    assert reconcile(root, say=said.append, skip=broken.id) == []
    assert broken.id not in "".join(said)
    assert all(not state_of(run).complete for run in away)
    assert len(list_runs(root)) == 7


def test_a_run_never_tracked_can_be_sent(server: str, root: Path) -> None:
    run = leave(root, server, POINT, '{"t": 1795000002000, "kind": "end", "status": "finished"}')
    (run.path / "shipping.json").unlink()
    assert reconcile(root) == []
    with pytest.raises(RunError, match="cannot track at 'x'"):
        sync_run(run, tracking_uri="x")
    state = ShippingState(folder=run.path, tracking_uri=server, experiment="tests")
    state.save()
    assert sync_run(run) == ""
    assert history(server, run) == [(1, 1.0)]


def test_a_run_deleted_meanwhile_is_left_alone(server: str, root: Path) -> None:
    run = leave(root, server, POINT)
    reconcile(root, say=lambda _: None)
    store = Store(server, root)
    store.client.delete_run(state_of(run).mlflow_run_id)
    state = state_of(run)
    state.complete = state.status_final = False
    state.save()
    said: list[str] = []
    reconcile(root, say=said.append)
    assert "was deleted" in said[0]
    assert reconcile(root, say=said.append) == []
    assert len(said) == 1
    with pytest.raises(RunError, match="was deleted"):
        sync_run(run, say=lambda _: None)
    store.client.restore_run(state.mlflow_run_id)
    assert sync_run(run) == ""
    assert tracked(server, run).info.status == "KILLED"


def test_file_names_that_would_end_up_elsewhere(server: str, tmp_path: Path) -> None:
    store = Store(server, tmp_path)
    with pytest.raises(RefusedError, match="rename the file"):
        store.upload("0" * 32, tmp_path, "figures/a#b.png")
