"""`saccade runs rm`: a run's folder, and with `--tracked` the MLflow run too; never one that is at work."""

import os
import shutil

from saccade.amounts import bytes_text
from saccade.errors import RunError
from saccade.run_dir import RunDir
from saccade.runs.find import tracked_run
from saccade.runs.record import RunRecord
from saccade.tracking.shipment import Shipment
from saccade.tracking.shipping_state import ShippingState

__all__ = ["plan_text", "remove"]


def plan_text(record: RunRecord, *, tracked: bool) -> str:
    """What would be removed, and what would be lost with it, for the question.

    Raises:
        RunError: There is nothing to remove.
    """
    if record.run is None and not tracked:
        raise RunError(
            f"run {record.id} has no folder on this machine, it is only at {record.place}; "
            "give --tracked to delete it there"
        )
    parts = []
    if record.run is not None:
        size = sum(file.stat().st_size for file in record.run.path.rglob("*") if file.is_file())
        parts.append(f"{record.run.path} ({bytes_text(size)}){_unsent(record.run)}")
    if tracked:
        parts.append("the MLflow run (`mlflow gc` there frees its space)")
    return f"remove run {record.id} ({record.name}, {record.status}): " + " and ".join(parts)


def _unsent(run: RunDir) -> str:
    """A warning about what only the folder has."""
    state = ShippingState.load(run.path)
    if state is None:
        return ", which was never tracked: nothing else has it"
    if state.complete:
        return ""
    unsent = Shipment(run, state, state.tracking_uri, lambda _: None, attempt=None).unsent()
    return f", of which {unsent} are not on the server yet" if unsent else ""


def remove(record: RunRecord, *, tracked: bool) -> str:
    """Remove a run; what cannot be removed whole is left as it is.

    Returns:
        What was removed, in words.

    Raises:
        BusyError: The run is at work.
        RunError: The folder cannot be written to, or the server does not delete it.
    """
    if record.run is None:
        if record.status == "RUNNING":
            raise RunError(f"run {record.id} is RUNNING at {record.place}; stop it first")
        return _delete_tracked(record)
    run = record.run
    if run.path.is_symlink():
        raise RunError(f"{run.path}: is a link; remove it and what it points to by hand")
    for folder in (run.path, run.root):
        if not os.access(folder, os.W_OK):
            raise RunError(
                f"{folder}: cannot be written to, so run {run.id} stays as it is; ask its owner, or "
                "change its permissions"
            )
    with run.lock_supervisor(), run.lock():
        words = [_delete_tracked(record)] if tracked else []
        # In one stroke: a removal that is interrupted leaves no half of a run among the others.
        aside = run.root / f".{run.id}.removed"
        try:
            run.path.rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            raise RunError(
                f"{error.filename or run.path}: {error.strerror}; remove what is left of the run by hand"
            ) from None
    return " and ".join([*words, f"removed {run.path}"])


def _delete_tracked(record: RunRecord) -> str:
    there = tracked_run(record)
    if there is None:
        return "it was not tracked (any more)"
    assert there.reader is not None
    assert there.tracked is not None
    there.reader.delete(there.tracked)
    return f"deleted the MLflow run {there.tracked.mlflow_id} at {there.tracked.uri}"
