"""Every way in which a server can fail: training goes on as fast as ever, and in the end everything is there once."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from saccade.errors import RunError
from saccade.journal import read_journal
from saccade.run_dir import RunDir, create_run
from saccade.spec import CheckpointSpec, Spec
from saccade.supervisor import supervise
from saccade.tracking.server import ServerSettings
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store
from saccade.tracking.sync import sync_run, sync_runs

from ..mlflow_server import Door
from ..supervised import lines, when

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

STUB = Path(__file__).parent.parent / "trainer_stub.py"
STEPS, PAUSE_SEC, WEIGHTS = 120, 0.01, 50_000
WORK: list[Any] = ["train", STEPS, {"pause": PAUSE_SEC, "save_every": 20, "weights": WEIGHTS}]
LAST = "checkpoints/last.pt"


def new_run(root: Path) -> RunDir:
    return create_run(root, Spec(name="toy", checkpoint=CheckpointSpec(track_every_minutes=0)), ["saccade", "run"])


def train(run: RunDir, uri: str, *actions: Any, resume: bool = False, patience_sec: float = 60.0) -> int:
    command = [sys.executable, str(STUB), json.dumps(actions or [WORK])]
    return supervise(
        run, resume=resume, tracking_uri=uri, experiment="tests", command=command, patience_sec=patience_sec
    )


def state_of(run: RunDir) -> ShippingState:
    state = ShippingState.load(run.path)
    assert state is not None
    return state


def finished(run: RunDir) -> bool:
    return run.journal.exists() and b'"finished"' in run.journal.read_bytes()


def step_times(run: RunDir) -> list[float]:
    """Seconds between two logged steps."""
    times = [event["t"] / 1000 for event, _ in read_journal(run.journal) if event["kind"] == "metrics"]
    return [later - before for before, later in pairwise(times)]


def assert_all_there_once(server: str, run: RunDir, *, steps: int = STEPS, status: str = "FINISHED") -> None:
    state, client = state_of(run), Store(server, run.root).client
    assert state.complete
    assert not state.refused
    found = client.search_runs([state.experiment_id], f"tags.`saccade.run_id` = '{run.id}'")
    assert [(each.info.run_id, each.info.status) for each in found] == [(state.mlflow_run_id, status)]
    written = [
        (key, event["step"], value, event["t"])
        for event, _ in read_journal(run.journal)
        if event["kind"] == "metrics"
        for key, value in event["values"].items()
    ]
    assert [(step, value) for key, step, value, _ in written if key == "pretrain/loss"] == [
        (step, 1 / step) for step in range(1, steps + 1)
    ]
    shipped = [
        (point.key, point.step, point.value, point.timestamp)
        for key in ("pretrain/loss", "epoch")
        for point in client.get_metric_history(state.mlflow_run_id, key)
    ]
    assert sorted(shipped) == sorted(written)
    expected = {f"figures/{step}.png" for step in range(20, steps + 1, 20)}
    expected |= {f"checkpoints/epoch_{step:04d}.pt" for step in range(60, steps + 1, 60)}
    assert state.uploaded.keys() >= expected | {"journal.jsonl", "run.json", "spec.yaml"}
    target = run.root.parent / f"fetched-{run.id}"
    target.mkdir()
    for name, digest in state.uploaded.items():
        content = Path(client.download_artifacts(state.mlflow_run_id, name, str(target))).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, name
        if name == LAST:  # of some moment, if any was sent in so short a run, and of one moment
            assert len(content) == 4 * WEIGHTS
            assert content == content[:4] * WEIGHTS
        else:
            assert content == (run.path / name).read_bytes(), name


@pytest.fixture(scope="module")
def undisturbed(server: str, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Step times with a server that answers."""
    run = new_run(tmp_path_factory.mktemp("undisturbed") / "runs")
    assert train(run, server) == 0
    assert_all_there_once(server, run)
    return step_times(run)


def assert_full_speed(run: RunDir, undisturbed: list[float], stall_sec: float) -> None:
    """Steps take what they take undisturbed, and do not wait for answers, each of which would take `stall_sec`."""
    times = step_times(run)
    assert median(times) < 1.5 * median(undisturbed) + 0.005
    # A busy machine may hold a process up, but not as often as there are requests.
    assert sum(time > stall_sec for time in times) <= 2


# A server that is there, but ... --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "refuse", "delay_sec"),
    [
        (None, "", 0.5),
        (500, "", 0.0),
        (403, "/mlflow-artifacts/", 0.0),
        (507, "/mlflow-artifacts/", 0.0),
        (503, "log-batch", 0.2),
    ],
    ids=["slow", "only errors", "no artifacts: forbidden", "no artifacts: no space", "no metrics"],
)
def test_a_server_in_trouble(
    status: int | None, refuse: str, delay_sec: float, root: Path, door: Door, undisturbed: list[float]
) -> None:
    run = new_run(root)
    door.status, door.refuse, door.delay_sec = status, refuse, delay_sec
    door.open()

    def heal() -> None:
        door.status, door.delay_sec = None, 0.0

    when(lambda: finished(run), heal)
    assert train(run, door.address) == 0
    assert_full_speed(run, undisturbed, 0.5)
    assert_all_there_once(door.address, run)


