"""Tracked runs read back: found by id or name, with settings, tags, curves and files, from a server or a database."""

import contextlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.errors import RunError
from saccade.provenance import redact, strip_credentials
from saccade.tracking.address import is_server, resolve_uri, run_link, sqlite_file
from saccade.tracking.errors import DeniedError, GoneError, TrackingError, line, translated
from saccade.tracking.store import RUN_ID_TAG, Store
from saccade.tracking.study import STUDY_RUN

if TYPE_CHECKING:
    from mlflow.entities import FileInfo, Run

__all__ = ["NotARunError", "Reader", "TrackedRun", "open_reader"]

OLDEST_SERVER = (3, 0)
"""Runs are tracked with logged models, which servers have since then."""
_PAGE = 200
_NO_NAMES, _DEEPEST = {"", ".", ".."}, 16
"""Of files and folders among artifacts, and how many may be one in the other."""
_MLFLOW_ID = re.compile(r"[0-9a-f]{32}")


class NotARunError(RunError):
    """What goes by an id is a run of other software, or deleted."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as MLflow knows it."""

    uri: str
    """The server or database, without credentials."""
    mlflow_id: str
    experiment_id: str
    experiment: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    start_ms: int
    end_ms: int | None
    params: dict[str, str]
    """The flattened spec."""
    tags: dict[str, str]
    metrics: dict[str, float]
    """Last value of each."""
    datasets: dict[str, str]
    """Digest of each dataset by name."""

    @property
    def run_id(self) -> str:
        """Our own id; empty for a run that other software has tracked."""
        return self.tags.get(RUN_ID_TAG, "")

    @property
    def link(self) -> str:
        """The run's page; empty for a database."""
        return run_link(self.uri, self.experiment_id, self.mlflow_id) if is_server(self.uri) else ""


def open_reader(runs_root: str | Path, uri: str | None = None) -> "Reader | None":
    """A reader for an address, else for $MLFLOW_TRACKING_URI, else for the SQLite file below `runs_root`.

    Returns:
        None when there is no such file: reading makes none.

    Raises:
        RunError: The server or database cannot be read.
    """
    address = resolve_uri(uri, runs_root)
    file = sqlite_file(address)
    return None if file is not None and not file.exists() else Reader(address)


