"""What else may happen to a run: each fault ends it in good order with a line that helps, and nothing is lost by it.

Where the faults of issue 7 are tried:

- killed at any place: test_resume.py; at random moments of `saccade run`: test_long.py (`make chaos`)
- asked to stop at any place: here; in k-means of faiss: engine/test_stop.py; the supervisor: supervisor/
- the server away: tracking/test_outage.py; workers of a sweep and its database: sweep/test_chaos.py
- a full disk: here (the trainer), tracking/test_outage.py (the supervisor), test_checkpoint.py (at any byte)
- memory, hanging workers, NaN, jumping clocks, two resumes at once: here; NaN on a GPU: engine/test_finite.py
"""

import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from saccade.journal import read_journal
from saccade.report import stage_seconds
from saccade.run_dir import RunDir
from saccade.tracking.store import Store

from .lives import (
    LEAVE_SEC,
    MISTAKE,
    PROBE,
    SECONDS,
    STEPS,
    STOPPED,
    assert_same_checkpoints,
    assert_same_classifiers,
    assert_same_run,
    begin,
    end,
    events,
    live,
    new_run,
    points,
    saved_step,
)


def steps_done(run: RunDir) -> int:
    return len((run.path / "steps").read_bytes())


def test_a_run_asked_to_stop_anywhere_loses_no_step(tmp_path: Path, data: Path, unbroken: RunDir) -> None:
    """Checkpoints come seldom here, so it is the request that saves. That it leaves in 10 s is checked by `live`."""
    run = new_run(
        tmp_path, data, ["checkpoint.every_steps=null", "checkpoint.every_epochs=4", "checkpoint.keep_last=1"]
    )
    for place, number, reached in [
        ("read", 1, 0),
        ("step", 2, 2),
        ("sample", 10, 4),  # in the third step of this attempt
        ("line", 1, 6),
        ("features", 1, 8),
        ("clustering", 1, 8),
        ("record", 1, 8),
        ("checkpoint", 1, 16),
        ("evaluate", 1, 16),
        ("pictures", 1, 16),
        ("report", 1, 16),
    ]:
        live(run, "term", place, number)
        assert (saved_step(run) if reached else 0) == reached == (steps_done(run) if reached else 0), place
        assert events(run, "end")[-1]["status"] == "stopped"
    live(run)
    assert steps_done(run) == STEPS
    assert_same_run(run, unbroken)


def test_classifiers_asked_to_stop_lose_no_step(tmp_path: Path, data: Path, unbroken_classifiers: RunDir) -> None:
    run = new_run(tmp_path, data, [*PROBE, "checkpoint.every_steps=null", "checkpoint.every_epochs=2"])
    for place, number in [("classifier-step", 3), ("classifier-tested", 1), ("confusion", 1), ("sample", 6)]:
        live(run, "term", place, number)
    live(run)
    assert_same_classifiers(run, unbroken_classifiers)


def test_slurm_ends_all_processes_of_a_job_at_once(tmp_path: Path, data: Path, unbroken: RunDir) -> None:
    run = new_run(tmp_path, data, ["engine.workers=2", "checkpoint.every_steps=null"])
    live(run, "term-all", "step", 2)
    assert saved_step(run) == 2
    live(run, "term-all", "features", 1)
    assert saved_step(run) == 8
    assert "error" not in (run.root.parent / f"{run.id}.said").read_text()
    live(run)
    assert_same_run(run, unbroken)


