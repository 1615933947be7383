"""What of a run is to be sent next: one request at a time, so that whoever calls decides on patience.

Metrics go first and never wait for files: a server that refuses or cannot store artifacts still gets the curves.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from saccade import atomic
from saccade.journal import Event, last_attempt, read_journal
from saccade.provenance import hide_secrets
from saccade.run_dir import RunDir
from saccade.tracking.errors import RefusedError
from saccade.tracking.note import note
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import PARENT_TAG, Point, Store
from saccade.tracking.system import SYSTEM_FILE
from saccade.tracking.uploads import JOURNAL, MODEL_FOLDER, Uploads
from saccade.tracking.views import write_views

__all__ = ["Shipment"]

_BATCH_POINTS, _BATCH_TAGS = 1000, 50
_LIVE_PAUSE_SEC = 1.0


@dataclass
class _Batch:
    """Lines of the journal that go together, in their order."""

    end: int
    events: int = 0
    points: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    datasets: list[Event] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.points) >= _BATCH_POINTS or len(self.tags) >= _BATCH_TAGS

    def add(self, event: Event, end: int) -> None:
        self.events, self.end = self.events + 1, end
        match event["kind"]:
            case "metrics":
                for key, value in event["values"].items():
                    if math.isinf(value):  # MLflow stores 1.8e308, which ruins the axis of every plot.
                        self.tags[f"saccade.infinite.{key}"] = f"{value:+} at step {event['step']}"
                        value = math.nan
                    self.points.append(Point(key, value, event["t"], event["step"]))
            case "tags":
                self.tags |= {str(key): str(value) for key, value in event["values"].items()}
            case "stage":
                self.tags["stage"] = event["name"]
            case "attempt":
                self.tags["attempt"] = str(event["number"])
            case "dataset":
                self.datasets.append(event)
            case "artifact":
                self.files.append(event["path"])


class Shipment:
    """Brings one run to the server. Not thread-safe, but for `attempt` and `last_call`.

    Args:
        run: The run, whose supervisor lock the caller holds.
        state: Its shipping.json.
        uri: Where to, credentials included.
        say: Takes a line for the user.
        attempt: The attempt whose line the journal must have before anything of it is sent, since until then the
            trainer may still cut it; None when no trainer lives.
    """

    def __init__(
        self, run: RunDir, state: ShippingState, uri: str, say: Callable[[str], None], *, attempt: int | None
    ) -> None:
        self.run, self.state, self.uri, self._say = run, state, uri, say
        self.attempt = attempt
        self.last_call = False
        """Nothing more will be added to the run's folder."""
        self.uploads = Uploads(run, state, say, self._refuse)
        self._store: Store | None = None
        self._seen_attempt = False
        self._closing = False
        self._logged_at = -math.inf

    def step(self) -> bool:
        """Do what is next; False when there is nothing to do for now.

        Raises:
            TrackingError: The request failed; `OutageError`: the same step may be tried again.
            RunError: The journal is damaged.
        """
        if self._store is None:
            self._store = self._connect()
            return True
        if self._send_journal(self._store) or self._send_system(self._store) or self._send_status(self._store):
            return True
        if self.attempt is not None:
            self.uploads.watch()
        return self.uploads.step(self._store) or self._conclude()

    def unsent(self) -> str:
        """What is not on the server, in words: "12 events, 3 files"; empty when all is."""
        events = sum(1 for _ in read_journal(self.run.journal, self.state.offset))
        events += sum(1 for _ in read_journal(self.run.path / SYSTEM_FILE, self.state.system_offset))
        files = len(self.state.pending)
        parts = [
            f"{events} event{'s' * (events != 1)}" * bool(events),
            f"{files} file{'s' * (files != 1)}" * bool(files),
        ]
        return ", ".join(filter(None, [*parts, "" if self.state.status_final else "its status"]))

    # Beginning -------------------------------------------------------------------------------------------------------

    def _connect(self) -> Store:
        store, state, record = Store(self.uri, self.run.root), self.state, self.run.record()
        tags = {**_base_tags(record, self.run.path), **self._chain_tags(record), **state.tags}
        if not state.mlflow_run_id:
            state.experiment_id = store.open_experiment(state.experiment)
            state.mlflow_run_id = store.open_run(
                state.experiment_id,
                self.run.id,
                name=record["name"],
                start_ms=round(datetime.fromisoformat(record["created"]).timestamp() * 1000),
                tags=tags,
            )
            state.save()
        store.begin(state.mlflow_run_id, record["params"], tags, running=state.outcome is None)
        write_views(store, state.experiment_id)
        for pattern in ("run.json", "spec*.yaml", "environment*.txt", "git*.diff"):
            for path in sorted(self.run.path.glob(pattern)):
                # An empty one only in place of what is not true any more, such as the diff of an earlier attempt.
                self.uploads.add([path.name] if path.stat().st_size or path.name in state.uploaded else [])
        self.uploads.add(name for name in ("inputs", "then") if (self.run.path / name).is_dir())
        state.save()
        return store

    def _chain_tags(self, record: dict[str, Any]) -> dict[str, str]:
        """For a run that follows another: which, in words and as the MLflow UI nests runs."""
        follows = record.get("follows")
        if not follows:
            return {}
        tags = {"saccade.follows": f"{follows['run']}, as {follows['place']} of {follows['of']}"}
        first = ShippingState.load(self.run.root / follows["run"])
        if first is not None and first.mlflow_run_id and first.tracking_uri == self.state.tracking_uri:
            tags[PARENT_TAG] = first.mlflow_run_id
        return tags

    # The journal -----------------------------------------------------------------------------------------------------

    def _send_journal(self, store: Store) -> bool:
        attempt = self.attempt
        if attempt is not None and not self._seen_attempt:
            self._seen_attempt = last_attempt(self.run.journal) >= attempt
            if not self._seen_attempt:
                return False
        batch = self._next_batch(self.run.journal, self.state.offset)
        pauses = attempt is not None and not batch.full and not self.uploads.journal_first
        wait = pauses and time.monotonic() < self._logged_at + _LIVE_PAUSE_SEC
        if not batch.events or wait:
            return False
        state = self.state
        points = [point for point in batch.points if f"metric {point.key}" not in state.refused]
        tags = {key: value for key, value in batch.tags.items() if f"tag {key}" not in state.refused}
        self._logged_at = time.monotonic()
        if points or tags:
            # What may be there must be known before it can be there, and must not be lost with the power.
            atomic.sync(self.run.journal)
            state.attempted = max(state.attempted, batch.end)
            state.save()
            self._refuse(store.log(state.mlflow_run_id, points, tags))
        self._log_datasets(store, batch.datasets)
        self.uploads.add(batch.files)
        if "summary.md" in batch.files:
            self._describe(store)
        state.offset = batch.end
        state.save()
        return True

    def _send_system(self, store: Store) -> bool:
        """Send samples of the machine: no trainer ever cuts them, so what is there is sent."""
        batch = self._next_batch(self.run.path / SYSTEM_FILE, self.state.system_offset)
        if not batch.events:
            return False
        points = [point for point in batch.points if f"metric {point.key}" not in self.state.refused]
        self._refuse(store.log(self.state.mlflow_run_id, points, {}))
        self.state.system_offset = batch.end
        self.state.save()
        return True

    def _next_batch(self, path: Path, offset: int) -> _Batch:
        batch = _Batch(offset)
        for event, end in read_journal(path, offset):
            batch.add(event, end)
            if batch.full:
                break
        return batch

    def _log_datasets(self, store: Store, datasets: list[Event]) -> None:
        try:
            store.log_datasets(self.state.mlflow_run_id, datasets)
        except RefusedError as error:
            self._refuse({f"dataset {event['name']}": str(error) for event in datasets})

    def _describe(self, store: Store) -> None:
        path = self.run.path / "summary.md"
        if path.is_file():
            text = note(path.read_text(encoding="utf-8", errors="replace"), self.state.mlflow_run_id)
            self._refuse(store.log(self.state.mlflow_run_id, [], {"mlflow.note.content": text}))

    def _refuse(self, refused: dict[str, str]) -> None:
        for what, why in refused.items():
            if what not in self.state.refused:
                self._say(f"tracking: MLflow refuses {what}: {why}")
        # New objects, here and below: the supervisor saves the state from its own thread.
        self.state.refused = {**self.state.refused, **refused}

    # The end ---------------------------------------------------------------------------------------------------------

    def _send_status(self, store: Store) -> bool:
        state = self.state
        if self.attempt is not None or state.outcome is None or state.status_final:
            return False
        self._refuse(store.log(state.mlflow_run_id, [], state.outcome.tags))
        state.save()  # Not for a run that was let go, and may go on, while the server took its time.
        store.set_status(state.mlflow_run_id, state.outcome.status, state.outcome.end_ms)
        state.status_final = True
        state.save()
        return True

    def _conclude(self) -> bool:
        """At the last call queue what is sent last, and files refused before once more; then call it complete."""
        state = self.state
        if not (self.last_call and state.status_final) or state.complete:
            return False
        assert state.outcome is not None
        self.uploads.watch(state.outcome.status)
        if not self._closing:
            self._closing = True
            if self.run.log.exists():
                _hide_secrets_in(self.run.log)
                self.uploads.add([self.run.log.name])
            self.uploads.add([MODEL_FOLDER] if (self.run.path / MODEL_FOLDER / "MLmodel").is_file() else [])
            self.uploads.add([JOURNAL] if self.run.journal.exists() else [])
            self.uploads.add(what.removeprefix("file ") for what in state.refused if what.startswith("file "))
            return True
        if not state.pending:
            state.complete = True
            state.save()
        return False


def _hide_secrets_in(log: Path) -> None:
    """Of what the trainer, its libraries and their exceptions have said; nobody writes to it any more."""
    text = log.read_text(encoding="utf-8", errors="surrogateescape")
    hidden = hide_secrets(text)
    if hidden != text:
        log.write_text(hidden, encoding="utf-8", errors="surrogateescape")


def _base_tags(record: dict[str, object], folder: Path) -> dict[str, str]:
    params, git = record["params"], record["git"]
    assert isinstance(params, dict)
    assert isinstance(git, dict)
    tags = {
        "mlflow.user": record["user"],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": record["command"],
        "mlflow.source.git.commit": git["commit"],
        "mlflow.source.git.branch": git["branch"],
        "encoder": params.get("encoder.name"),
        "dataset": params.get("data.dataset"),
        "spec_hash": record["spec_hash"],
        "group_hash": record["group_hash"],
        "git_commit": git["commit"],
        "git_dirty": str(git["dirty"]).lower() if git["commit"] else "",
        "host": record["host"],
        "saccade.folder": str(folder),
    }
    return {key: str(value) for key, value in tags.items() if value}
