"""A run's folder: its name, its files, its record (run.json) and its locks.

runs/20261122-231905-toy-r3d-4f2a/
    spec.yaml  run.json  environment.txt  git.diff      how it came about, written before it starts
    inputs/  then/                                      weights to start from, specs that follow; likewise
    journal.jsonl  trainer.log  checkpoints/  clusters/  encoder/  classifiers/  tables/  figures/  summary.md
                                                        by the trainer
    shipping.json  system.jsonl  model/                 by the supervisor
    supervisor.log                                      by the supervisor of a run that is to say nothing
    trainer.lock  supervisor.lock                       held while one lives
"""

import difflib
import fcntl
import json
import os
import re
import secrets
import shlex
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from saccade import atomic
from saccade.errors import RunError
from saccade.journal import last_attempt
from saccade.provenance import environment_text, git_state, hide_secrets, machine, packages, strip_credentials
from saccade.run_record import parse_record
from saccade.spec import Spec
from saccade.spec_reader import dump_spec, flatten, group_hash, spec_hash
from saccade.strict_json import parse_object

__all__ = [
    "BEST",
    "EVALUATION",
    "LAST",
    "SHIPPING_FILE",
    "BusyError",
    "RunDir",
    "RunLock",
    "create_run",
    "list_runs",
    "open_run",
    "update_run",
    "without_credentials",
]

LAST = "checkpoints/last.pt"
"""The rolling checkpoint of pre-training."""
BEST = "checkpoints/best.pt"
"""That of the best validation."""
EVALUATION = "checkpoints/evaluation.pt"
"""The rolling checkpoint of what comes after pre-training."""
SHIPPING_FILE = "shipping.json"
"""What of a run is on the tracking server (`saccade.tracking.shipping_state`)."""

_SLUG_LENGTH = 40
_LOCK_ATTEMPTS, _LOCK_PAUSE_SEC = 5, 0.1
_open_locks: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


class BusyError(RunError):
    """A run that another process is at work on."""


class RunLock:
    """A lock on a run, gone with the process that holds it in whatever way it ends."""

    def __init__(self, path: Path, role: str, attempts: int = 1) -> None:
        self._path, self._descriptor = path, -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}; a run needs a folder that can be written to") from None
        if not _try_lock(descriptor, fcntl.LOCK_EX, attempts):
            holder = _read_holder(descriptor)
            os.close(descriptor)
            raise BusyError(f"run {path.parent.name} is being {role} by {holder}; stop it first")
        with suppress(OSError):  # It is the lock that counts; who holds it is for the message.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), **machine()}).encode(), 0)
        self._descriptor = descriptor
        _open_locks.add(self)

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _release_in_child() -> None:
    # A forked data worker shares the lock and would hold it for seconds after its trainer was killed.
    for lock in list(_open_locks):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)


def _try_lock(descriptor: int, kind: int, attempts: int = 1) -> bool:
    for attempt in range(attempts):
        if attempt:
            time.sleep(_LOCK_PAUSE_SEC)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            continue
    return False


def _read_holder(descriptor: int) -> str:
    try:
        holder = parse_object(os.pread(descriptor, 4096, 0), {"pid": int, "host": str})
        return f"pid {holder['pid']} on {holder['host'][:100]}"
    except (ValueError, KeyError):
        return "another process"


@dataclass(frozen=True)
class RunDir:
    """The folder of one run."""

    path: Path
    """Absolute."""

    @property
    def id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.path.name

    @property
    def root(self) -> Path:
        """The folder of all runs."""
        return self.path.parent

    @property
    def journal(self) -> Path:
        """What happened, line by line (`saccade.journal`)."""
        return self.path / "journal.jsonl"

    @property
    def log(self) -> Path:
        """All that the trainer wrote to its output."""
        return self.path / "trainer.log"

    def record(self) -> dict[str, Any]:
        """run.json.

        Raises:
            RunError: There is none, or it is damaged.
        """
        path = self.path / "run.json"
        try:
            return parse_record(path.read_bytes())
        except (OSError, ValueError) as error:
            why = str(error)[:200]
            raise RunError(f"{path}: cannot be read ({why}); it is not the folder of a run, or damaged") from None

    def lock(self) -> RunLock:
        """Take the trainer's lock, for as long as the process lives or until it is released.

        Raises:
            BusyError: Another process trains this run.
        """
        # More than one attempt: somebody may just be asking whether it is held.
        return RunLock(self.path / "trainer.lock", "trained", _LOCK_ATTEMPTS)

    def lock_supervisor(self) -> RunLock:
        """Take the lock of whoever ships this run and decides its status.

        Raises:
            BusyError: Another process does.
        """
        return RunLock(self.path / "supervisor.lock", "supervised")

    def trainer_lives(self) -> bool:
        """Whether some process holds the trainer's lock."""
        try:
            descriptor = os.open(self.path / "trainer.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def create_run(
    runs_root: str | Path, spec: Spec, argv: Sequence[str], follows: Mapping[str, str | int] | None = None
) -> RunDir:
    """Make the folder of a new run, with all that says how it came about.

    Args:
        runs_root: Folder of all runs; made when it is not there.
        spec: The resolved spec. Credentials in its tracking address are not written down.
        argv: The command line, program first.
        follows: For a run of a chain its `run` (the first one's id), `place` and `of`, as in "2 of 4".

    Raises:
        RunError: The folder cannot be made.
    """
    root = Path(runs_root).absolute()
    slug = re.sub(r"[^a-z0-9]+", "-", spec.name.lower()).strip("-")[:_SLUG_LENGTH].strip("-") or "run"
    try:
        root.mkdir(parents=True, exist_ok=True)
        while True:
            # UTC, so that names sort by time even where clocks are turned back in autumn.
            path = root / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{slug}-{secrets.token_hex(2)}"
            try:
                path.mkdir()
                break
            except FileExistsError:
                continue
        run = RunDir(path)
        _write_record(run, spec, argv, earlier=[], follows=follows)
    except OSError as error:
        raise RunError(
            f"{error.filename or root}: {error.strerror}; runs need a folder that can be written to"
        ) from None
    return run