def test_data_workers_that_die_or_hang(tmp_path: Path, data: Path, unbroken: RunDir) -> None:
    run = new_run(tmp_path, data, ["engine.workers=1", "checkpoint.every_steps=null", "engine.data_patience_sec=8"])
    # The first worker begins to count where the pictures of the trainer have left off, at 4.
    killed = live(run, "worker-kill", "sample", 4 + 14).mistake
    assert killed == (
        "error: a data worker was ended by SIGKILL, most likely by the kernel, for want of memory: lower "
        "engine.workers (there were 1) or pretrain.batch_size, or ask for more memory (sbatch --mem, docker run "
        "--memory); then resume the run"
    )
    reached = saved_step(run)
    assert reached == steps_done(run) > 0
    hung = live(run, "worker-hang", "sample", 14).mistake
    assert re.fullmatch(
        r"error: no data worker has handed over v_\w+ for 8 s: one hangs\. Look at the disk or network that holds "
        r"data\.root, or raise engine\.data_patience_sec; then resume the run",
        hung,
    )
    assert saved_step(run) == steps_done(run) > reached
    # Who does not want to wait so long asks it to stop.
    patient = new_run(tmp_path, data, ["engine.workers=1"])
    process = begin(patient, "worker-hang", "sample", 4 + 14)
    wait_until(lambda: (patient.path / "steps").exists())
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGTERM)
    asked = time.monotonic()
    assert end(patient, process).code == STOPPED
    assert time.monotonic() - asked < LEAVE_SEC
    assert saved_step(patient) == steps_done(patient) > 0
    for each in (run, patient):
        live(each)
        assert_same_run(each, unbroken)


def test_a_loss_that_is_no_number(tmp_path: Path, data: Path, unbroken: RunDir) -> None:
    run = new_run(tmp_path, data)
    said = live(run, "nan", "step", 8).mistake
    assert said.startswith("error: step 8: the loss is not finite (pretrain/loss = nan, pretrain/loss_saccade = nan, ")
    assert said.endswith(
        "the last checkpoint is from before. Try a lower pretrain.learning_rate, or engine.precision=fp32"
    )
    assert saved_step(run) == 6
    assert steps_done(run) == 7
    live(run)
    assert_same_run(run, unbroken)


def test_a_full_disk_at_a_checkpoint_and_at_a_line(
    tmp_path: Path, small_disk: Path, data: Path, unbroken: RunDir
) -> None:
    run = new_run(small_disk, data)
    for place, number, said in [
        ("checkpoint", 2, "last.pt: cannot be written (No space left on device); the one before is kept: make room"),
        ("line", 2, "cannot be written (No space left on device); "),
        ("pictures", 1, "cannot be written ("),
    ]:
        mistake = live(run, "full", place, number).mistake
        assert said in mistake
        assert mistake.endswith("make room, then resume the run")
        (run.path / "filler").unlink()
    live(run, "drawn")
    assert_same_checkpoints(run, unbroken, "checkpoints/last.pt")
    assert sorted(points(run)) == sorted(points(unbroken))


def test_a_clock_that_jumps_changes_no_duration(tmp_path: Path, data: Path, unbroken: RunDir) -> None:
    run, before = new_run(tmp_path, data), time.time_ns() // 1_000_000
    live(run, "term", "step", 3)
    live(run, "clock")
    assert_same_run(run, unbroken)
    times = [event["t"] for event, _ in read_journal(run.journal)]
    assert times == sorted(times)
    second = [t for t in times if t > times[0] + 86_400_000] or times[-10:]
    assert times[0] >= before
    assert second[-1] - second[0] < 120_000
    took = sum(stage_seconds(event for event, _ in read_journal(run.journal)).values())
    assert 0 < took < 120


def test_two_at_once_go_on_with_a_run(tmp_path: Path, data: Path, unbroken: RunDir) -> None:
    run = new_run(tmp_path, data)
    live(run, "kill", "step", 5)
    processes = [begin(run, "term", "step", 9), begin(run, "term", "step", 9)]
    codes = sorted(end(run, process).code for process in processes)
    assert codes == [MISTAKE, STOPPED]
    said = (run.root.parent / f"{run.id}.said").read_text()
    assert re.search(rf"^error: run {run.id} is being trained by pid \d+ on \S+; stop it first$", said, re.MULTILINE)
    assert "Traceback" not in said
    assert [event["number"] for event in events(run, "attempt")] == [1, 2]
    live(run)
    assert_same_run(run, unbroken)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_who_was_killed_while_mlflow_made_its_tables_leaves_none(tmp_path: Path) -> None:
    """Half of them under the file's own name would keep MLflow from ever opening it."""
    (tmp_path / ".mlflow-new").mkdir()
    with closing(sqlite3.connect(tmp_path / ".mlflow-new" / "made.db")) as half:
        half.execute("CREATE TABLE logged_models (model_id TEXT)")
    assert Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path).open_experiment("here") == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.lock", "mlflow.db"]
