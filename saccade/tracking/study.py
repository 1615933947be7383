"""The MLflow side of a sweep: the study's own run, and the states of its trials' runs."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.tracking.address import is_server, run_link
from saccade.tracking.errors import translated
from saccade.tracking.note import note
from saccade.tracking.store import PARENT_TAG, RUN_ID_TAG, Point, Store
from saccade.tracking.views import sweep_view, write_views

__all__ = ["STUDY_RUN", "STUDY_TAG", "StudyRun", "TrialRun", "TrialState"]

STUDY_TAG = "optuna.study_id"
"""Tag of the study's own run and of all runs of its trials."""
STUDY_RUN = "study-"
"""How the id of a study's own run begins: it has no spec and no folder, so it is in no list of runs."""
_PAGE = 1000


@dataclass(frozen=True)
class TrialRun:
    """An MLflow run of a trial, as it is."""

    mlflow_run_id: str
    run_id: str
    """Our run's id."""
    status: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class TrialState:
    """What an MLflow run of a trial should say."""

    tags: Mapping[str, str]
    status: str | None
    """FINISHED, KILLED or FAILED; None: that is its supervisor's business."""


class StudyRun:
    """The MLflow run of a study.

    Args:
        uri: Of the server or database, credentials included.
        runs_root: Folder of all runs.
        experiment: MLflow experiment.
        study_id: Unlike that of any other study.
        name: What the run is called.
        tags: What it is about.

    Raises:
        TrackingError: It cannot be opened.
    """

    def __init__(
        self, uri: str, runs_root: Path, experiment: str, *, study_id: str, name: str, tags: Mapping[str, str]
    ) -> None:
        self._store, self._study_id, self._name = Store(uri, runs_root), study_id, name
        self._experiment_id = self._store.open_experiment(experiment)
        self.mlflow_run_id = self._store.open_run(
            self._experiment_id,
            f"{STUDY_RUN}{study_id}",
            name=name,
            start_ms=time.time_ns() // 1_000_000,
            tags={**tags, STUDY_TAG: study_id},
        )

    @property
    def link(self) -> str:
        """The run's page on a server; empty for a database."""
        uri = self._store.uri
        return run_link(uri, self._experiment_id, self.mlflow_run_id) if is_server(uri) else ""

    def write_view(self, params: Sequence[str], objective: str, *, maximise: bool) -> str:
        """Save a view of the trials with parallel coordinates; returns its address, empty for a database."""
        which = f"tags.`{STUDY_TAG}` = '{self._study_id}'"
        view = sweep_view(self._name, which, params, objective, maximise=maximise)
        return write_views(self._store, self._experiment_id, [view])[view.name]

    def begin(self, params: Mapping[str, str]) -> None:
        """Show the study as running, with what it is made of."""
        self._store.begin(self.mlflow_run_id, params, {}, running=True)

    def log(self, points: Iterable[Point], tags: Mapping[str, str], summary: str) -> None:
        """Send points (those sent before change nothing) and tags, and make a Markdown text the run's description."""
        described = {"mlflow.note.content": note(summary, self.mlflow_run_id)}
        self._store.log(self.mlflow_run_id, list(points), {**tags, **described})

    def upload(self, folder: Path, paths: Iterable[str]) -> None:
        """Send files of a folder, each to the same path among the artifacts."""
        for path in paths:
            self._store.upload(self.mlflow_run_id, folder / path, path)

    def end(self, status: str) -> None:
        """End the study's run: FINISHED, or KILLED when it can be gone on with."""
        self._store.set_status(self.mlflow_run_id, status, time.time_ns() // 1_000_000)

    def correct(self, wanted: Callable[[TrialRun], TrialState | None]) -> None:
        """Make the runs of trials say what is true.

        Args:
            wanted: What a run should say; None: leave it.
        """
        for run in self._trial_runs():
            state = wanted(run)
            if state is None:
                continue
            tags = {PARENT_TAG: self.mlflow_run_id, **state.tags}
            tags = {key: value for key, value in tags.items() if run.tags.get(key) != value}
            self._store.log(run.mlflow_run_id, [], tags)
            if state.status is not None and run.status != state.status:
                self._store.set_status(run.mlflow_run_id, state.status, time.time_ns() // 1_000_000)

    def _trial_runs(self) -> list[TrialRun]:
        found, token = list[TrialRun](), ""
        while True:
            with translated():
                page = self._store.client.search_runs(
                    [self._experiment_id],
                    f"tags.`{STUDY_TAG}` = '{self._study_id}'",
                    max_results=_PAGE,
                    page_token=token or None,
                )
            for run in page:
                if run.info.run_id != self.mlflow_run_id:
                    tags = dict(run.data.tags)
                    found.append(TrialRun(run.info.run_id, tags.get(RUN_ID_TAG, ""), run.info.status, tags))
            token = page.token or ""
            if not token:
                return found
