"""The folder of a run, made again from what is tracked of it: so that it goes on where the folder is not.

What comes back is the spec, the records, all small artifacts, the latest tracked checkpoint, and the journal: its lines
as they were tracked with that checkpoint, and after these what the server has of later metrics. Those points stand, as
after every resume (`saccade.journal`), and are not logged again while the steps after the checkpoint are repeated.
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from saccade import atomic
from saccade.checksum import file_sha256
from saccade.errors import RunError
from saccade.journal import read_journal
from saccade.run_dir import BEST, EVALUATION, LAST, RunDir
from saccade.tracking.address import resolve_uri
from saccade.tracking.reader import Reader, TrackedRun, open_reader
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.system import SYSTEM_FILE
from saccade.tracking.uploads import CHECKPOINT_TAG, JOURNAL, MODEL_FOLDER

__all__ = ["restore_run", "stands_for_tracked_run"]

_ID = re.compile(r"[0-9a-f]{32}|\d{8}-\d{6}-[\w.-]+")
_CHECKPOINTS, _KEPT = "checkpoints/", re.compile(r"checkpoints/epoch_\d+\.pt")
_SYSTEM = "system/"


def stands_for_tracked_run(ref: str) -> bool:
    """Whether this may be the id of a run that is tracked somewhere: MLflow's, or ours."""
    return _ID.fullmatch(ref) is not None


def restore_run(runs_root: Path, ref: str, tracking_uri: str | None, *, say: Callable[[str], None]) -> RunDir:
    """Make the folder of a tracked run below `runs_root`.

    Args:
        runs_root: Folder of all runs.
        ref: Its MLflow run id, or its own id.
        tracking_uri: Where it is tracked; None or empty: $MLFLOW_TRACKING_URI, else the SQLite file below `runs_root`.
        say: Takes a line for the user.

    Raises:
        RunError: There is no such run, what is tracked of it is not enough, or the disk does not take it.
    """
    uri = resolve_uri(tracking_uri, runs_root)
    reader = open_reader(runs_root, uri)
    found = reader.find(ref) if reader is not None else []
    if reader is None or not found:
        where = reader.uri if reader is not None else "MLflow, which has no database there"
        raise RunError(
            f"no run '{ref}' in {runs_root} or at {where}; set tracking.uri or MLFLOW_TRACKING_URI to its server"
        )
    run = found[0]
    target = runs_root.absolute() / run.run_id
    if len(found) > 1 or not _ID.fullmatch(run.run_id):
        raise RunError(f"'{ref}' stands for {len(found)} runs at {reader.uri}; give the MLflow run id of one")
    if target.exists():
        raise RunError(f"{target}: is no complete folder of a run; move it away to have it made again from the server")
    if run.status == "RUNNING":
        say(f"saccade: {reader.uri} shows run {run.run_id} as running; make sure that no other machine trains it")
    work = target.with_name(f".restoring-{run.run_id}")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        checkpoint = _fetch(reader, run, work, say)
        _make_state(reader, run, work)
        work.rename(target)
        atomic.sync(target.parent)
    except OSError as error:
        raise RunError(
            f"{error.filename or target}: {error.strerror}; the run cannot be brought here: make room, or "
            "give another --runs FOLDER"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    goes_on = f"goes on from {checkpoint}" if checkpoint else "begins anew, since no checkpoint of it is tracked"
    say(f"saccade: run {run.run_id} was brought here from {reader.uri}; it {goes_on}")
    return RunDir(target)


def _fetch(reader: Reader, run: TrackedRun, work: Path, say: Callable[[str], None]) -> str:
    """Download what a run needs; gives the checkpoint that it goes on from, if there is one."""
    there = reader.all_files(run)
    for name in ("run.json", "spec.yaml"):
        if name not in there:
            raise RunError(
                f"run {run.run_id}: {name} is not among its artifacts at {reader.uri}: never sent, or deleted there; "
                "use the machine that has the run's folder"
            )
    wanted = [name for name in there if not name.startswith((_CHECKPOINTS, f"{MODEL_FOLDER}/"))]
    for name in [*wanted, *(rolling for rolling in (EVALUATION, BEST) if rolling in there)]:
        reader.download(run, name, work)
    named = run.tags.get(CHECKPOINT_TAG, "")
    kept = sorted((name for name in there if _KEPT.fullmatch(name)), reverse=True)
    for name in dict.fromkeys([*([named] if named else []), *kept]):
        if name not in there:
            say(f"saccade: {name} is not at {reader.uri} any more; looking for one before")
            continue
        file = reader.download(run, name, work)
        if not _intact(file):
            say(f"saccade: {name} at {reader.uri} is damaged; looking for one before")
            file.unlink()
            continue
        if name != LAST:
            atomic.link_or_copy(file, work / LAST)
        return name
    return ""


def _intact(file: Path) -> bool:
    """Whether a checkpoint's own checksums are right."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _make_state(reader: Reader, run: TrackedRun, work: Path) -> None:
    """Complete the journals, and write down that all of it is on the server."""
    files = (file for file in work.rglob("*") if file.is_file())
    uploaded = {file.relative_to(work).as_posix(): file_sha256(file) for file in files}
    journal, system = work / JOURNAL, work / SYSTEM_FILE
    last: dict[str, int] = {}
    for event, _ in read_journal(journal):
        if event["kind"] == "metrics":
            last |= {key: max(event["step"], last.get(key, -1)) for key in event["values"]}
    keys = [key for key in run.metrics if not key.startswith(_SYSTEM)]
    _append(journal, reader, run, keys, last)
    _append(system, reader, run, [key for key in run.metrics if key.startswith(_SYSTEM)], {})
    length = journal.stat().st_size
    ShippingState(
        folder=work,
        tracking_uri=run.uri,
        experiment=run.experiment,
        experiment_id=run.experiment_id,
        mlflow_run_id=run.mlflow_id,
        offset=length,
        attempted=length,
        system_offset=system.stat().st_size,
        uploaded=uploaded,
    ).save()


def _append(path: Path, reader: Reader, run: TrackedRun, keys: Sequence[str], last: dict[str, int]) -> None:
    """Add the server's points of some metrics beyond the last steps to a journal, as lines of their own times."""
    lines: dict[tuple[int, int], dict[str, float]] = {}
    for key in keys:
        for t, step, value in reader.points(run, key):
            if step > last.get(key, -1):
                lines.setdefault((t, step), {})[key] = value
    with open(path, "ab") as file:
        for (t, step), values in sorted(lines.items()):
            line = json.dumps({"t": t, "kind": "metrics", "step": step, "values": values}) + "\n"
            file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
