"""One trial: its spec, a supervised run for each of its seeds, and the scores that come of them."""

import math
import statistics
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import optuna

from saccade.chain import is_finished
from saccade.errors import RunError
from saccade.initial_weights import adopt, find_initial_weights
from saccade.journal import read_journal
from saccade.run_dir import BusyError, RunDir, create_run, update_run
from saccade.spec import Spec
from saccade.spec_reader import expand_env
from saccade.supervisor import supervise
from saccade.sweep.spec import Sweep
from saccade.sweep.storage import if_there
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.study import STUDY_TAG

__all__ = ["Ending", "Facts", "Result", "TrialRuns", "last_values"]

_BUSY_PAUSE_SEC = 1.0
_PATIENCE_SEC = 5.0
"""How long a trial waits at its end for a tracking server that is away; the rest is sent later."""


@dataclass(frozen=True)
class Facts:
    """What is known of a trial when a worker begins with it."""

    number: int
    study_id: str
    """Unlike that of any other study."""
    retry_of: int | None
    """The trial that it takes up, whose worker is gone."""
    runs: tuple[str, ...]
    """Ids of the runs that were begun, one a seed."""
    reported: frozenset[int]
    """Epochs whose scores Optuna knows."""


class Ending(Enum):
    """How a worker's work at a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    LEFT = "left"
    """It was stopped in good order, and is for others to go on with."""
    LOST = "lost"
    """Somebody else has it now."""


@dataclass(frozen=True)
class Result:
    """What came of a trial."""

    ending: Ending
    values: tuple[float, ...] = ()
    why: str = ""
    spread: tuple[float, ...] = field(default=())


class TrialRuns:
    """A worker's work at one trial.

    Args:
        sweep: What is swept.
        trial: As Optuna sees it.
        facts: What is known of it.
        spec: Of the trial.
        runs_root: Folder of all runs.
        parent: MLflow id of the study's own run; None while there is none.
        stop: The worker is to leave the trial to others; is set too when a signal says so meanwhile.
        lost: Whether the trial is another worker's by now.
        note: Writes down the ids of its runs.
        command: The trainer, for tests.
    """

    def __init__(
        self,
        sweep: Sweep,
        trial: optuna.Trial,
        facts: Facts,
        spec: Spec,
        *,
        runs_root: Path,
        parent: str | None,
        stop: threading.Event,
        lost: threading.Event,
        note: Callable[[Sequence[str]], None],
        command: Sequence[str] | None = None,
    ) -> None:
        self._sweep, self._trial, self._facts, self._spec = sweep, trial, facts, spec
        self._runs_root, self._parent, self._command = runs_root.absolute(), parent, command
        self._stop, self._lost, self._note = stop, lost, note
        self._runs, self._argv = list(facts.runs), ["saccade", "sweep", str(sweep.path)]
        self._pruned = ""

    def work(self) -> Result:
        """Run what is not finished yet, from where it was left.

        Raises:
            RunError: The runs cannot be made or tracked, whatever the trial.
        """
        metrics = [each.metric for each in self._sweep.file.objective]
        scores = []
        for place in range(self._sweep.file.seeds):
            spec = self._seeded(place)
            run = self._run(place, spec)
            if not is_finished(run):
                ended = self._train(run, spec, watched=place == 0)
                if ended is not None:
                    return ended
            values = last_values(run, metrics)
            missing = [name for name, value in values.items() if not math.isfinite(value)]
            if missing:
                return Result(Ending.FAILED, why=f"run {run.id} has logged no {missing[0]}")
            scores.append(tuple(values.values()))
        columns = list(zip(*scores, strict=True))
        means = tuple(statistics.fmean(column) for column in columns)
        spread = tuple(statistics.stdev(column) for column in columns) if len(scores) > 1 else ()
        return Result(Ending.COMPLETE, means, spread=spread)

    def _seeded(self, place: int) -> Spec:
        number = self._facts.number if self._facts.retry_of is None else self._facts.retry_of
        name = f"{self._sweep.file.name}-{number:03d}"
        if self._sweep.file.seeds > 1:
            name += f"-seed{place}"
        return self._spec.model_copy(update={"name": name, "seed": self._spec.seed + place})

    def _run(self, place: int, spec: Spec) -> RunDir:
        """The run of a seed: one that was begun before, here or on a shared disk, or a new one."""
        if place < len(self._runs) and (self._runs_root / self._runs[place] / "run.json").exists():
            return RunDir(self._runs_root / self._runs[place])
        weights = find_initial_weights(spec, self._runs_root)
        run = create_run(self._runs_root, spec, self._argv)
        if weights is not None:
            adopt(weights, spec.encoder.weights, run)
        self._runs[place:] = [run.id]
        self._note(self._runs)
        return run

    def _train(self, run: RunDir, spec: Spec, *, watched: bool) -> Result | None:
        """Train a run to its end; the result of the trial if that is known by now."""
        watch = Watch(run, self._sweep, self._trial, self._facts.reported) if watched else None
        code = self._supervised(run, spec, watch)
        if self._lost.is_set():
            return Result(Ending.LOST)
        if code == 0:
            if watch is not None:
                watch.finish()
            return None
        if self._pruned:
            return Result(Ending.PRUNED, why=self._pruned)
        if code is None or self._stop.is_set():
            return Result(Ending.LEFT)
        return Result(Ending.FAILED, why=_why(run, code))

    def _supervised(self, run: RunDir, spec: Spec, watch: "Watch | None") -> int | None:
        """`supervise`; None when the run was still held by somebody and it is time to leave."""

        def stop() -> str | None:
            if self._lost.is_set():
                return "another worker has taken up the trial"
            if self._stop.is_set():
                return "stopped with its sweep"
            if watch is not None and not self._pruned:
                self._pruned = watch.look()
            return self._pruned or None

        uri = expand_env(spec.tracking.uri, "tracking.uri")
        while True:
            begun = run.journal.exists()
            try:
                if begun:  # Another machine, perhaps, another commit
                    update_run(run, spec, self._argv)
                return supervise(
                    run,
                    resume=begun,
                    tracking_uri=uri,
                    experiment=spec.tracking.experiment,
                    interrupted=self._stop,
                    tags=self._tags(),
                    parent_run_id=self._parent,
                    stop=stop,
                    quiet=True,
                    package=False,  # nobody loads the encoders of a search; saccade run of the best makes its model
                    patience_sec=_PATIENCE_SEC,
                    command=self._command,
                )
            except BusyError:  # The trainer of a worker that was killed is still saving.
                if self._lost.wait(_BUSY_PAUSE_SEC) or self._stop.is_set():
                    return None

    def _tags(self) -> dict[str, str]:
        tags = {
            "sweep": self._sweep.file.name,
            "optuna.study": self._sweep.file.name,
            STUDY_TAG: self._facts.study_id,
            "optuna.trial": str(self._facts.number),
            "optuna.state": "RUNNING",
        }
        if self._facts.retry_of is not None:
            tags["optuna.retry_of"] = str(self._facts.retry_of)
        return tags


class Watch:
    """Tells Optuna the scores of a run while it trains, and asks whether to go on."""

    def __init__(self, run: RunDir, sweep: Sweep, trial: optuna.Trial, reported: Collection[int]) -> None:
        self._run, self._trial = run, trial
        self._metric, self._epochs = sweep.file.objective[0].metric, sweep.start.pretrain.epochs
        every = sweep.start.evaluation.retrieval.validate_every_epochs
        self._every = every if every is not None and sweep.file.pruner.name != "none" else 0
        self._offset = self._count = 0
        self._reported, self._new = set(reported), list[tuple[int, float]]()

    def look(self) -> str:
        """Read on in the journal; why the trial is to be stopped, or ""."""
        if not self._every:
            return ""
        try:
            self._read()
        except (FileNotFoundError, RunError):  # Not begun, or being cut just now
            self._offset = self._count = 0
            return ""
        verdict = ""
        with if_there():  # else the scores are told the next time
            verdict = self._tell()
        return verdict

    def finish(self) -> None:
        """Tell what has come since the last look, for other trials to be compared with."""
        with if_there():
            self._read()
            for epoch, score in self._new:
                self._report(epoch, score)

    def _read(self) -> None:
        if self._run.journal.stat().st_size < self._offset:  # Cut at a resume
            self._offset = self._count = 0
        for event, end in read_journal(self._run.journal, self._offset):
            self._offset = end
            if event["kind"] == "metrics" and self._metric in event["values"]:
                self._count += 1
                epoch = self._count * self._every
                # After the last epoch there is nothing to stop any more.
                if epoch < self._epochs and epoch not in self._reported:
                    self._new.append((epoch, float(event["values"][self._metric])))

    def _tell(self) -> str:
        while self._new:
            epoch, score = self._new[0]
            self._report(epoch, score)
            if self._trial.should_prune():
                return f"pruned at epoch {epoch}"
            self._new.pop(0)
        return ""

    def _report(self, epoch: int, score: float) -> None:
        if epoch not in self._reported:  # Optuna keeps the first, and warns
            self._trial.report(score, epoch)
            self._reported.add(epoch)


def last_values(run: RunDir, metrics: Sequence[str]) -> dict[str, float]:
    """The last value of each metric in a run's journal; NaN for one that is not there."""
    found = dict.fromkeys(metrics, math.nan)
    for event, _ in read_journal(run.journal):
        if event["kind"] == "metrics":
            found |= {name: float(event["values"][name]) for name in metrics if name in event["values"]}
    return found


def _why(run: RunDir, code: int) -> str:
    state = ShippingState.load(run.path)
    ended = state.outcome.tags.get("saccade.ended", "") if state is not None and state.outcome is not None else ""
    tail = ""
    if state is not None and state.outcome is not None:
        tail = (state.outcome.tags.get("saccade.failure", "").splitlines() or [""])[-1]
    return ": ".join(filter(None, [ended or f"exit code {code}", tail]))[:300]
