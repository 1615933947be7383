"""Workers on PostgreSQL: some killed, the storage restarted, MLflow away; every trial is accounted for.

Four of them, two killed, in `make chaos`. All that takes credentials has some, and none of them is left anywhere.
"""

import os
import random
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from saccade.run_dir import RunDir
from saccade.spec_reader import read_spec
from saccade.sweep.ledger import RETRY_OF
from saccade.sweep.reader import read_sweep
from saccade.sweep.storage import if_there, open_study, patiently
from saccade.sweep.trial import last_values

from ..canaries import CANARY, VARIABLES, leaks
from ..mlflow_server import Door, Ui
from .cheap_trainer import score
from .conftest import Postgres, children, driver, epochs, trials_at, wait_for

WORKERS, TRIALS, KILLS = (4, 8, 2) if os.environ.get("SACCADE_CHAOS") == "1" else (2, 3, 1)

OTHERS_CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@pytest.fixture
def killed() -> Iterator[list[int]]:
    """Drivers to end with the test, whatever becomes of it."""
    started: list[int] = []
    yield started
    for process in started:
        if Path(f"/proc/{process}").exists():
            os.kill(process, signal.SIGKILL)  # its workers stop when their standard input ends


def at_work(drive: int) -> list[int]:
    """Workers that have a trainer."""
    return [worker for worker in children(drive) if children(worker)]


@pytest.mark.timeout(400)
def test_no_trial_is_lost_or_doubled(
    write_sweep: Callable[..., Path],
    postgres: Postgres,
    door: Door,
    ui: Ui,
    monkeypatch: pytest.MonkeyPatch,
    killed: list[int],
    own_folder: Path,
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.address.replace("//", f"//{CANARY}-user:{CANARY}-password@"))
    monkeypatch.setenv("SWEEP_STORAGE", postgres.url.replace("postgres@", f"postgres:{CANARY}-database@"))
    door.open()
    sweep = write_sweep(TRIALS, "storage: ${SWEEP_STORAGE}", name="chaos")
    chance = random.Random(5)
    drive = driver(sweep, WORKERS, {"pause": 0.4})
    killed.append(drive.pid)
    said: list[str] = []
    assert drive.stderr is not None
    reader = threading.Thread(target=lambda: said.extend(drive.stderr or []))
    reader.start()

    def ended() -> int:
        return sum(trial.state.is_finished() for trial in trials_at(postgres.url, "chaos"))

    def more_than(before: int, busy: int) -> bool:
        return ended() > before and len(at_work(drive.pid)) >= busy

    wait_for(lambda: len(at_work(drive.pid)) == WORKERS)
    for _ in range(KILLS):
        os.kill(chance.choice(at_work(drive.pid)), signal.SIGKILL)
        wait_for(partial(more_than, ended(), 1))
    door.shut()
    postgres.stop()
    threading.Event().wait(3)
    postgres.start()
    wait_for(partial(more_than, ended(), 0))  # on a slow machine those left may all end at once
    door.open()
    assert drive.wait(timeout=300) == 0, "".join(said)
    reader.join()
    drive.stderr.close()

    trials = trials_at(postgres.url, "chaos")
    retries = {trial.system_attrs[RETRY_OF]: trial for trial in trials if RETRY_OF in trial.system_attrs}
    check_books(trials, retries)
    check_tracking(door.address, trials, retries)
    assert CANARY not in "".join(said)
    assert leaks(own_folder) == leaks(ui.root) == []
    assert CANARY not in all_rows(postgres.url)
    check_best(max(trial.value or 0.0 for trial in trials), own_folder / "again")


def test_a_connection_cut_between_two_questions(
    write_sweep: Callable[..., Path], postgres: Postgres, own_folder: Path
) -> None:
    """Of one reading of the trials, when their parameters are asked for; Optuna then asks once more on what is cut."""
    sweep = read_sweep(write_sweep(1, f"storage: {postgres.url}", name="cut"))
    cut = []

    def cut_once(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM trial_params" in statement and not cut:
            with psycopg.connect(postgres.url) as other:
                cut.extend(other.execute(OTHERS_CUT).fetchall())

    with closing(open_study(sweep, own_folder / "runs")) as opened:
        opened.study.ask({"x": FloatDistribution(0, 1)})
        sqlalchemy.event.listen(opened.storage.engine, "before_cursor_execute", cut_once)
        trials = patiently(lambda: opened.study.get_trials(deepcopy=False), threading.Event(), print)
        assert (True,) in cut
        assert [list(trial.params) for trial in trials] == [["x"]]
        cut.clear()
        with if_there() as answer:
            opened.study.get_trials(deepcopy=False)
        assert re.search("terminating connection|server closed the connection", answer.trouble)


def all_rows(url: str) -> str:
    """What a database holds."""
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = "".join(str(connection.execute(f"SELECT * FROM {table}").fetchall()) for (table,) in tables)
    assert "chaos" in rows
    return rows


def check_books(trials: list[Any], retries: dict[int, Any]) -> None:
    first = [trial for trial in trials if RETRY_OF not in trial.system_attrs]
    assert len(first) == TRIALS
    assert len(retries) == KILLS
    assert Counter(trial.state for trial in trials) == {TrialState.COMPLETE: TRIALS, TrialState.FAIL: KILLS}
    for trial in first:
        last = retries.get(trial.number, trial)
        assert last.state == TrialState.COMPLETE
        assert last.params == trial.params
        (run,) = last.user_attrs["runs"]
        # The trainers of killed workers have stopped in good order: no epoch is done twice, not even theirs.
        assert epochs(last) == [1, 2, 3, 4, 5, 6]
        assert last.value == pytest.approx(score(read_spec(Path("runs") / run / "spec.yaml"), 6))


def check_best(value: float, folder: Path) -> None:
    """The best, from its written spec, gives its score again."""
    spec = read_spec("runs/sweeps/chaos/best.yaml")
    again = RunDir(folder)
    again.path.mkdir()
    (again.path / "spec.yaml").write_text(Path("runs/sweeps/chaos/best.yaml").read_text())
    assert score(spec, 6) == value
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, str(_trainer()), str(again.path)) == 0
    assert last_values(again, ["val/retrieval_top1"])["val/retrieval_top1"] == value


def _trainer() -> Path:
    return Path(__file__).with_name("cheap_trainer.py")


def check_tracking(address: str, trials: list[Any], retries: dict[int, Any]) -> None:
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("saccade")
    found = client.search_runs([experiment.experiment_id], "tags.sweep = 'chaos'")
    (parent,) = [run for run in found if run.info.run_name == "chaos"]
    runs = {run.data.tags["saccade.run_id"]: run for run in found if run is not parent}
    assert parent.info.status == "FINISHED"
    assert len(runs) == TRIALS
    for trial in trials:
        if trial.state != TrialState.COMPLETE:
            continue
        run = runs[trial.user_attrs["runs"][0]]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["optuna.trial"] == str(trial.number)
        assert run.data.tags.get("optuna.retry_of") == (
            str(trial.system_attrs[RETRY_OF]) if RETRY_OF in trial.system_attrs else None
        )
        points = client.get_metric_history(run.info.run_id, "val/retrieval_top1")
        assert [point.step for point in sorted(points, key=lambda point: point.step)] == [1, 2, 3, 4, 5, 6]
