"""Runs whose supervisor could not finish its work: sent later, and given the status that they deserve."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from saccade.errors import RunError
from saccade.journal import read_journal
from saccade.provenance import strip_credentials
from saccade.run_dir import BusyError, RunDir, list_runs, open_run
from saccade.tracking.address import resolve_uri, with_credentials
from saccade.tracking.errors import GoneError, OutageError
from saccade.tracking.model import package_model
from saccade.tracking.shipment import Shipment
from saccade.tracking.shipper import PATIENCE_SEC, Shipper
from saccade.tracking.shipping_state import Outcome, ShippingState

__all__ = ["reconcile", "sync_run", "sync_runs"]

_RECONCILE_SEC = 10.0


def sync_runs(
    runs_root: str | Path,
    ref: str | None = None,
    *,
    tracking_uri: str | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """`saccade runs sync`: send what is left of one run, or of all; returns the exit code, 1 when something is left.

    Raises:
        RunError: The one run that was asked for cannot be sent.
    """
    left, sent = 0, 0
    for run in [open_run(runs_root, ref)] if ref is not None else list_runs(runs_root):
        try:
            state = ShippingState.load(run.path)
            if state is not None and state.complete and not _worth_another_try(state):
                continue
            unsent = sync_run(run, tracking_uri=tracking_uri, say=say)
        except BusyError as error:
            if ref is not None:
                raise
            say(f"run {run.id}: left to the process that is at work on it ({error})")
            continue
        except RunError as error:
            if ref is not None:
                raise
            unsent = str(error)
        say(f"run {run.id}: {'all is on the server' if not unsent else f'not sent: {unsent}'}")
        left, sent = left + bool(unsent), sent + (not unsent)
    if not left and not sent:
        say("nothing to send: all is on the server")
    return 1 if left else 0


def sync_run(
    run: RunDir,
    *,
    tracking_uri: str | None = None,
    say: Callable[[str], None] = print,
    patience_sec: float = PATIENCE_SEC,
) -> str:
    """Send what of a run is not on the server yet; files that were refused before are tried again.

    Args:
        tracking_uri: For a run that was never tracked, or to give credentials; else the run knows where it belongs.
        say: Takes a line for the user.
        patience_sec: How long to go on without anything getting through.

    Returns:
        What could not be sent, in words ("3 events, 1 file"); empty when all is there.

    Raises:
        RunError: The run is under way, its records are damaged, or the server does not take it.
    """
    with run.lock_supervisor():
        if run.trainer_lives():
            raise RunError(f"run {run.id}: its trainer is still at work; try again when it has stopped")
        state = ShippingState.load(run.path)
        if state is None:
            uri = resolve_uri(tracking_uri, run.root)
            experiment = run.record()["params"].get("tracking.experiment", "saccade")
            state = ShippingState(folder=run.path, tracking_uri=strip_credentials(uri), experiment=experiment)
        if state.complete and not _worth_another_try(state):
            return ""
        state.complete = False
        state.refused.pop("run", None)
        return _ship(run, state, with_credentials(state.tracking_uri, tracking_uri), say, patience_sec)[0]


def reconcile(
    runs_root: str | Path,
    *,
    say: Callable[[str], None] = print,
    budget_sec: float = _RECONCILE_SEC,
    skip: str = "",
) -> list[str]:
    """Put right what supervisors that died or found no server have left: send the rest, set the true status.

    Made to be called before other work: it never raises for an old run's sake, does nothing in a few milliseconds when
    there is nothing to do, and stops after `budget_sec`.

    Args:
        skip: Id of a run that is left alone, since it is about to go on.

    Returns:
        Ids of the runs that are complete now.
    """
    done, away, deadline = list[str](), set[str](), time.monotonic() + budget_sec
    for run in list_runs(runs_root):
        try:
            state = ShippingState.load(run.path) if run.id != skip else None
            if state is None or state.complete or state.tracking_uri in away or time.monotonic() > deadline:
                continue
            with run.lock_supervisor():
                if run.trainer_lives():
                    continue
                uri = with_credentials(state.tracking_uri)
                unsent, shipper = _ship(run, state, uri, say, max(1.0, deadline - time.monotonic()), once=True)
                if isinstance(shipper.trouble, GoneError):
                    _give_up(run, str(shipper.trouble))
            if not unsent:
                done.append(run.id)
                say(f"saccade: run {run.id} of before is tracked to its end now: {_status(state)}")
            elif isinstance(shipper.trouble, OutageError):
                away.add(state.tracking_uri)
        except BusyError:
            continue
        except (RunError, OSError) as error:
            say(f"saccade: run {run.id} of before could not be put right: {error}")
    return done


def _worth_another_try(state: ShippingState) -> bool:
    """Whether something was refused that may be taken now: files, or a run that was deleted. Bad names stay bad."""
    return any(what == "run" or what.startswith("file ") for what in state.refused)


def _give_up(run: RunDir, why: str) -> None:
    """A run that its owner has deleted in MLflow is not asked for again at every start; `runs sync` still tries."""
    state = ShippingState.load(run.path)
    if state is not None:
        state.refused, state.complete = {**state.refused, "run": why}, True
        state.save()


def _status(state: ShippingState) -> str:
    return state.outcome.status if state.outcome is not None else "?"


def _ship(
    run: RunDir,
    state: ShippingState,
    uri: str,
    say: Callable[[str], None],
    patience_sec: float,
    *,
    once: bool = False,
) -> tuple[str, Shipper]:
    if state.outcome is None:
        state.outcome = _outcome(run)
    state.save()
    if state.outcome.status == "FINISHED" and state.package and not (run.path / "model").exists():
        trouble = package_model(run, threading.Event())
        if trouble:
            say(f"saccade: the MLflow model of run {run.id} could not be made: {trouble}")
    shipment = Shipment(run, state, uri, say, attempt=None)
    shipper = Shipper(shipment, say, insist=False)
    shipper.start()
    try:
        complete = shipper.drain(patience_sec, threading.Event(), large_files=not once)
    finally:
        shipper.leave()
    if shipper.failure and not (once and isinstance(shipper.trouble, GoneError)):
        raise RunError(f"run {run.id} cannot be sent: {shipper.failure}; mend that and run the same again")
    return ("" if complete else shipment.unsent()), shipper


def _outcome(run: RunDir) -> Outcome:
    """How a run ended whose supervisor did not see it: as its journal says, if that says anything."""
    last, status = 0, ""
    for event, _ in read_journal(run.journal):
        last, status = event["t"], event.get("status", "")
    end_ms = last or round((run.path / "run.json").stat().st_mtime * 1000)
    if status == "finished":
        return Outcome(status="FINISHED", end_ms=end_ms, tags={})
    # "stopped", or no word at all: the trainer stopped or died with its supervisor.
    return Outcome(status="KILLED", end_ms=end_ms, tags={"saccade.ended": "supervisor died"})