def test_the_last_checkpoint_of_a_run_that_failed(root: Path, door: Door) -> None:
    """It was replaced in every step, some of them while it was sent."""
    run = new_run(root)
    door.delay_sec = 0.05
    door.open()
    actions: list[Any] = [["train", 59, {"pause": 0.02, "save_every": 1, "weights": WEIGHTS}], ["exit", 1]]
    assert train(run, door.address, *actions) == 1
    state, client = state_of(run), Store(door.address, root).client
    fetched = Path(client.download_artifacts(state.mlflow_run_id, LAST, str(root.parent))).read_bytes()
    assert fetched == (59).to_bytes(4, "little") * WEIGHTS == (run.path / LAST).read_bytes()
    assert not (run.path / ".shipping").exists()


# A server that is killed ----------------------------------------------------------------------------------------------


@dataclass
class Killable:
    """An MLflow server of our own, which may be killed outright and started again where it was."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = ServerSettings(
            database=f"sqlite:///{self.folder}/mlflow.db", artifacts=(self.folder / "art").as_uri(), port=self.port
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self.process = subprocess.Popen(
            settings.command(),
            env=environment | settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            assert self.process.poll() is None
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=2):
                return
            time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = Killable(tmp_path_factory.mktemp("killable"), port)
    yield server
    server.kill()


def test_absent_then_killed_and_back_then_killed_for_good(
    killable: Killable, root: Path, undisturbed: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    """One server's life; its starts take most of the time of this file."""
    # Not there when training begins: it comes while the run waits to send the rest.
    absent = new_run(root)
    starting = when(lambda: finished(absent), killable.start)
    assert train(absent, killable.address, patience_sec=120.0) == 0
    starting.join()
    assert_full_speed(absent, undisturbed, 2.0)
    assert_all_there_once(killable.address, absent)

    # Killed in the middle of two runs, and back while they train on.
    runs = [new_run(root), new_run(root)]
    codes: list[int] = []
    more = {"pause": PAUSE_SEC, "save_every": 20, "weights": WEIGHTS}

    def trained(run: RunDir) -> None:
        wait_for_server = [["train", STEPS, more], ["stage", "waiting"], ["await_shipped"], ["train", STEPS + 20, more]]
        first = [["train", 20, more], ["await_shipped"], ["stage", "shipped"]]
        codes.append(train(run, killable.address, *first, *wait_for_server, patience_sec=120.0))

    threads = [threading.Thread(target=trained, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    shipped = when(lambda: all(run.journal.exists() and b"shipped" in run.journal.read_bytes() for run in runs),
                   killable.kill)  # fmt: skip
    shipped.join()
    when(lambda: all(b"waiting" in run.journal.read_bytes() for run in runs), killable.start).join()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    for run in runs:
        assert_all_there_once(killable.address, run, steps=STEPS + 20)
    said = capfd.readouterr().err
    assert said.count("tracking: cannot reach") == said.count("answers again") == 3

    # Killed and never back, as far as the run knows.
    alone = new_run(root)
    when(lambda: lines(alone) > 30, killable.kill)
    assert train(alone, killable.address, patience_sec=1.0) == 0
    assert_full_speed(alone, undisturbed, 2.0)
    assert not state_of(alone).complete
    assert f"send it with: saccade runs sync {alone.id}" in capfd.readouterr().err
    killable.start()
    assert sync_runs(root, alone.id, say=lambda _: None) == 0
    assert_all_there_once(killable.address, alone)


# A full disk here -----------------------------------------------------------------------------------------------------


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_the_disk_of_the_runs_is_full(
    server: str, root: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = new_run(small_disk / "runs")
    more = {"pause": 0.002, "save_every": 20, "weights": 1000}
    when(lambda: run.journal.exists() and b"shipped" in run.journal.read_bytes(), lambda: fill(small_disk))
    actions = [["train", 40, more], ["await_shipped"], ["stage", "shipped"], ["sleep", 0.5], ["train", 4000, more]]
    assert train(run, server, *actions, patience_sec=2.0) in (1, 2)  # A figure, or the journal
    said = capfd.readouterr().err
    # The trainer's own line has no place in its log, so the supervisor tells.
    assert "the disk that holds " in said
    assert "is full: make room; go on with: saccade run --resume" in said
    assert "tracking: cannot write down what is sent, so nothing is (" in said
    kept = [event["step"] for event, _ in read_journal(run.journal) if event["kind"] == "metrics"]
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) >= 40
    with pytest.raises(RunError, match=rf"{run.id}: No space left on device; a run needs a folder that can be written"):
        train(run, server, resume=True)
    (small_disk / "filler").unlink()
    capfd.readouterr()
    last = len(kept) // 20 * 20 + 40
    assert train(run, server, ["train", last, more], resume=True) == 0
    client, state = Store(server, root).client, state_of(run)
    assert state.complete
    points = client.get_metric_history(state.mlflow_run_id, "pretrain/loss")
    assert sorted((point.step, point.value) for point in points) == [(step, 1 / step) for step in range(1, last + 1)]
    assert sync_run(run) == ""
    shutil.rmtree(run.path)
