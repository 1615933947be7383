"""One run, read from its folder on this machine or from the tracking server; whoever asks sees no difference."""

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from saccade.errors import RunError
from saccade.figures.curves import Series
from saccade.journal import Event, read_journal
from saccade.report import curves_of, stage_seconds
from saccade.run_dir import RunDir
from saccade.spec import Spec
from saccade.spec_reader import flatten
from saccade.tracking.address import is_server, run_link
from saccade.tracking.reader import Reader, TrackedRun
from saccade.tracking.shipping_state import ShippingState

__all__ = ["MACHINE_METRICS", "PLACE_SETTINGS", "RunRecord", "defaults", "local_record", "tracked_record"]

MACHINE_METRICS = ("perf/", "system/")
"""Beginnings of metrics that say how fast the machine was: never the same twice."""
PLACE_SETTINGS = ("name", "data.root", "engine.", "tracking.", "checkpoint.", "then")
"""Settings of what a run is called, where its data lies, which machine computes it and where it is recorded."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is known of a run."""

    id: str
    name: str
    experiment: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    created: datetime
    seconds: float
    """How long it took, or has taken up to now; pauses between attempts count where only the server knows of it."""
    params: Mapping[str, str]
    """The flattened spec as it was written down: an older run lacks settings that are newer."""
    tags: Mapping[str, str]
    """As MLflow shows them."""
    datasets: Mapping[str, str]
    """Digest of each dataset by name: both parts of a split, and the scanpaths."""
    spec_hash: str
    follows: str = ""
    """For a run of a chain: "<id of the first>, as 2 of 3"."""
    link: str = ""
    """Its page on a server, if it has one."""
    run: RunDir | None = None
    """Its folder, when that is on this machine."""
    tracked: TrackedRun | None = None
    reader: Reader | None = field(default=None, repr=False)
    events: Sequence[Event] = field(default=(), repr=False)
    """The journal; empty when only the server has it."""

    @cached_property
    def settings(self) -> dict[str, str]:
        """The flattened spec with today's defaults for settings that are newer than the run."""
        return {**{key: value for key, value in defaults().items() if key != "name"}, **self.params}

    @cached_property
    def curves(self) -> dict[str, Series]:
        """Every metric: steps and values.

        Raises:
            RunError: The server does not answer.
        """
        if self.run is not None:
            return curves_of(self.events)
        assert self.reader is not None
        assert self.tracked is not None
        return dict(self.reader.curves(self.tracked))

    @cached_property
    def last(self) -> dict[str, float]:
        """Last value of every metric."""
        if self.run is not None:
            return {key: values[-1] for key, (_, values) in self.curves.items()}
        assert self.tracked is not None
        return self.tracked.metrics

    @property
    def place(self) -> str:
        """Where it can be read, in words."""
        if self.run is not None:
            return str(self.run.path)
        assert self.tracked is not None
        return self.tracked.uri

    def fetch(self, path: str) -> Path:
        """A file or folder of the run, to be read only; downloaded for as long as the program runs if need be.

        Args:
            path: Relative to the run's folder, such as "encoder".

        Raises:
            RunError: There is none, or the server does not answer.
        """
        if self.run is not None:
            found = self.run.path / path
            if not found.exists():
                raise RunError(f"run {self.id}: there is no {found}: never made, or removed")
            return found
        assert self.reader is not None
        assert self.tracked is not None
        folder = tempfile.mkdtemp(prefix="saccade-run-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return self.reader.download(self.tracked, path, Path(folder))

    def text(self, path: str) -> str:
        """A file's text.

        Raises:
            RunError: There is none, or it cannot be read.
        """
        file = self.fetch(path)
        try:
            return file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise RunError(f"{file}: cannot be read ({error.strerror}); look at its permissions and its disk") from None

    def text_if_any(self, path: str) -> str:
        """A file's text; empty when there is none, as with the changes of a clean checkout."""
        if self.run is not None:
            return self.text(path) if (self.run.path / path).is_file() else ""
        assert self.reader is not None
        assert self.tracked is not None
        return self.text(path) if path in self.reader.files(self.tracked) else ""


def defaults() -> dict[str, str]:
    """The flattened spec of a run for which nothing is set."""
    return {key: as_param(value) for key, value in flatten(Spec(name="-")).items()}


def as_param(value: str | int | float | bool) -> str:
    """A setting as a run's params have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def local_record(run: RunDir) -> RunRecord:
    """Read a run's folder; its lock tells whether it is running.

    Raises:
        RunError: Its record or its journal is damaged, or cannot be read.
    """
    record = run.record()
    try:
        events = [event for event, _ in read_journal(run.journal)]
        running = run.trainer_lives()
    except OSError as error:
        raise RunError(
            f"{error.filename or run.path}: cannot be read ({error.strerror}); look at its permissions and its disk"
        ) from None
    state = ShippingState.load(run.path)
    tags = _local_tags(record, events, state)
    follows = record.get("follows") or {}
    return RunRecord(
        id=run.id,
        name=record["name"],
        experiment=record["params"].get("tracking.experiment", ""),
        status=_local_status(events, state, running=running),
        created=datetime.fromisoformat(record["created"]),
        seconds=sum(stage_seconds(events).values()),
        params=record["params"],
        tags=tags,
        datasets={event["name"]: event["digest"] for event in events if event["kind"] == "dataset"},
        spec_hash=record["spec_hash"],
        follows=f"{follows['run']}, as {follows['place']} of {follows['of']}" if follows else "",
        link=_link(state),
        run=run,
        events=events,
    )


def _local_tags(record: Mapping[str, object], events: Sequence[Event], state: ShippingState | None) -> dict[str, str]:
    git = record["git"]
    assert isinstance(git, dict)
    tags = {
        "mlflow.user": str(record["user"]),
        "mlflow.source.name": str(record["command"]),
        "git_commit": git["commit"],
        "mlflow.source.git.branch": git["branch"],
        "git_dirty": str(git["dirty"]).lower() if git["commit"] else "",
        "host": str(record["host"]),
    }
    for event in events:
        if event["kind"] == "tags":
            tags |= event["values"]
        elif event["kind"] == "stage":
            tags["stage"] = event["name"]
        elif event["kind"] == "attempt":
            tags["attempt"] = str(event["number"])
    if state is not None:
        tags |= state.tags | (state.outcome.tags if state.outcome is not None else {})
    return {key: value for key, value in tags.items() if value}


def _local_status(events: Sequence[Event], state: ShippingState | None, *, running: bool) -> str:
    if running:
        return "RUNNING"
    if state is not None and state.outcome is not None:
        return state.outcome.status
    ends = [event for event in events if event["kind"] in ("attempt", "end")]
    # Neither finished nor stopped: its supervisor died with it, or has not begun.
    return "FINISHED" if ends and ends[-1].get("status") == "finished" else "KILLED"


def _link(state: ShippingState | None) -> str:
    if state is None or not state.mlflow_run_id or not is_server(state.tracking_uri):
        return ""
    return run_link(state.tracking_uri, state.experiment_id, state.mlflow_run_id)


def tracked_record(tracked: TrackedRun, reader: Reader) -> RunRecord:
    """A run as the server has it."""
    end_ms = tracked.end_ms or round(datetime.now(UTC).timestamp() * 1000)
    return RunRecord(
        id=tracked.run_id,
        name=tracked.name,
        experiment=tracked.experiment,
        status=tracked.status,
        created=datetime.fromtimestamp(tracked.start_ms / 1000, UTC),
        seconds=(end_ms - tracked.start_ms) / 1000,
        params=tracked.params,
        tags=tracked.tags,
        datasets=tracked.datasets,
        spec_hash=tracked.tags.get("spec_hash", ""),
        follows=tracked.tags.get("saccade.follows", ""),
        link=tracked.link,
        tracked=tracked,
        reader=reader,
    )
