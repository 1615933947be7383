"""The MLflow client behind five verbs."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saccade.provenance import redact
from saccade.tracking.address import is_server, sqlite_file
from saccade.tracking.errors import GoneError, RefusedError, translated

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["CLIENT_SETTINGS", "END_TAGS", "PARENT_TAG", "Point", "Store", "quiet_client"]

RUN_ID_TAG = "saccade.run_id"
PARENT_TAG = "mlflow.parentRunId"
END_TAGS = ("saccade.ended", "saccade.exit_code", "saccade.signal", "saccade.failure")
"""Tags of how an attempt ended; the next attempt removes them."""
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000
_BATCH_PARAMS = 100
_UNSAFE_IN_ADDRESS = set("#?%\\")
MODEL_NAME = "model"


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    t: int
    """Unix ms."""
    step: int


CLIENT_SETTINGS = {
    # One retry: whoever calls keeps trying by itself, for as long as it sees fit.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment variables that MLflow's client reads."""


def quiet_client() -> None:
    """Apply `CLIENT_SETTINGS` to this process, but for those that the user has set, and hush MLflow's log."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def _make_tables(file: Path) -> None:
    """Make an SQLite file whole before it gets its name: with half of MLflow's tables it could never be opened."""
    from mlflow import MlflowClient

    folder = file.with_name(".mlflow-new")  # Where one was who was killed, too: whoever makes tables is alone.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    MlflowClient(f"sqlite:///{folder / 'made.db'}").get_experiment("0")
    with (
        contextlib.closing(sqlite3.connect(folder / "made.db")) as made,
        contextlib.closing(sqlite3.connect(folder / "whole.db")) as whole,
    ):
        made.backup(whole)
    os.replace(folder / "whole.db", file)
    shutil.rmtree(folder, ignore_errors=True)


