"""Files of a run on their way to the server, one at a time.

A checkpoint is held by a link while it is hashed and sent, so that the trainer may replace it meanwhile, and the
journal goes before it, as long as it was at least when the checkpoint was taken: together with run.json, spec.yaml and
inputs/ that is what a run needs to go on where its folder is not (`saccade.tracking.restore`).
"""

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterable
from enum import Enum, auto
from pathlib import Path

from saccade import atomic
from saccade.checksum import file_sha256
from saccade.journal import read_journal
from saccade.run_dir import BEST, EVALUATION, LAST, RunDir
from saccade.tracking.errors import OutageError, RefusedError
from saccade.tracking.registry import register_version
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store

__all__ = ["CHECKPOINT_TAG", "JOURNAL", "MODEL_FOLDER", "ROLLING", "Uploads"]

MODEL_FOLDER = "model"
JOURNAL = "journal.jsonl"
CHECKPOINT_TAG = "saccade.checkpoint"
"""Tag of the MLflow run: the tracked checkpoint that a run goes on from."""
ROLLING = (LAST, EVALUATION, BEST)
"""Checkpoints that are replaced now and then, and tracked as seldom as `checkpoint.track_every_minutes` says."""
_CHECKPOINTS = "checkpoints/"
_HELD = ".shipping"
_BACKOFF_SEC = (1.0, 10.0)
_SLOWEST_BYTES_PER_SEC = 1e6
"""A line slower than this is as good as none."""

_Version = tuple[int, int, int]


class _Step(Enum):
    DONE = auto()
    MORE = auto()
    WAITS = auto()
    """For the journal."""


