"""What a study shows of itself: files in its folder, and the same on the study's own MLflow run."""

import statistics
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from saccade import atomic
from saccade.provenance import redact
from saccade.sweep.best import best_names, write_best
from saccade.sweep.ledger import RETRY_OF
from saccade.sweep.pictures import draw_study
from saccade.sweep.spec import BASE, Sweep, as_override
from saccade.sweep.standing import Standing, short_names, standing, trials_csv, value_text
from saccade.sweep.storage import STUDY_ID, Opened
from saccade.sweep.worker import PARENT, RUNS, WHY
from saccade.tracking.errors import TrackingError
from saccade.tracking.store import Point
from saccade.tracking.study import StudyRun, TrialRun
from saccade.tracking.study import TrialState as Wanted

__all__ = ["Publisher", "params", "scores", "summary"]

_TOP = 20
_STATUS = {TrialState.COMPLETE: None, TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
"""A complete trial's runs have finished, as their supervisors have said."""


class Publisher:
    """Writes and sends a study's account of itself. Not thread-safe.

    Args:
        sweep: What is swept.
        opened: Its study.
        folder: The study's folder.
        runs_root: Folder of all runs.
        uri: MLflow server or database.
        say: Takes a line for the user.
    """

    def __init__(
        self, sweep: Sweep, opened: Opened, folder: Path, runs_root: Path, uri: str, say: Callable[[str], None]
    ) -> None:
        self._sweep, self._opened, self._folder, self._runs_root = sweep, opened, folder, runs_root
        self._uri, self._say = uri, say
        self._run: StudyRun | None = None
        self._shown: object = None
        self._unwritten = False
        self.away = False
        """The server has not answered the last time."""
        self.view = ""
        """Address of the trials in parallel coordinates, once it is known."""
        self.confirmed: tuple[float, ...] = ()
        """Scores of the best spec with further seeds."""

    @property
    def link(self) -> str:
        """Where the study can be seen; empty when it has no page."""
        return self._run.link if self._run is not None else ""

    def open(self, patience_sec: float) -> None:
        """Open the study's MLflow run; where that takes longer it is done later, in passing."""
        thread = threading.Thread(target=self._try_open, name="study-run", daemon=True)
        thread.start()
        thread.join(patience_sec)

    def _try_open(self) -> bool:
        if self._run is not None:
            return True
        file = self._sweep.file
        try:
            run = StudyRun(
                self._uri,
                self._runs_root,
                self._sweep.start.tracking.experiment,
                study_id=self._opened.study.user_attrs[STUDY_ID],
                name=file.name,
                tags={"sweep": file.name, "optuna.study": file.name, "stage": "sweep"},
            )
            run.begin(params(self._sweep))
            objective = file.objective[0]
            paths = [each.path for each in self._sweep.dimensions if each.path != BASE]
            self.view = run.write_view(paths, objective.metric, maximise=objective.direction == "maximize")
            self._opened.study.set_user_attr(PARENT, run.mlflow_run_id)
            self._run = run
        except TrackingError as error:
            self._note(error)
            return False
        self._note(None)
        return True

    def publish(self, *, status: str | None = None) -> Standing:
        """Write the files, and bring the MLflow runs up to date if the server answers.

        Args:
            status: With which the study's run ends; None: it goes on.
        """
        now = standing(self._sweep, self._opened.study)
        key = [(trial.state, trial.user_attrs.get(RUNS), len(trial.intermediate_values)) for trial in now.trials]
        if status is None and key == self._shown:
            return now
        self._shown = key
        try:
            files = self._write(now)
        except OSError as error:  # a full disk, say: the trials are the study's, not these files
            self._shown, files = None, []
            self._note_files(error)
        else:
            self._note_files(None)
        try:
            if self._try_open():
                self._send(now, files, status)
                self._note(None)
        except TrackingError as error:
            self._shown = None
            self._note(error)
        return now

    def _write(self, now: Standing) -> list[str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        pictures = [f"figures/{name}" for name in draw_study(self._folder / "figures", self._sweep, now)]
        atomic.write_text(self._folder / "trials.csv", trials_csv(now, self._sweep))
        atomic.write_text(self._folder / "summary.md", summary(self._sweep, now, pictures, self.confirmed))
        atomic.write_text(self._folder / "sweep.yaml", self._sweep.path.read_text(encoding="utf-8"))
        write_best(self._folder, self._runs_root, self._sweep, now)
        return [*pictures, "trials.csv", "summary.md", "sweep.yaml", *best_names(now)]

    def _send(self, now: Standing, files: list[str], status: str | None) -> None:
        assert self._run is not None
        tags = {f"trials.{word}": str(count) for word, count in now.counts().items()}
        for trial in now.best[:1]:
            tags |= {"best.trial": str(trial.number), "best.runs": " ".join(trial.user_attrs.get(RUNS, []))}
            tags |= {f"best.{key}": str(value) for key, value in trial.params.items()}
        text = summary(self._sweep, now, [name for name in files if name.startswith("figures/")], self.confirmed)
        self._run.log(_points(self._sweep, now), tags, text)
        self._run.correct(_wanted(now))
        self._run.upload(self._folder, files)
        if status is not None:
            self._run.end(status)

    def _note_files(self, error: OSError | None) -> None:
        if error is not None and not self._unwritten:
            why = error.strerror or error
            self._say(f"sweep: {self._folder}: cannot be written ({why}); the study goes on, its files come later")
        if error is None and self._unwritten:
            self._say(f"sweep: {self._folder} is written again")
        self._unwritten = error is not None

    def _note(self, error: TrackingError | None) -> None:
        if error is not None and not self.away:
            self._say(f"sweep: MLflow at {redact(self._uri)} is away ({error}); what is missing is sent later")
        if error is None and self.away:
            self._say(f"sweep: MLflow at {redact(self._uri)} answers again")
        self.away = error is not None


def params(sweep: Sweep) -> dict[str, str]:
    """What a sweep is made of, in words."""
    file = sweep.file
    found = {
        "sweep.experiment": file.experiment,
        "sweep.objective": ", ".join(f"{each.direction} {each.metric}" for each in file.objective),
        "sweep.sampler": file.sampler,
        "sweep.pruner": file.pruner.name,
        "sweep.seeds": str(file.seeds),
        "sweep.seed": str(file.seed),
    }
    for each in sweep.dimensions:
        values = ", ".join(as_override("", value).removeprefix("=") for value in each.choices)
        scale = f"{', log' * each.log}{f', step {each.step:g}' if each.step is not None else ''}"
        found[f"search.{each.path}"] = values or f"{each.low:g} to {each.high:g}{scale}"
    return found


def _points(sweep: Sweep, now: Standing) -> list[Point]:
    """Scores of the trials over their numbers, and the best so far; equal each time they are sent."""
    points, best = [], None
    objective = sweep.file.objective
    for trial in now.trials:
        if trial.state != TrialState.COMPLETE or trial.datetime_complete is None or trial.values is None:
            continue
        t = round(trial.datetime_complete.timestamp() * 1000)
        for each, value in zip(objective, trial.values, strict=True):
            points.append(Point(f"trial/{each.metric.replace('/', '_')}", value, t, trial.number))
        if len(objective) == 1:
            better = max if objective[0].direction == "maximize" else min
            best = trial.values[0] if best is None else better(best, trial.values[0])
            points.append(Point(f"best/{objective[0].metric.replace('/', '_')}", best, t, trial.number))
    return points


def _wanted(now: Standing) -> Callable[[TrialRun], Wanted | None]:
    """What the MLflow run of each trial should say, by the latest trial that it belongs to."""
    latest: dict[str, FrozenTrial] = {}
    retried: dict[int, int] = {}
    for trial in now.trials:
        latest |= dict.fromkeys(trial.user_attrs.get(RUNS, []), trial)
        if RETRY_OF in trial.system_attrs:
            retried[trial.system_attrs[RETRY_OF]] = trial.number

    def wanted(run: TrialRun) -> Wanted | None:
        trial = latest.get(run.run_id)
        if trial is None:
            return None
        tags = {"optuna.trial": str(trial.number), "optuna.state": trial.state.name}
        if RETRY_OF in trial.system_attrs:
            tags["optuna.retry_of"] = str(trial.system_attrs[RETRY_OF])
        if trial.number in retried:  # by another machine, which has started afresh
            tags["optuna.retried_by"] = str(retried[trial.number])
        if trial.state == TrialState.FAIL and run.status != "FAILED":
            tags["saccade.ended"] = trial.user_attrs.get(WHY) or "its worker was gone"
        if trial.values:
            tags["optuna.value"] = " ".join(f"{value:.6g}" for value in trial.values)
        return Wanted(tags, _STATUS.get(trial.state))

    return wanted


def summary(sweep: Sweep, now: Standing, pictures: list[str], confirmed: tuple[float, ...] = ()) -> str:
    """The study's account of itself in Markdown."""
    names, counts = short_names(sweep), now.counts()
    total = f" of {now.total}" if now.total is not None else ""
    begun = sum(counts.values()) - counts["waiting"]
    lines = [f"# {sweep.file.name}", "", f"{begun}{total} trials: " + _counted(counts) + ".", ""]
    for trial in now.best[:1] if len(sweep.file.objective) == 1 else now.best:
        lines += [f"**{scores(sweep, trial)} in trial {trial.number}**: {_point(trial, names)}", ""]
    if confirmed:
        spread = statistics.stdev(confirmed) if len(confirmed) > 1 else 0.0
        lines += [
            f"The best spec with {len(confirmed)} further seeds: {statistics.fmean(confirmed):.4g} ± {spread:.2g} "
            f"({min(confirmed):.4g} to {max(confirmed):.4g}).",
            "",
        ]
    shown = _ranked(sweep, now)[:_TOP]
    if shown:
        metrics = [each.metric for each in sweep.file.objective]
        lines += [f"| trial | {' | '.join(metrics)} | {' | '.join(names.values())} |"]
        lines += ["|" + "---|" * (1 + len(metrics) + len(names))]
        for trial in shown:
            values = " | ".join(f"{value:.4g}" for value in trial.values or [])
            params = " | ".join(value_text(trial.params.get(path, "")) for path in names)
            lines.append(f"| {trial.number} | {values} | {params} |")
        lines.append("")
    lines += [f"![{Path(path).stem.replace('_', ' ')}]({path})" for path in pictures]
    return "\n".join(lines) + "\n"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "none yet"


def _ranked(sweep: Sweep, now: Standing) -> list[FrozenTrial]:
    sign = 1 if sweep.file.objective[0].direction == "minimize" else -1
    complete = [trial for trial in now.trials if trial.state == TrialState.COMPLETE and trial.values]
    return sorted(complete, key=lambda trial: (sign * (trial.values or [0.0])[0], trial.number))


def scores(sweep: Sweep, trial: FrozenTrial) -> str:
    """A trial's scores by name."""
    pairs = zip(sweep.file.objective, trial.values or [], strict=True)
    return ", ".join(f"{each.metric} {value:.4g}" for each, value in pairs)


def _point(trial: FrozenTrial, names: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value_text(trial.params[path])}" for path, name in names.items() if path in trial.params)
