"""How a study stands: its trials in words and numbers, for the terminal, the files and the MLflow run alike."""

import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from saccade.sweep.ledger import RETRY_OF
from saccade.sweep.space import Space
from saccade.sweep.spec import Sweep
from saccade.sweep.worker import RUNS, SPREAD, WHY

__all__ = ["WORDS", "Standing", "planned_trials", "short_names", "standing", "trials_csv", "value_text"]

WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Standing:
    """A study at one moment."""

    trials: tuple[FrozenTrial, ...]
    best: tuple[FrozenTrial, ...]
    """The best trial; with several objectives those that no other beats in all; none before the first is complete."""
    total: int | None
    """Trials that there will be; None where hours are the budget."""

    def counts(self) -> dict[str, int]:
        """How many trials are complete, pruned, failed, running and waiting; those taken up again once, as the last."""
        retried = {trial.system_attrs[RETRY_OF] for trial in self.trials if RETRY_OF in trial.system_attrs}
        found = Counter(WORDS[trial.state] for trial in self.trials if trial.number not in retried)
        return {word: found[word] for word in WORDS.values()}

    def seconds_left(self, workers: int) -> float | None:
        """A guess from the mean of the trials so far; None before the first has ended."""
        lengths = [
            (trial.datetime_complete - trial.datetime_start).total_seconds()
            for trial in self.trials
            if trial.datetime_complete and trial.datetime_start and trial.state != TrialState.FAIL
        ]
        if not lengths or self.total is None:
            return None
        mean, now = statistics.fmean(lengths), datetime.now()
        running = [trial for trial in self.trials if trial.state == TrialState.RUNNING and trial.datetime_start]
        begun = sum(min(mean, (now - trial.datetime_start).total_seconds()) for trial in running)  # type: ignore[operator,misc]
        counts = self.counts()
        ended = counts["complete"] + counts["pruned"] + counts["failed"]
        return max(0.0, (self.total - ended) * mean - begun) / max(1, workers)


def planned_trials(sweep: Sweep) -> int | None:
    """How many trials a sweep will have; None where hours are the budget."""
    total = sweep.file.budget.trials
    if sweep.file.sampler == "grid":
        space = Space(sweep.dimensions)
        points = len(space.grid(space.of_experiment(sweep) if sweep.file.start else None))
        total = min(points, total if total is not None else points)
    return total


def standing(sweep: Sweep, study: optuna.Study) -> Standing:
    """How the study stands now."""
    trials = tuple(study.get_trials(deepcopy=False))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = tuple(study.best_trials) if complete and len(sweep.file.objective) > 1 else ()
    if complete and not best:
        sign = 1 if sweep.file.objective[0].direction == "minimize" else -1
        best = (min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number)),)
    return Standing(trials, best, planned_trials(sweep))


def short_names(sweep: Sweep) -> dict[str, str]:
    """The searched paths by their last parts, or whole where these are equal."""
    last = Counter(each.path.rpartition(".")[2] for each in sweep.dimensions)
    return {
        each.path: each.path.rpartition(".")[2] if last[each.path.rpartition(".")[2]] == 1 else each.path
        for each in sweep.dimensions
    }


def value_text(value: object) -> str:
    """A searched value in a table or a line."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def row(trial: FrozenTrial, sweep: Sweep) -> dict[str, object]:
    """A trial as a line of a table."""
    values: Sequence[float] = trial.values or [math.nan] * len(sweep.file.objective)
    seconds: float | str = ""
    if trial.datetime_start and trial.datetime_complete:
        seconds = round((trial.datetime_complete - trial.datetime_start).total_seconds(), 1)
    return {
        "trial": trial.number,
        "state": WORDS[trial.state],
        "retry_of": trial.system_attrs.get(RETRY_OF, ""),
        **{each.metric: "" if math.isnan(v) else v for each, v in zip(sweep.file.objective, values, strict=True)},
        "spread": " ".join(f"{value:.4g}" for value in trial.user_attrs.get(SPREAD, [])),
        **{each.path: trial.params.get(each.path, "") for each in sweep.dimensions},
        "seconds": seconds,
        "runs": " ".join(trial.user_attrs.get(RUNS, [])),
        "why": trial.user_attrs.get(WHY, ""),
    }


def trials_csv(now: Standing, sweep: Sweep) -> str:
    """All trials as CSV."""
    rows = [row(trial, sweep) for trial in now.trials]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
