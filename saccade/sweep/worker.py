"""A worker of a sweep: takes a trial, works at it, tells how it ended, until there is none left.

`python -m saccade.sweep.worker JOB`, started by the driver. Its standard input is a pipe from there: when the driver is
gone, in whatever way, the worker stops its trainer in good order, hands its trial back, and leaves.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import optuna
from optuna.trial import TrialState

from saccade.errors import SaccadeError, SpecError
from saccade.spec import Spec
from saccade.sweep.ledger import RETRY_OF, Ledger
from saccade.sweep.reader import read_sweep
from saccade.sweep.space import Point, Space
from saccade.sweep.storage import (
    STUDY_ID,
    Opened,
    build_pruner,
    build_sampler,
    check_definition,
    if_there,
    open_study,
    patiently,
)
from saccade.sweep.trial import Ending, Facts, Result, TrialRuns

__all__ = ["PARENT", "RUNS", "SPREAD", "WHY", "Job", "Worker", "job_text", "main"]

RUNS, SPREAD, WHY = "runs", "spread", "why"
"""User attributes of a trial: ids of its runs, one a seed; standard deviation over the seeds; why it ended early."""
PARENT = "saccade:mlflow_run"
"""User attribute of a study: MLflow id of its own run."""
MOST_FAILURES = 3
"""Trials in a row that fail on one worker before it gives up: then it is not the trials."""


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    sweep: str
    """File of the sweep spec."""
    overrides: tuple[str, ...]
    runs_root: str
    threads: int | None
    """Of each trainer, shared by its processes, where the spec does not say."""
    command: tuple[str, ...] | None = None
    """The trainer, for tests."""


class Worker:
    """One worker, which works at one trial at a time.

    Args:
        job: What it is told.
        stop: Is set when it has to leave.
        say: Takes a line for the user.
    """

    def __init__(self, job: Job, stop: threading.Event, say: Callable[[str], None]) -> None:
        self._job, self._stop, self._say = job, stop, say
        self._name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self._sweep = read_sweep(job.sweep, job.overrides)
        self._space, self._runs_root = Space(self._sweep.dimensions), Path(job.runs_root)
        self._grid: Sequence[Point] | None = None
        first = self._space.of_experiment(self._sweep) if self._sweep.file.start else None
        if self._sweep.file.sampler == "grid":
            self._grid = self._space.grid(first)
        self._first = first
        self._opened: Opened = patiently(lambda: open_study(self._sweep, self._runs_root, create=False), stop, say)

    def work(self) -> int:
        """Work at one trial after the other; returns the exit code."""
        failures, budget, ledger = 0, self._sweep.file.budget, self._opened.ledger
        poll = min(2.0, self._sweep.file.lease.renew_sec)
        trials = budget.trials
        if self._grid is not None:
            trials = min(len(self._grid), trials if trials is not None else len(self._grid))
        while not self._stop.is_set():
            taken = patiently(
                lambda: ledger.take(self._name, trials=trials, hours=budget.hours, fixed=self._values_at),
                self._stop,
                self._say,
            )
            if taken.trial_id is not None:
                failed = self._at(taken.trial_id)
                failures = failures + 1 if failed else 0
                if failures == MOST_FAILURES:
                    self._say(f"sweep: {failures} trials in a row have failed here; this worker gives up")
                    return 1
            elif taken.done:
                break
            else:  # Others are at work; should one of them be gone, its trial has to be taken up.
                self._stop.wait(poll)
        return 0

    def _values_at(self, place: int) -> dict[str, bool | int | float | str | None] | None:
        """The values of a new trial that are not for the sampler to choose."""
        if self._grid is not None:
            return self._space.encoded(self._grid[place])
        return self._space.encoded(self._first) if place == 0 and self._first is not None else None

    def _at(self, trial_id: int) -> bool:
        """Work at a trial; whether it failed."""
        study, trial, facts = patiently(lambda: self._ask(trial_id), self._stop, self._say)
        with Lease(self._opened.ledger.copy(), trial_id, self._sweep.file.lease.renew_sec, self._stop) as lease:
            try:
                result = self._result(study, trial, facts, lease.lost)
            except SaccadeError:  # of this machine or its tracking, not of the trial
                patiently(lambda: self._opened.ledger.hand_back(trial_id), self._stop, self._say)
                raise
            patiently(lambda: self._tell(study, trial_id, result), self._stop, self._say)
        return result.ending is Ending.FAILED

    def _ask(self, trial_id: int) -> tuple[optuna.Study, optuna.Trial, Facts]:
        frozen = self._opened.storage.get_trial(trial_id)
        study = optuna.load_study(
            storage=self._opened.storage,
            study_name=self._sweep.file.name,
            sampler=build_sampler(self._sweep, frozen.number),
            pruner=build_pruner(self._sweep),
        )
        study.get_trials(deepcopy=False)  # so that Optuna's cache knows of the trial
        facts = Facts(
            frozen.number,
            study.user_attrs[STUDY_ID],
            frozen.system_attrs.get(RETRY_OF),
            tuple(frozen.user_attrs.get(RUNS, ())),
            frozenset(frozen.intermediate_values),
        )
        trial = optuna.Trial(study, trial_id)
        self._space.draw(trial)
        return study, trial, facts

    def _result(self, study: optuna.Study, trial: optuna.Trial, facts: Facts, lost: threading.Event) -> Result:
        check_definition(self._sweep, study)
        try:
            spec = self._spec(self._space.draw(trial))
        except SpecError as error:
            return Result(Ending.FAILED, why=str(error))
        runs = TrialRuns(
            self._sweep,
            trial,
            facts,
            spec,
            runs_root=self._runs_root,
            parent=study.user_attrs.get(PARENT),
            stop=self._stop,
            lost=lost,
            note=lambda ids: patiently(lambda: trial.set_user_attr(RUNS, list(ids)), self._stop, self._say),
            command=self._job.command,
        )
        return runs.work()

    def _spec(self, point: Point) -> Spec:
        spec = self._sweep.trial_spec(point)
        if spec.engine.threads is None and self._job.threads is not None:
            threads = max(1, self._job.threads // spec.engine.processes)
            spec = spec.model_copy(update={"engine": spec.engine.model_copy(update={"threads": threads})})
        return spec

    def _tell(self, study: optuna.Study, trial_id: int, result: Result) -> None:
        """Write down how a trial ended; a second time, after an answer that got lost, does nothing."""
        storage = self._opened.storage
        if result.ending is Ending.LEFT:
            self._opened.ledger.hand_back(trial_id)
            return
        frozen = storage.get_trial(trial_id)
        if result.ending is Ending.LOST or frozen.state != TrialState.RUNNING:
            return
        for key, value in ((WHY, result.why), (SPREAD, list(result.spread))):
            if value:
                storage.set_trial_user_attr(trial_id, key, value)
        if result.ending is Ending.COMPLETE:
            study.tell(frozen.number, list(result.values))
        else:
            state = TrialState.PRUNED if result.ending is Ending.PRUNED else TrialState.FAIL
            study.tell(frozen.number, state=state)


class Lease:
    """Renews a trial in the background, so that a busy or waiting worker is not taken for dead.

    Args:
        ledger: Of this thread alone.
        trial_id: The trial.
        renew_sec: How often.
        stop: Is set when somebody has asked all workers to stop.
    """

    def __init__(self, ledger: Ledger, trial_id: int, renew_sec: float, stop: threading.Event) -> None:
        self._ledger, self._trial_id, self._renew_sec, self._stop = ledger, trial_id, renew_sec, stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.lost = threading.Event()
        """The trial was given to another worker."""

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._over.wait(self._renew_sec):
            with if_there() as answer:
                renewal = self._ledger.renew(self._trial_id)
            if answer.trouble:
                continue  # Whoever could take the trial from us does not reach the storage either, or will wait.
            if not renewal.held and not self._over.is_set():
                self.lost.set()
            if renewal.stop:
                self._stop.set()


def main(argv: Sequence[str]) -> int:
    """Work as the job says; returns the exit code."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    threading.Thread(target=_await_end_of_input, args=(stop,), name="driver-watch", daemon=True).start()
    content = json.loads(argv[0])
    job = Job(**{**content, "overrides": tuple(content["overrides"])})
    try:
        return Worker(job, stop, _say).work()
    except SaccadeError as error:
        _say(f"error: {error}")
        return 2


def _await_end_of_input(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def job_text(job: Job) -> str:
    """A job as the worker's argument."""
    return json.dumps(asdict(job))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