class Reader:
    """Reads runs from one MLflow server or database; every trouble with it is a `RunError` of one line.

    Args:
        uri: Its address, credentials included.

    Raises:
        RunError: It does not answer, does not let us in, or is too old.
    """

    def __init__(self, uri: str) -> None:
        self.uri = strip_credentials(uri)
        if is_server(uri):
            _check_version(uri)
        with self._told():
            self._client = Store(uri, Path()).client
        self._experiments: dict[str, str] | None = None

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except DeniedError as error:
            raise RunError(f"{self.uri}: {error}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") from None
        except TrackingError as error:
            raise RunError(f"{self.uri}: {error}") from None

    # Finding ---------------------------------------------------------------------------------------------------------

    def runs(
        self,
        condition: str = f"tags.`{RUN_ID_TAG}` LIKE '%'",
        *,
        experiment: str | None = None,
        status: str | None = None,
        limit: int = _PAGE,
    ) -> list[TrackedRun]:
        """Runs that are not deleted, the newest first.

        Args:
            condition: MLflow filter; by default runs of ours.
            experiment: Only of the experiment of that name.
            status: Only of that status.
            limit: How many at most.

        Raises:
            RunError: The server does not answer.
        """
        names = self._names()
        if experiment is not None:
            names = {key: name for key, name in names.items() if name == experiment}
        if status is not None:
            condition += f" AND attributes.status = '{status}'"
        found: list[TrackedRun] = []
        token: str | None = None
        with self._told():
            while names and len(found) < limit:
                page = self._client.search_runs(
                    list(names),
                    condition,
                    max_results=min(_PAGE, limit - len(found)),
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
                found += [run for run in map(self._run, page) if not run.run_id.startswith(STUDY_RUN)]
                token = page.token
                if not token:
                    break
        return found

    def find(self, ref: str) -> list[TrackedRun]:
        """Runs that go by an MLflow id, by our id or the beginning of one, or by a name: the first of these that fits.

        Raises:
            NotARunError: The MLflow id is of a deleted run, or of one that is not ours.
            RunError: The server does not answer.
        """
        if _MLFLOW_ID.fullmatch(ref):
            found = self._by_mlflow_id(ref)
            if found is not None:
                return [found]
        if not ref or "'" in ref or "`" in ref:
            return []
        exact = self.runs(f"tags.`{RUN_ID_TAG}` = '{ref}'")
        if exact:
            return exact
        beginning = [run for run in self.runs(f"tags.`{RUN_ID_TAG}` LIKE '{ref}%'") if run.run_id.startswith(ref)]
        if beginning:
            return beginning
        return [run for run in self.runs(f"attributes.run_name = '{ref}'") if run.run_id]

    def _by_mlflow_id(self, mlflow_id: str) -> TrackedRun | None:
        try:
            with translated():
                run = self._client.get_run(mlflow_id)
        except GoneError:
            return None
        except TrackingError:
            with self._told():  # the same trouble once more, in our words
                run = self._client.get_run(mlflow_id)
        if run.info.lifecycle_stage == "deleted":
            raise NotARunError(f"{self.uri}: the MLflow run {mlflow_id} was deleted; restore it there")
        found = self._run(run)
        if found.run_id.startswith(STUDY_RUN):
            raise NotARunError(
                f"{self.uri}: the MLflow run {mlflow_id} is that of the study '{found.name}'; see it with `saccade "
                "sweep status`, or give the id of one of its trials' runs"
            )
        if not found.run_id:
            raise NotARunError(
                f"{self.uri}: the MLflow run {mlflow_id} ('{found.name}' in experiment '{found.experiment}') is not "
                f"one of saccade: it has no tag {RUN_ID_TAG}; give the id of a run that `saccade runs list` shows"
            )
        return found

    def _names(self) -> dict[str, str]:
        """Names of the experiments by id."""
        if self._experiments is None:
            found: dict[str, str] = {}
            token: str | None = None
            with self._told():
                while True:
                    page = self._client.search_experiments(max_results=_PAGE, page_token=token)
                    found |= {str(each.experiment_id): each.name for each in page}
                    token = page.token
                    if not token:
                        break
            self._experiments = found
        return self._experiments

    def _run(self, run: "Run") -> TrackedRun:
        info, data = run.info, run.data
        return TrackedRun(
            uri=self.uri,
            mlflow_id=info.run_id,
            experiment_id=str(info.experiment_id),
            experiment=self._names().get(str(info.experiment_id), "?"),
            name=info.run_name or "",
            status=info.status,
            start_ms=info.start_time,
            end_ms=info.end_time or None,
            params=dict(data.params),
            tags=dict(data.tags),
            metrics=dict(data.metrics),
            datasets={
                use.dataset.name: use.dataset.digest for use in (run.inputs.dataset_inputs if run.inputs else [])
            },
        )

    # Content ---------------------------------------------------------------------------------------------------------

    def curves(self, run: TrackedRun, keys: Sequence[str] | None = None) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of metrics (default: of all), in order of step.

        Raises:
            RunError: The server does not answer.
        """
        curves = {}
        with self._told():
            for key in keys if keys is not None else sorted(run.metrics):
                points = self._client.get_metric_history(run.mlflow_id, key)
                points = sorted(points, key=lambda point: (point.step, point.timestamp))
                curves[key] = ([point.step for point in points], [point.value for point in points])
        return curves

    def points(self, run: TrackedRun, key: str) -> list[tuple[int, int, float]]:
        """Every point of a metric, (unix ms, step, value), in order of time.

        Raises:
            RunError: The server does not answer.
        """
        with self._told():
            points = self._client.get_metric_history(run.mlflow_id, key)
        return sorted((point.timestamp, point.step, point.value) for point in points)

    def all_files(self, run: TrackedRun, folder: str = "") -> list[str]:
        """Paths of all artifacts that are files, below a folder.

        Raises:
            RunError: The server does not answer, or lists what lies outside the run or without end.
        """
        items = self._list(run, folder)
        return [path for item in items for path in (self.all_files(run, item.path) if item.is_dir else [item.path])]

    def files(self, run: TrackedRun, folder: str = "") -> list[str]:
        """Paths of the artifacts right in a folder, or of the folder and what is in it if it is a file.

        Raises:
            RunError: The server does not answer, or lists what lies outside the run.
        """
        return sorted(item.path for item in self._list(run, folder))

    def _list(self, run: TrackedRun, folder: str) -> "list[FileInfo]":
        with self._told():
            items = list(self._client.list_artifacts(run.mlflow_id, folder or None))
        for item in items:
            names = item.path.split("/")
            # MLflow's own client looks for some of it, in some of its stores.
            if not _NO_NAMES.isdisjoint(names) or "\\" in item.path or "\0" in item.path or len(names) > _DEEPEST:
                raise RunError(
                    f"{self.uri}: lists {line(ascii(item.path))} among the artifacts of run "
                    f"{run.run_id or run.mlflow_id}, which no run has; nothing was fetched, ask who keeps that server"
                )
        return items

    def download(self, run: TrackedRun, path: str, target: Path) -> Path:
        """Fetch an artifact, a file or a folder, to `target / path`.

        Raises:
            RunError: The server does not answer, or the artifact is not there (any more).
        """
        if path not in self.files(run, path.rpartition("/")[0]):
            raise RunError(
                f"run {run.run_id or run.mlflow_id}: '{path}' is not among its artifacts at {self.uri}: never sent, or "
                "deleted there; use the machine that has the run's folder"
            )
        with self._told():
            fetched = Path(self._client.download_artifacts(run.mlflow_id, path, str(target)))
        place = target / path
        if fetched.absolute() != place.absolute():  # MLflow leaves the folders of a single file out.
            place.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(place)
        return place

    def delete(self, run: TrackedRun) -> None:
        """Mark a run as deleted; `mlflow gc` removes it for good.

        Raises:
            RunError: The server does not answer or does not let us.
        """
        with self._told():
            self._client.delete_run(run.mlflow_id)


def _check_version(uri: str) -> None:
    """Refuse a server that is too old to read what we track; one that does not say is left to answer for itself."""
    try:
        with urllib.request.urlopen(f"{strip_credentials(uri)}/version", timeout=10) as answer:
            said = answer.read(100).decode("utf-8", "replace").strip()
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException) as error:
        why = line(str(getattr(error, "reason", "") or error))
        raise RunError(f"{redact(uri)}: {why}; start the server, or set MLFLOW_TRACKING_URI") from None
    found = re.fullmatch(r"(\d+)\.(\d+)[\w.+-]*", said)
    if found is not None and (int(found[1]), int(found[2])) < OLDEST_SERVER:
        raise RunError(
            f"{redact(uri)}: this MLflow server is version {said}, and {'.'.join(map(str, OLDEST_SERVER))} or newer is "
            "needed; back its database up, install a newer MLflow there and run `mlflow db upgrade`"
        )
