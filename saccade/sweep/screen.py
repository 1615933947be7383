"""The live table of a study in the terminal; elsewhere a line for each trial that begins or ends."""

import os
import sys
import threading
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from saccade.amounts import columns, duration
from saccade.sweep.ledger import RETRY_OF
from saccade.sweep.spec import Sweep
from saccade.sweep.standing import WORDS, Standing, short_names, value_text
from saccade.sweep.worker import WHY

__all__ = ["Screen", "table"]

_MOST_ROWS = 15


class Screen:
    """Shows how a study stands.

    Args:
        sweep: What is swept.
        workers: How many work here, for the time left.
    """

    def __init__(self, sweep: Sweep, workers: int) -> None:
        self._sweep, self._workers = sweep, workers
        self._terminal = sys.stderr.isatty()
        self._drawn, self._lock = 0, threading.Lock()
        self._told: dict[int, TrialState] = {}

    def say(self, text: str) -> None:
        """Print a line, above the table."""
        with self._lock:
            self._erase()
            print(text, file=sys.stderr, flush=True)

    def show(self, now: Standing) -> None:
        """Draw the table anew, or say what has changed."""
        if self._terminal:
            size = os.get_terminal_size(sys.stderr.fileno())
            lines = table(self._sweep, now, self._workers, rows=min(_MOST_ROWS, size.lines - 6))
            with self._lock:
                self._erase()
                print("\n".join(line[: size.columns - 1] for line in lines), file=sys.stderr, flush=True)
                self._drawn = len(lines)
            return
        for trial in now.trials:
            if trial.state != TrialState.WAITING and self._told.get(trial.number) != trial.state:
                self._told[trial.number] = trial.state
                self.say(f"sweep: {_line(self._sweep, trial)}")

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="", file=sys.stderr)
            self._drawn = 0


def table(sweep: Sweep, now: Standing, workers: int, rows: int) -> list[str]:
    """A heading, the latest trials and the best one, as lines of text."""
    counts, left = now.counts(), now.seconds_left(workers)
    ended = counts["complete"] + counts["pruned"] + counts["failed"]
    total = f" of {now.total}" if now.total is not None else ""
    heading = f"{sweep.file.name}: {ended}{total} trials ended"
    heading += "".join(f", {counts[word]} {word}" for word in ("running", "pruned", "failed") if counts[word])
    heading += f"; about {duration(left)} left" if left else ""
    best = {trial.number for trial in now.best}
    shown = list(now.trials[-rows:])
    shown = [trial for trial in now.best if trial not in shown][:3] + shown
    names = short_names(sweep)
    titles = ["", "trial", "state", *(each.metric for each in sweep.file.objective), *names.values()]
    cells = [
        [
            "*" if trial.number in best else "",
            str(trial.number),
            _state(trial),
            *_values(sweep, trial),
            *(value_text(trial.params.get(path, "")) for path in names),
        ]
        for trial in shown
    ]
    return [heading, *columns([titles, *cells], right=())]


def _state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.RUNNING and trial.intermediate_values:
        return f"epoch {max(trial.intermediate_values)}"
    retry = f", retry of {trial.system_attrs[RETRY_OF]}" if RETRY_OF in trial.system_attrs else ""
    return WORDS[trial.state] + retry


def _values(sweep: Sweep, trial: FrozenTrial) -> Sequence[str]:
    if trial.values:
        return [f"{value:.4g}" for value in trial.values]
    latest = trial.intermediate_values
    return [f"({latest[max(latest)]:.4g})" if latest else "", *[""] * (len(sweep.file.objective) - 1)]


def _line(sweep: Sweep, trial: FrozenTrial) -> str:
    scores = " ".join(f"{each.metric} {v}" for each, v in zip(sweep.file.objective, _values(sweep, trial), strict=True))
    names = {path: name for path, name in short_names(sweep).items() if path in trial.params}
    point = ", ".join(f"{name} {value_text(trial.params[path])}" for path, name in names.items())
    why = trial.user_attrs.get(WHY, "")
    parts = [scores.strip() if trial.values else "", why, point]
    return f"trial {trial.number} {_state(trial)}: " + "; ".join(filter(None, parts))