def update_run(run: RunDir, spec: Spec, argv: Sequence[str]) -> None:
    """Write down how an existing run goes on: a spec with overrides, another commit, another machine.

    Files that change are kept as `<name>.attempt<n>.<suffix>`, n being the last attempt that they were true for.

    Raises:
        BusyError: The run is being trained or supervised.
        RunError: The folder is damaged or cannot be written to.
    """
    record = run.record()
    then = {key: record.get(key) for key in ("started", "command", "git", "host", "user", "python")}
    try:
        with run.lock_supervisor(), run.lock():
            earlier = [*record.get("earlier", []), then]
            _write_record(run, spec, argv, earlier=earlier, created=record["created"], follows=record.get("follows"))
    except OSError as error:
        raise RunError(f"{run.path}: {error.strerror}; a run needs a folder that can be written to") from None


def _write_record(
    run: RunDir,
    spec: Spec,
    argv: Sequence[str],
    *,
    earlier: list[dict[str, Any]],
    created: str | None = None,
    follows: Mapping[str, str | int] | None,
) -> None:
    spec = without_credentials(spec)
    git, now = git_state(), datetime.now(UTC).isoformat(timespec="milliseconds")
    for name, text in (("spec.yaml", dump_spec(spec)), ("environment.txt", environment_text()), ("git.diff", git.diff)):
        _write_keeping_old(run, name, text)
    words = [hide_secrets(word) for word in argv]
    record = {
        "id": run.id,
        "name": spec.name,
        "created": created or now,
        "started": now,
        "command": shlex.join([Path(words[0]).name, *words[1:]]) if words else "",
        "argv": words,
        "folder": os.getcwd(),
        **machine(),
        "git": git.summary(),
        "packages": packages(),
        # Kept as plain values, so that a run can be shipped after the spec has grown other keys.
        "track_every_minutes": spec.checkpoint.track_every_minutes,
        "system_metrics_sec": spec.tracking.system_metrics_sec,
        "processes": spec.engine.processes,
        "register_model": spec.tracking.register_model,
        "params": {key: _param(value) for key, value in flatten(spec).items()},
        "spec_hash": spec_hash(spec),
        "group_hash": group_hash(spec),
        "follows": follows,
        "earlier": earlier,
    }
    atomic.write_text(run.path / "run.json", json.dumps(record, indent=1) + "\n")


def without_credentials(spec: Spec) -> Spec:
    """A spec as it may be written down: its tracking address without user and password."""
    tracking = spec.tracking.model_copy(update={"uri": strip_credentials(spec.tracking.uri)})
    return spec.model_copy(update={"tracking": tracking})


def _param(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _write_keeping_old(run: RunDir, name: str, text: str) -> None:
    path = run.path / name
    if path.exists():
        if path.read_text(encoding="utf-8", errors="replace") == text:
            return
        os.replace(path, path.with_name(f"{path.stem}.attempt{last_attempt(run.journal)}{path.suffix}"))
    atomic.write_text(path, text)


def list_runs(runs_root: str | Path) -> list[RunDir]:
    """All runs below a folder, oldest first."""
    try:
        with os.scandir(runs_root) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    root = Path(runs_root).absolute()
    return [RunDir(root / name) for name in names if (root / name / "run.json").exists()]


def open_run(runs_root: str | Path, ref: str) -> RunDir:
    """Find a run by its id, the unique beginning of one, its folder, or its MLflow run id.

    Raises:
        RunError: No run or more than one goes by it.
    """
    folder = Path(ref).expanduser()
    if ("/" in ref or (folder / "run.json").exists()) and folder.is_dir():
        if not (folder / "run.json").exists():
            raise RunError(
                f"{ref}: not the folder of a run: it has no run.json; give a folder such as runs/<id>, or an id"
            )
        return RunDir(folder.absolute())
    runs = {run.id: run for run in list_runs(runs_root)}
    if ref in runs:
        return runs[ref]
    beginning = [run_id for run_id in runs if ref and run_id.startswith(ref)]
    if len(beginning) == 1:
        return runs[beginning[0]]
    if beginning:
        raise RunError(f"'{ref}' is the beginning of {len(beginning)} runs: {_some(beginning)}; give more of it")
    if re.fullmatch(r"[0-9a-f]{32}", ref):
        for run in runs.values():
            if ref in _text_of(run.path / SHIPPING_FILE):
                return run
    if not runs:
        raise RunError(
            f"no run '{ref}': there are no runs in {runs_root}; give --runs FOLDER, or their server in "
            "MLFLOW_TRACKING_URI"
        )
    near = difflib.get_close_matches(ref, runs, n=3, cutoff=0.5) or [run for run in runs if ref and ref in run][-3:]
    hint = f"did you mean {_some(near)}?" if near else f"the latest is {list(runs)[-1]}"
    raise RunError(f"no run '{ref}' in {runs_root}; {hint}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