class Uploads:
    """What is to be uploaded is kept in shipping.json: `pending`, `uploaded`. Not thread-safe.

    Args:
        run: The run.
        state: Its shipping.json.
        say: Takes a line for the user.
        refuse: Takes what the server refuses for good, and why.
    """

    def __init__(
        self,
        run: RunDir,
        state: ShippingState,
        say: Callable[[str], None],
        refuse: Callable[[dict[str, str]], None],
    ) -> None:
        self._run, self._state, self._say, self._refuse = run, state, say, refuse
        self.trouble = ""
        """Why files could not be uploaded the last time."""
        self.journal_first = False
        """A checkpoint waits until what is in the journal is sent."""
        self.allowance_sec = 0.0
        """How long the file that is under way may take."""
        self._queue: list[tuple[str, str, _Version]] = []
        self._at, self._backoff = -math.inf, _BACKOFF_SEC[0]
        self._held: Path | None = None
        self._journal_end = 0
        self._journal_sent = False
        self._restart = -1
        minutes = run.record().get("track_every_minutes")
        self._every_sec: float | None = None if minutes is None else 60.0 * minutes
        self._rolled_at = dict.fromkeys(ROLLING, time.monotonic())
        self._rolled: dict[str, _Version] = {}

    def add(self, paths: Iterable[str]) -> None:
        """Queue files and folders, relative to the run's folder; those that roll have times of their own."""
        self._append(path for path in paths if path not in ROLLING)

    def _append(self, paths: Iterable[str]) -> None:
        # New objects, here and below: the supervisor saves the state from its own thread.
        self._state.pending = list(dict.fromkeys([*self._state.pending, *paths]))

    def watch(self, status: str = "") -> None:
        """Queue the rolling checkpoints that are new and due.

        Args:
            status: How the run has ended; empty while it goes on.
        """
        for name in ROLLING:
            version = _version(self._run.path / name)
            if version is not None and version != self._rolled.get(name) and self._due(name, status):
                self._append([name])

    def _due(self, name: str, status: str) -> bool:
        if self._every_sec is None:
            return False
        if status and name != BEST:
            # A finished run's last state is that of its last epoch, which is kept.
            return self._state.goes_on and not (status == "FINISHED" and name == LAST)
        if status:
            return True
        return time.monotonic() >= self._rolled_at[name] + self._every_sec

    def retry_now(self) -> None:
        """Forget how long uploads were to be put off."""
        self._at, self._backoff = -math.inf, _BACKOFF_SEC[0]

    def step(self, store: Store) -> bool:
        """Upload one file, or find out that the next in line needs no upload; False when there is none, or no luck."""
        state = self._state
        if not state.pending or time.monotonic() < self._at:
            return False
        path = state.pending[0]
        try:
            step = self._send(store, path)
        except RefusedError as error:
            self._refuse({f"file {path}": str(error)})
            step = _Step.DONE
            self._release()
        except OutageError as error:
            self.trouble = str(error)
            self._at = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, _BACKOFF_SEC[1])
            return False
        else:
            self.trouble = ""
            self._backoff = _BACKOFF_SEC[0]
            if step is _Step.DONE:
                state.refused = {what: why for what, why in state.refused.items() if what != f"file {path}"}
        finally:
            self.allowance_sec = 0.0
        if step is _Step.WAITS:
            return False
        if step is _Step.DONE:
            self._queue.clear()
            state.pending = [other for other in state.pending if other != path]
        state.save()
        return True

    def _send(self, store: Store, path: str) -> _Step:
        try:
            return self._send_readable(store, path)
        except PermissionError as error:
            # Unlike a full disk this does not pass by itself, and all that comes after would wait for it for ever.
            raise RefusedError(f"{error.filename or path} cannot be read or held: {error.strerror}") from None

    def _send_readable(self, store: Store, path: str) -> _Step:
        if path == MODEL_FOLDER:
            self._upload_model(store)
            self._register_model(store)
            return _Step.DONE
        if path == JOURNAL:
            self._upload_journal(store)
            return _Step.DONE
        return self._send_checkpoint(store, path) if path.startswith(_CHECKPOINTS) else self._send_files(store, path)

    def _upload(self, store: Store, file: Path, name: str, digest: str) -> None:
        self.allowance_sec = file.stat().st_size / _SLOWEST_BYTES_PER_SEC
        store.upload(self._state.mlflow_run_id, file, name)
        self._state.uploaded = {**self._state.uploaded, name: digest}

    # Files that stay -------------------------------------------------------------------------------------------------

    def _send_files(self, store: Store, path: str) -> _Step:
        """Upload the next changed file of an announced path."""
        if not self._queue:
            files = [(name, self._run.path / name) for name in self._files_of(path)]
            found = [(name, file_sha256(file), _version(file) or (0, 0, 0)) for name, file in files]
            self._queue = [item for item in found if self._state.uploaded.get(item[0]) != item[1]]
            if not self._queue:
                return _Step.DONE
        name, digest, version = self._queue[0]
        self._upload(store, self._run.path / name, name, digest)
        self._queue.pop(0)
        if _version(self._run.path / name) != version:  # What was sent may be half of each: look at it again.
            self._state.uploaded = {other: sent for other, sent in self._state.uploaded.items() if other != name}
            self._queue.clear()
            return _Step.MORE
        return _Step.MORE if self._queue else _Step.DONE

    def _files_of(self, path: str) -> list[str]:
        root = self._run.path.resolve()
        target = (root / path).resolve()
        if root not in target.parents:
            raise RefusedError("it is not inside the run's folder")
        if target.is_file():
            return [path]
        files = [file for file in sorted(target.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        if not files:
            raise RefusedError("it is gone from the run's folder")
        return [file.relative_to(root).as_posix() for file in files]

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _send_checkpoint(self, store: Store, name: str) -> _Step:
        """Hold it, send the journal as it was by then, then the file, then say that the run can go on from it."""
        if self._held is None:
            source = self._run.path / name
            version = _version(source)
            if version is None:
                if name in ROLLING:  # removed by hand, to start over
                    return _Step.DONE
                raise RefusedError("it is gone from the run's folder")
            self._rolled[name] = version
            self._rolled_at[name] = time.monotonic()
            self._held = self._hold(source)
            self._journal_end = max((end for _, end in read_journal(self._run.journal, self._state.offset)), default=0)
            self._journal_sent = False
        # A trainer that has just begun may have cut what was there.
        self.journal_first = self._state.offset < self._journal_end and self._unsent()
        if self.journal_first:
            return _Step.WAITS
        if not self._journal_sent:
            self._upload_journal(store)
            self._journal_sent = True
            return _Step.MORE
        digest = file_sha256(self._held)
        # The last rolling one and that of a kept epoch are often the same.
        there = [other for other, sent in self._state.uploaded.items() if sent == digest and other != BEST]
        if name not in there and (name != LAST or not there):
            self._upload(store, self._held, name, digest)
            there = [name]
        taken = self._held.stat().st_mtime_ns
        if name not in (BEST, EVALUATION) and taken >= self._restart:
            store.log(self._state.mlflow_run_id, [], {CHECKPOINT_TAG: name if name in there else there[0]})
            self._restart = taken
        self._release()
        return _Step.DONE

    def _unsent(self) -> bool:
        return next(read_journal(self._run.journal, self._state.offset), None) is not None

    def _hold(self, source: Path) -> Path:
        folder = self._run.path / _HELD
        shutil.rmtree(folder, ignore_errors=True)  # of one who was killed
        folder.mkdir()
        held = folder / source.name
        atomic.link_or_copy(source, held)
        return held

    def _release(self) -> None:
        if self._held is not None:
            shutil.rmtree(self._held.parent, ignore_errors=True)
        self._held, self.journal_first = None, False

    def _upload_journal(self, store: Store) -> None:
        """Upload the lines that are sent: what comes after them may still be cut by the trainer."""
        if not self._run.journal.exists():
            return
        with open(self._run.journal, "rb") as file:
            content = file.read(self._state.offset)
        digest = hashlib.sha256(content).hexdigest()
        if self._state.uploaded.get(JOURNAL) == digest:
            return
        folder = self._run.path / _HELD
        folder.mkdir(exist_ok=True)
        try:
            (folder / JOURNAL).write_bytes(content)
            self._upload(store, folder / JOURNAL, JOURNAL, digest)
        finally:
            (folder / JOURNAL).unlink(missing_ok=True)
            if self._held is None:
                shutil.rmtree(folder, ignore_errors=True)

    # The model -------------------------------------------------------------------------------------------------------

    def _upload_model(self, store: Store) -> None:
        state, folder = self._state, self._run.path / MODEL_FOLDER
        if not (folder / "MLmodel").is_file():
            raise RefusedError("it is gone from the run's folder")
        names = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "MLmodel"]
        digest = hashlib.sha256("".join(f"{file}\0{file_sha256(file)}\0" for file in names).encode()).hexdigest()
        sent = state.uploaded.get(MODEL_FOLDER)
        if sent == digest:
            return
        if sent is not None or not state.model_id:
            state.uploaded = {name: sent for name, sent in state.uploaded.items() if name != MODEL_FOLDER}
            state.model_id = store.open_model(state.experiment_id, state.mlflow_run_id)
            state.save()
        steps = (event["step"] for event, _ in read_journal(self._run.journal) if event["kind"] == "metrics")
        self.allowance_sec = sum(file.stat().st_size for file in names) / _SLOWEST_BYTES_PER_SEC
        store.send_model(state.model_id, state.mlflow_run_id, folder, max(steps, default=0))
        state.uploaded = {**state.uploaded, MODEL_FOLDER: digest}

    def _register_model(self, store: Store) -> None:
        """Make the model a version of a registered one, where the spec says so."""
        state, record = self._state, self._run.record()
        name = record.get("register_model")
        if not name or state.registered == state.model_id:
            return
        description = f"Encoder of run {self._run.id}, {record['name']}"
        version = register_version(store.client, name, state.model_id, state.mlflow_run_id, description)
        state.registered = state.model_id
        self._say(f"tracking: the model is version {version} of '{name}': models:/{name}/{version}")


def _version(file: Path) -> _Version | None:
    """What changes when a file does; None when there is none."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