class Store:
    """One MLflow server or database.

    Args:
        uri: Its address, credentials included.
        artifact_root: Folder for artifacts of new experiments when `uri` is a database that others cannot serve from.

    Raises:
        TrackingError: It cannot be opened.
    """

    def __init__(self, uri: str, artifact_root: Path) -> None:
        quiet_client()
        self.uri = uri
        file = sqlite_file(uri)
        folder = file.parent if file is not None else artifact_root
        self._artifact_root = None if is_server(uri) else folder / "mlartifacts"
        with self._alone(folder if file is not None else None), translated():
            self.client = self._open()

    def _open(self) -> "MlflowClient":
        from mlflow import MlflowClient

        file = sqlite_file(self.uri)
        if file is not None and not file.exists():
            _make_tables(file)
        try:
            client = MlflowClient(self.uri)
            if not is_server(self.uri):
                client.get_experiment("0")  # Makes the tables if there are none.
        except ImportError as error:  # The database's driver
            raise RefusedError(f"{error}; install it, or track at an MLflow server") from None
        return client

    @staticmethod
    @contextlib.contextmanager
    def _alone(folder: Path | None) -> Iterator[None]:
        """Two runs that make the tables of one new SQLite file at once would fail."""
        if folder is None:
            yield
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = open(folder / ".mlflow.lock", "w")  # noqa: SIM115
        except OSError as error:
            raise RefusedError(f"{folder}: {error.strerror}") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open_experiment(self, name: str) -> str:
        """Find or make an experiment; returns its id.

        Raises:
            GoneError: It was deleted, which keeps its name taken.
        """
        for again in (True, False):
            with translated():
                found = self.client.get_experiment_by_name(name)
                if found is not None and found.lifecycle_stage == "deleted":
                    raise GoneError(
                        f"the MLflow experiment '{name}' was deleted; restore it "
                        f"(mlflow experiments restore --experiment-id {found.experiment_id}) or set tracking.experiment"
                    )
                if found is not None:
                    return str(found.experiment_id)
            try:
                with translated():
                    root = self._artifact_root.as_uri() if self._artifact_root is not None else None
                    return str(self.client.create_experiment(name, artifact_location=root))
            except RefusedError:  # Another run may have made it just now.
                if not again:
                    raise
        raise AssertionError

    def open_run(self, experiment_id: str, run_id: str, *, name: str, start_ms: int, tags: Mapping[str, str]) -> str:
        """Find or make the MLflow run of our run; returns its MLflow id.

        An answer that got lost after the server had made the run is made good here: it is found by its tag.
        """
        with translated():
            found = self.client.search_runs([experiment_id], f"tags.`{RUN_ID_TAG}` = '{run_id}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
            run = self.client.create_run(
                experiment_id, start_time=start_ms, run_name=name, tags={**_fit(tags), RUN_ID_TAG: run_id}
            )
            return str(run.info.run_id)

    def begin(self, mlflow_run_id: str, params: Mapping[str, str], tags: Mapping[str, str], *, running: bool) -> None:
        """Bring the description of a run up to date.

        Params are written once in MLflow: those that differ now become tags `override.<key>`.

        Args:
            params: Flattened spec.
            tags: To set on a run that goes on; those of how an earlier attempt ended are removed.
            running: The run goes on: show it as RUNNING.

        Raises:
            GoneError: The run was deleted.
        """
        from mlflow.entities import Param

        with translated():
            run = self.client.get_run(mlflow_run_id)
            if run.info.lifecycle_stage == "deleted":
                raise GoneError(f"the MLflow run {mlflow_run_id} was deleted")
            shown = {key: _shorten(value, _PARAM_LENGTH) for key, value in params.items()}
            there, new_tags = run.data.params, dict(tags)
            new = [Param(key, value) for key, value in shown.items() if key not in there]
            for start in range(0, len(new), _BATCH_PARAMS):
                self.client.log_batch(mlflow_run_id, params=new[start : start + _BATCH_PARAMS])
            for key, value in shown.items():
                if there.get(key, value) != value:
                    new_tags[f"override.{key}"] = value
            if not running:
                return
            for key in run.data.tags:
                if (key.startswith("override.") or key in END_TAGS) and key not in new_tags:
                    self.client.delete_tag(mlflow_run_id, key)
            if run.info.status != "RUNNING":
                self.client.update_run(mlflow_run_id, status="RUNNING")
        self.log(mlflow_run_id, [], new_tags)

    def log(self, mlflow_run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> dict[str, str]:
        """Send points and tags; those sent before, with equal times, change nothing.

        Returns:
            What was refused, for good: `metric <key>` or `tag <key>` -> why. The rest is there.
        """
        from mlflow.entities import Metric, RunTag

        if not points and not tags:
            return {}
        try:
            with translated():
                self.client.log_batch(
                    mlflow_run_id,
                    metrics=[Metric(point.key, point.value, point.t, point.step) for point in points],
                    tags=[RunTag(key, value) for key, value in _fit(tags).items()],
                )
        except RefusedError as error:
            # One bad name drops the whole request: halve it until the bad one stands alone.
            names = [("metric", key) for key in dict.fromkeys(point.key for point in points)]
            names += [("tag", key) for key in tags]
            if len(names) == 1:
                return {" ".join(names[0]): str(error)}
            refused: dict[str, str] = {}
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                chosen = set(half)
                refused |= self.log(
                    mlflow_run_id,
                    [point for point in points if ("metric", point.key) in chosen],
                    {key: value for key, value in tags.items() if ("tag", key) in chosen},
                )
            return refused
        return {}

    def log_datasets(self, mlflow_run_id: str, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Name the datasets that a run uses; those named before, by name and digest, stay as they are.

        Args:
            datasets: Each with name, digest, context, source (a folder) and profile (counts).
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not datasets:
            return
        inputs = [
            DatasetInput(
                Dataset(
                    name=use["name"],
                    digest=use["digest"],
                    source_type="local",
                    source=json.dumps({"uri": use["source"]}),
                    profile=json.dumps(use["profile"]),
                ),
                [InputTag("mlflow.data.context", use["context"])],
            )
            for use in datasets
        ]
        try:
            with translated():
                self.client.log_inputs(mlflow_run_id, inputs)
        except RefusedError:
            # MLflow looks and then writes: a run of the same experiment that named them in between makes it a bad
            # request. Asked again, it finds them there.
            with translated():
                self.client.log_inputs(mlflow_run_id, inputs)

    def upload(self, mlflow_run_id: str, file: Path, path: str) -> None:
        """Send a file to `path` among the run's artifacts."""
        if _UNSAFE_IN_ADDRESS & set(path):
            raise RefusedError("a name with one of # ? % \\ would end up elsewhere; rename the file")
        with translated():
            self.client.log_artifact(mlflow_run_id, str(file), path.rpartition("/")[0] or None)

    def set_status(self, mlflow_run_id: str, status: str, end_ms: int) -> None:
        """End the run with a status."""
        with translated():
            self.client.set_terminated(mlflow_run_id, status, end_ms)

    def open_model(self, experiment_id: str, mlflow_run_id: str) -> str:
        """Begin a logged model of the run; one begun before and never finished is taken up again."""
        with translated():
            begun = self.client.search_logged_models(
                [experiment_id], filter_string=f"source_run_id = '{mlflow_run_id}' AND name = '{MODEL_NAME}'"
            )
            for model in begun:
                if model.status.name == "PENDING":
                    return str(model.model_id)
            new = self.client.create_logged_model(experiment_id, name=MODEL_NAME, source_run_id=mlflow_run_id)
            return str(new.model_id)

    def send_model(self, model_id: str, mlflow_run_id: str, folder: Path, step: int) -> None:
        """Send a folder in MLflow's model format as a logged model: `runs:/<run>/model` and `models:/<model id>`.

        Args:
            step: Optimiser step that the model is of.
        """
        import yaml
        from mlflow.entities import LoggedModelOutput

        with translated():
            description = folder / "MLmodel"
            content: dict[str, Any] = yaml.safe_load(description.read_text(encoding="utf-8"))
            content |= {"model_id": model_id, "run_id": mlflow_run_id}
            description.write_text(yaml.safe_dump(content), encoding="utf-8")
            self.client.log_model_artifacts(model_id, str(folder))
            self.client.finalize_logged_model(model_id, "READY")
            outputs = self.client.get_run(mlflow_run_id).outputs
            if model_id not in [output.model_id for output in (outputs.model_outputs if outputs is not None else [])]:
                self.client.log_outputs(mlflow_run_id, [LoggedModelOutput(model_id, step=step)])


def _fit(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: _shorten(redact(value), _TAG_LENGTH) for key, value in tags.items()}


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
