"""What can be asked of a study from outside: how it stands, its best, all of it, and to stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

from saccade import atomic
from saccade.errors import RunError
from saccade.sweep.best import write_best
from saccade.sweep.driver import study_folder
from saccade.sweep.pictures import draw_study
from saccade.sweep.publish import params, summary
from saccade.sweep.reader import read_sweep
from saccade.sweep.screen import table
from saccade.sweep.spec import Sweep
from saccade.sweep.standing import Standing, planned_trials, standing, trials_csv
from saccade.sweep.storage import Opened, open_study, reason

__all__ = ["best_spec", "describe", "export_study", "show_status", "stop_study"]


@contextmanager
def _study(path: Path, runs_root: Path) -> Iterator[tuple[Sweep, Opened, Standing]]:
    sweep = read_sweep(path)
    try:
        opened = open_study(sweep, runs_root, create=False)
        try:
            yield sweep, opened, standing(sweep, opened.study)
        finally:
            opened.close()
    except (sa.exc.SQLAlchemyError, StorageInternalError) as error:
        why = f"its study cannot be read: {reason(error)}"
        raise RunError(f"{path}: {why}; try again, or restore its database") from None


def show_status(path: Path, runs_root: Path) -> str:
    """All trials as a table."""
    with _study(path, runs_root) as (sweep, _, now):
        return "\n".join(table(sweep, now, now.counts()["running"], rows=len(now.trials))) + "\n"


def best_spec(path: Path, runs_root: Path) -> str:
    """The spec of the best trial, with a header that says what it is.

    Raises:
        RunError: No trial is complete yet.
    """
    with _study(path, runs_root) as (sweep, _, now):
        if not now.best:
            raise RunError(f"{sweep.file.name} has no complete trial yet; see saccade sweep status {path}")
        written = write_best(study_folder(runs_root, sweep), runs_root, sweep, now)
        return written[0].read_text(encoding="utf-8")


def export_study(path: Path, runs_root: Path, out: Path) -> list[Path]:
    """Write table, summary, pictures and best specs into a folder; returns the files."""
    with _study(path, runs_root) as (sweep, _, now):
        out.mkdir(parents=True, exist_ok=True)
        pictures = [f"figures/{name}" for name in draw_study(out / "figures", sweep, now)]
        atomic.write_text(out / "trials.csv", trials_csv(now, sweep))
        atomic.write_text(out / "summary.md", summary(sweep, now, pictures))
        best = write_best(out, runs_root, sweep, now)
        return [out / "trials.csv", out / "summary.md", *(out / name for name in pictures), *best]


def stop_study(path: Path, runs_root: Path) -> str:
    """Ask all workers to stop; says what happens next."""
    with _study(path, runs_root) as (sweep, opened, now):
        opened.ledger.ask_to_stop(True)
        running = now.counts()["running"]
        return (
            f"asked {running} running trial{'s' * (running != 1)} of {sweep.file.name} to stop and be handed back; "
            f"go on with: saccade sweep {path}"
        )


def describe(path: Path) -> str:
    """What a sweep searches, a line for each of its settings."""
    sweep = read_sweep(path)
    lines = [f"{key.removeprefix('sweep.')}: {value}" for key, value in params(sweep).items()]
    budget, total = sweep.file.budget, planned_trials(sweep)
    parts = [f"{total} trials" if total is not None else "", f"{budget.hours:g} hours" if budget.hours else ""]
    lines.append(f"budget: {', at most '.join(filter(None, parts))}")
    return "\n".join(lines) + "\n"
