"""`make chaos`: whole runs, supervisor and MLflow included, ended at random moments until nothing of them is left out.

Each story is one run of `saccade run`, ended again and again by SIGKILL or SIGTERM, sometimes its supervisor and
sometimes its trainer, after a random part of the time that the unbroken run takes: while it reads, decodes (in a
worker), trains, clusters, writes, evaluates, draws or uploads. Then it is let to its end, and must be the unbroken run,
on disk and in MLflow. SACCADE_CHAOS_SEED repeats the moments of an earlier time, which it prints.
"""

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from saccade.journal import read_journal
from saccade.run_dir import RunDir, list_runs
from saccade.spec_reader import dump_spec, parse_spec
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store

from .lives import LEAVE_SEC, SPEC, assert_same_run, points

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

MOMENTS, OF_ONE = 30, 5
"""In all of a signal's stories together, and in one at most."""
TRAINING = 0.15
"""Part of such a run that is pre-training."""


class Program:
    """`saccade run` in a folder of its own, tracked in the file beside the runs."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        folder.mkdir()
        overrides = ["engine.workers=1", "checkpoint.every_steps=5"]
        spec = dump_spec(parse_spec(SPEC.format(root=data), "resume.yaml", overrides))
        (folder / "spec.yaml").write_text(spec)

    def start(self) -> "subprocess.Popen[bytes]":
        words = ["run", "spec.yaml"]
        if runs := list_runs(self.folder / "runs"):
            words = ["run", "--resume", runs[0].id]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with open(self.folder / "said", "ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "saccade.cli", *words],
                cwd=self.folder,
                env=environment | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    @property
    def run(self) -> RunDir:
        (run,) = list_runs(self.folder / "runs")
        return run

    @property
    def trainer(self) -> int | None:
        """The process that holds the trainer's lock."""
        runs = list_runs(self.folder / "runs")
        if not runs or not runs[0].trainer_lives():
            return None
        content = (runs[0].path / "trainer.lock").read_text()
        return int(json.loads(content)["pid"]) if content else None  # Empty: just taken

    def stage(self) -> str:
        """Where it is, as far as can be told from outside."""
        runs = list_runs(self.folder / "runs")
        if not runs:
            return "start"
        events = [event for event, _ in read_journal(runs[0].journal)]
        if self.trainer is None:
            return "upload" if events and events[-1].get("status") == "finished" else "start"
        stages = [event["name"] for event in events if event["kind"] in ("stage", "attempt") and "name" in event]
        return stages[-1] if stages else "read"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[RunDir, float]:
    """The unbroken run, and how long it took, s."""
    program, began = Program(tmp_path_factory.mktemp("whole") / "x", data), time.monotonic()
    assert program.start().wait(600) == 0
    return program.run, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_whole_runs_ended_at_random_moments(
    number: signal.Signals, whole: tuple[RunDir, float], data: Path, tmp_path: Path
) -> None:
    unbroken, length_sec = whole
    seed = int(os.environ.get("SACCADE_CHAOS_SEED", time.time_ns() % 1_000_000))
    print("seed", seed)  # shown when it fails
    chance, stages, slowest = random.Random(seed), Counter[str](), 0.0
    for story in itertools.count():
        if stages.total() >= MOMENTS:
            break
        program = Program(tmp_path / str(story), data)
        for _ in range(OF_ONE):
            process = program.start()
            wait_for_a_moment(program, process, chance, length_sec)
            if process.poll() is not None:  # It was quicker, and is at its end.
                break
            stages[program.stage()] += 1
            trainer, asked = program.trainer, time.monotonic()
            at = trainer if trainer is not None and chance.random() < 0.5 else process.pid
            with suppress(ProcessLookupError):  # It was just ending.
                os.kill(at, number)
            code = process.wait(600)
            if number == signal.SIGTERM:
                assert code in (0, 143, -15), code  # -15: before anything of it had begun
                if at == process.pid:  # A trainer's end is nothing that its supervisor has to hurry for.
                    slowest = max(slowest, time.monotonic() - asked)
                    # On a busy machine all takes longer: the whole run takes 20 s on an idle one.
                    assert slowest < LEAVE_SEC * max(1.0, length_sec / 20)
            wait_for_trainer(program)
        assert program.start().wait(600) == 0
        assert_same_run(program.run, unbroken)
        assert_tracked_once(program.run)
        if number == signal.SIGTERM:  # A killed trainer's workers tell how they have lost it.
            assert "Traceback" not in (program.folder / "said").read_text()
    lengths = f"a run of {length_sec:.0f} s, the slowest end {slowest:.1f} s"
    print(f"{number.name}: {sum(stages.values())} moments, in {dict(stages)}; {lengths}")


def wait_for_a_moment(
    program: Program, process: "subprocess.Popen[bytes]", chance: random.Random, length_sec: float
) -> None:
    """One of the whole run, or of its training, which takes long elsewhere and is the least of so small a run."""
    seconds = chance.uniform(0.1, 1.0) * length_sec
    if chance.random() < 0.5:
        while process.poll() is None and program.stage() in ("start", "read"):
            time.sleep(0.05)
        seconds = chance.uniform(0.0, TRAINING) * length_sec
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def wait_for_trainer(program: Program) -> None:
    """Its supervisor was killed, which it notices."""
    deadline = time.monotonic() + LEAVE_SEC
    while program.trainer is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_tracked_once(run: RunDir) -> None:
    """MLflow has one run, each point once and every file as it is here."""
    state = ShippingState.load(run.path)
    assert state is not None
    assert state.complete
    client = Store(f"sqlite:///{run.root}/mlflow.db", run.root).client
    (tracked,) = client.search_runs([state.experiment_id])
    assert tracked.info.status == "FINISHED"
    shipped = [
        (point.key, point.step, point.value)
        for key in tracked.data.metrics
        if not key.startswith(("perf/", "system/"))
        for point in client.get_metric_history(tracked.info.run_id, key)
    ]
    assert sorted(shipped) == sorted(points(run))
    kept = {name: digest for name, digest in state.uploaded.items() if (run.path / name).is_file()}
    assert kept.keys() >= {"journal.jsonl", "run.json", "spec.yaml", "summary.md", "checkpoints/epoch_0004.pt"}
    target = run.root.parent / "fetched"
    target.mkdir()
    for name, digest in kept.items():
        content = Path(client.download_artifacts(tracked.info.run_id, name, str(target))).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert content == (run.path / name).read_bytes() or name.endswith("last.pt")
