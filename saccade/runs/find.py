"""Runs by what people call them, here or on the tracking server; and lists of them."""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from saccade.errors import RunError
from saccade.run_dir import RunDir, list_runs, open_run
from saccade.runs.record import RunRecord, local_record, tracked_record
from saccade.tracking.address import with_credentials
from saccade.tracking.reader import NotARunError, Reader, open_reader
from saccade.tracking.shipping_state import ShippingState

__all__ = ["all_runs", "find_folder", "find_run", "find_runs", "tracked_run"]

_NEAREST = 3


def find_run(runs_root: Path, ref: str) -> RunRecord:
    """Find a run by its id, the unique beginning of one, its folder, its MLflow id, or its name if only one has it.

    What is on this machine comes first; then the server of $MLFLOW_TRACKING_URI, or the SQLite file, is asked.

    Raises:
        RunError: No run or more than one goes by it, or the server cannot be asked.
    """
    run = find_folder(runs_root, ref)
    if run is not None:
        return local_record(run)
    try:
        reader = open_reader(runs_root)
        found = reader.find(ref) if reader is not None else []
    except NotARunError:
        raise
    except RunError as error:
        raise RunError(f"no run '{ref}' in {runs_root}, and it cannot be looked for elsewhere: {error}") from None
    if reader is None or not found:
        raise _unknown(runs_root, ref, reader)
    if len(found) > 1:
        raise _ambiguous(ref, [each.run_id for each in found], reader.uri)
    return tracked_record(found[0], reader)


def find_runs(runs_root: Path, refs: Sequence[str]) -> list[RunRecord]:
    """Find several, each only once.

    Raises:
        RunError: As `find_run`.
    """
    found = {record.id: record for record in (find_run(runs_root, ref) for ref in refs)}
    return list(found.values())


def find_folder(runs_root: Path, ref: str) -> RunDir | None:
    """The same among the folders on this machine; None when none goes by it.

    Raises:
        RunError: More than one does, or a folder is given that is not one of a run.
    """
    folder = Path(ref).expanduser()
    if "/" in ref and folder.is_dir():
        return open_run(runs_root, ref)
    runs = {run.id: run for run in list_runs(runs_root)}
    if ref in runs:
        return runs[ref]
    beginning = [run_id for run_id in runs if ref and run_id.startswith(ref)]
    if len(beginning) > 1:
        raise _ambiguous(ref, beginning, str(runs_root))
    if beginning:
        return runs[beginning[0]]
    if re.fullmatch(r"[0-9a-f]{32}", ref):
        return next((run for run in runs.values() if _mlflow_id(run) == ref), None)
    named = [run for run in runs.values() if _name(run) == ref]
    if len(named) > 1:
        raise _ambiguous(ref, [run.id for run in named], str(runs_root))
    if not named and (folder / "run.json").exists():
        return open_run(runs_root, ref)
    return named[0] if named else None


def tracked_run(record: RunRecord) -> RunRecord | None:
    """What the server has of a run; None when it was never tracked, or is deleted there.

    Raises:
        RunError: The server cannot be read.
    """
    if record.run is None:
        return record
    state = ShippingState.load(record.run.path)
    if state is None or not state.mlflow_run_id:
        return None
    reader = open_reader(record.run.root, with_credentials(state.tracking_uri))
    found = reader.runs(f"attributes.run_id = '{state.mlflow_run_id}'") if reader is not None else []
    return tracked_record(found[0], reader) if reader is not None and found else None


def all_runs(
    runs_root: Path,
    *,
    experiment: str | None = None,
    status: str | None = None,
    limit: int = 100_000,
    here: bool = False,
    warn: Callable[[str], None] = print,
) -> list[RunRecord]:
    """Runs on this machine and on the server, each once, the newest first.

    Args:
        experiment: Only of the MLflow experiment of that name.
        status: Only of that status.
        limit: How many at most.
        here: Do not ask the server.
        warn: Takes a line about what could not be read: a damaged folder, a server that does not answer.
    """
    found: dict[str, RunRecord] = {}
    for run in reversed(list_runs(runs_root)):  # by id, so by time
        if len(found) >= limit:
            break
        try:
            record = local_record(run)
        except RunError as error:
            warn(str(error))
            continue
        if experiment in (None, record.experiment) and status in (None, record.status):
            found[record.id] = record
    if not here:
        try:
            reader = open_reader(runs_root)
            for tracked in reader.runs(experiment=experiment, status=status, limit=limit) if reader is not None else []:
                assert reader is not None
                found.setdefault(tracked.run_id, tracked_record(tracked, reader))
        except RunError as error:
            warn(str(error))
    return sorted(found.values(), key=lambda record: (record.created, record.id), reverse=True)[:limit]


def _unknown(runs_root: Path, ref: str, reader: Reader | None) -> RunError:
    runs = list_runs(runs_root)
    known = {run.id: run.id for run in runs} | {_name(run): run.id for run in runs}
    where = str(runs_root)
    if reader is not None:
        where += f" or at {reader.uri}"
        for tracked in reader.runs():
            known |= {tracked.run_id: tracked.run_id, tracked.name: tracked.run_id}
    names = [name for name in known if name]
    if not names:
        return RunError(
            f"no run '{ref}': there are no runs in {where}; give --runs FOLDER, or their server in MLFLOW_TRACKING_URI"
        )
    near = difflib.get_close_matches(ref, names, n=_NEAREST, cutoff=0.5)
    near = near or [name for name in names if ref and ref in name][-_NEAREST:]
    hint = f"did you mean {', '.join(near)}?" if near else f"the latest is {max(known.values())}"
    return RunError(f"no run '{ref}' in {where}; {hint}")


def _ambiguous(ref: str, found: Sequence[str], where: str) -> RunError:
    some = ", ".join(found[:_NEAREST]) + (", ..." if len(found) > _NEAREST else "")
    return RunError(f"'{ref}' stands for {len(found)} runs of {where}: {some}; give an id, or more of it")


def _name(run: RunDir) -> str:
    try:
        return str(run.record()["name"])
    except RunError:  # damaged: it still has its id
        return ""


def _mlflow_id(run: RunDir) -> str:
    try:
        state = ShippingState.load(run.path)
    except RunError:
        return ""
    return state.mlflow_run_id if state is not None else ""
