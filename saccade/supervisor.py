"""`saccade run`: start the trainer, show its output, ship its journal, and say truthfully how it ended.

The trainer is a child process in a session of its own, so that Ctrl-C reaches the supervisor alone, which then asks the
trainer to stop. The trainer's standard input is a pipe from here: it ends when the supervisor dies in whatever way, and
the trainer stops as if asked to. The trainer reads its libraries while the tracking server is asked, which takes
seconds each, and begins when it is told to.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from saccade.console import Console, LogTail
from saccade.engine.child import begin, trainer_environment
from saccade.errors import RunError
from saccade.journal import last_attempt
from saccade.progress import TERMINAL_VARIABLE
from saccade.provenance import redact, strip_credentials
from saccade.run_dir import SHIPPING_FILE, BusyError, RunDir
from saccade.tracking.address import is_server, local_uri, resolve_uri, run_link, sqlite_file, with_credentials
from saccade.tracking.errors import DeniedError, GoneError, RefusedError
from saccade.tracking.model import ModelPackager
from saccade.tracking.outcome import MISTAKE, exit_code, last_lines, outcome, time_of_end
from saccade.tracking.shipment import Shipment
from saccade.tracking.shipper import PATIENCE_SEC, Shipper
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import PARENT_TAG
from saccade.tracking.system import SystemSampler
from saccade.tracking.views import STANDARD_VIEWS, view_link

__all__ = ["runs_option", "supervise"]

_CONNECT_SEC, _STOP_POLL_SEC = 10.0, 0.5
_LEAVE_SEC = 8.0
"""Who sends SIGTERM kills soon after (SLURM): what cannot be sent until then is left for later."""
_ROOM_BYTES = 1 << 20


class Signals:
    """What is asked of the supervisor: the first signal stops the trainer, a second Ctrl-C kills it.

    Args:
        say: Takes a line for the user.
        stop: Polled while the trainer runs: the reason to stop it, or None.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, say: Callable[[str], None], stop: Callable[[], str | None] | None = None) -> None:
        self._say, self._stop = say, stop
        self._trainer: subprocess.Popen[bytes] | None = None
        self._trained = False
        self.first: int | None = None
        """The first signal, None without one."""
        self.reason: str | None = None
        """What `stop` said."""
        self.after_end = threading.Event()
        """Nothing more is to be waited for: a signal came when no trainer was running, or SIGTERM some seconds ago."""

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals within; in another thread than the main one there are none to handle."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in self._NUMBERS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self, trainer: subprocess.Popen[bytes]) -> int:
        """Wait for the trainer's end, passing requests on to it; returns its code as `subprocess` does."""
        self._trainer = trainer
        if self.first is not None:  # It came while the trainer was being started.
            trainer.terminate()
        while self._stop is not None and trainer.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                trainer.wait(_STOP_POLL_SEC)
            if self.reason is None and self.first is None:
                self.reason = self._stop()
                if self.reason is not None:
                    trainer.terminate()
        code = trainer.wait()
        self._trainer, self._trained = None, True
        return code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, trainer = self.first is not None, self._trainer
        self.first = self.first or number
        if number == signal.SIGTERM and not again:
            patience = threading.Timer(_LEAVE_SEC, self.after_end.set)
            patience.daemon = True
            patience.start()
        if trainer is None:
            if self._trained:
                self.after_end.set()
        elif not again:
            trainer.terminate()
            self._say("saccade: stopping after the step that is under way; Ctrl-C again kills it at once")
        elif number == signal.SIGINT:
            trainer.kill()


def supervise(
    run: RunDir,
    *,
    resume: bool,
    tracking_uri: str | None,
    experiment: str,
    command: Sequence[str] | None = None,
    patience_sec: float = PATIENCE_SEC,
    interrupted: threading.Event | None = None,
    tags: Mapping[str, str] | None = None,
    parent_run_id: str | None = None,
    stop: Callable[[], str | None] | None = None,
    quiet: bool = False,
    package: bool = True,
) -> int:
    """Train a run from its folder and track it.

    Args:
        run: Made by `create_run`; for a resume brought up to date by `update_run`.
        resume: The run has been started before, and goes on in the same MLflow run.
        tracking_uri: MLflow server or database; None or empty: $MLFLOW_TRACKING_URI, else a file beside the run.
        experiment: MLflow experiment; for a resume the run's own counts.
        command: The trainer, for tests; its last argument will be the run's folder.
        patience_sec: How long to try to send the rest afterwards without anything getting through.
        interrupted: Is set when a signal came, also where the run has finished all the same.
        tags: More tags for the MLflow run; those of an earlier attempt stay.
        parent_run_id: MLflow run below which the MLflow UI shows this one.
        stop: Asked about twice a second, while the trainer runs, for the reason to stop it; None: go on. A run that is
            stopped so ends as KILLED, with the reason as its tag saccade.ended.
        quiet: Nothing on the terminal: what would be said goes to the run's supervisor.log.
        package: Track the encoder of a finished run as an MLflow model too, which takes many seconds.

    Returns:
        The exit code: 0 finished, 2 a user's mistake in the trainer, 129 / 130 / 143 stopped by SIGHUP / Ctrl-C /
        SIGTERM (143 by `stop` too), 1 failed otherwise. Tracking that is away changes none of them.

    Raises:
        BusyError: Another process is at work on it.
        RunError: It cannot be started, or not be tracked as asked for.
    """
    console = Console(run.path / "supervisor.log" if quiet else None)
    with run.lock_supervisor():
        if run.trainer_lives():
            raise BusyError(f"run {run.id}: its trainer from before is still saving and stopping; try again soon")
        state, uri = _state(run, resume, tracking_uri, experiment, console)
        state.package = package
        state.tags |= {**(tags or {}), **({PARENT_TAG: parent_run_id} if parent_run_id else {})}
        shipment = Shipment(run, state, uri, console.say, attempt=last_attempt(run.journal) + 1)
        signals = Signals(console.say, stop)
        console.say(f"saccade: run {run.id} in {_short(run.path)}")
        with signals.handled():
            code, asked, complete = _attempt(run, command, shipment, signals, console, patience_sec, fresh=not resume)
        _report(run, shipment, console, complete=complete, code=code)
    if interrupted is not None and signals.first is not None:
        interrupted.set()
    return exit_code(code, asked)


def _attempt(
    run: RunDir,
    command: Sequence[str] | None,
    shipment: Shipment,
    signals: Signals,
    console: Console,
    patience_sec: float,
    *,
    fresh: bool,
) -> tuple[int, int | None, bool]:
    """The trainer's exit code, the signal that asked it to stop, and whether all has been sent."""
    state, shipper = shipment.state, Shipper(shipment, console.say)
    # A file of ours that is still to be made cannot say no, and MLflow takes seconds to make its tables.
    new_file = shipment.uri == local_uri(run.root) and not _exists(shipment.uri)
    trainer, offset = _start(run, command, console)  # first: it has the most to read
    shipper.start()
    try:
        _await_tracking(run, shipper, signals, fresh=fresh, patience_sec=0.0 if new_file else _CONNECT_SEC)
        where = _link(shipment) or f"{redact(shipment.uri)}, experiment '{state.experiment}'"
        console.say(f"saccade: tracked at {where}")
        packager = ModelPackager(run) if state.package else None
        try:
            code, tail = _train(run, trainer, offset, console, signals)
            asked, state.goes_on = signals.first, signals.reason is None
            shipper.end(outcome(code, asked, signals.reason, tail, time_of_end(run.journal)))
            if code == 0 and packager is not None:
                _package(packager, console, signals)
        finally:
            if packager is not None:
                packager.give_up()
        return code, asked, shipper.drain(patience_sec, signals.after_end)
    finally:
        _end(trainer)
        shipper.leave()


def _state(
    run: RunDir, resume: bool, tracking_uri: str | None, experiment: str, console: Console
) -> tuple[ShippingState, str]:
    """The run's shipping state, ready for another attempt, and the address to ship to."""
    uri = resolve_uri(tracking_uri, run.root)
    state = ShippingState.load(run.path) if resume else None
    if state is None:
        state = ShippingState(folder=run.path, tracking_uri=strip_credentials(uri), experiment=experiment)
    if state.tracking_uri != strip_credentials(uri):
        console.say(f"saccade: the run goes on where it is tracked, at {state.tracking_uri}, not at {redact(uri)}")
    uri = with_credentials(state.tracking_uri, uri)
    state.outcome, state.status_final, state.complete = None, False, False
    # Lines beyond were done with without anything being sent for them: the trainer may cut them.
    state.offset = min(state.offset, state.attempted)
    try:
        state.save()
    except OSError as error:
        raise RunError(f"{run.path}: {error.strerror}; a run needs a folder that can be written to") from None
    return state, uri


def _exists(uri: str) -> bool:
    file = sqlite_file(uri)
    return file is not None and file.exists()


def _await_tracking(run: RunDir, shipper: Shipper, signals: Signals, *, fresh: bool, patience_sec: float) -> None:
    """Give the server a moment to say no: a wrong password or a deleted experiment is better known before training.

    Raises:
        RunError: It said no.
    """
    deadline = time.monotonic() + patience_sec
    while not shipper.wait_for_answer(0.1) and time.monotonic() < deadline and signals.first is None:
        pass
    trouble = shipper.trouble
    if not isinstance(trouble, DeniedError | RefusedError | GoneError):
        return
    if fresh:  # Nothing came of the run, so there is nothing to put right later.
        with suppress(OSError):
            (run.path / SHIPPING_FILE).unlink()
    hint = ""
    if isinstance(trouble, DeniedError):
        hint = "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    elif isinstance(trouble, GoneError) and not fresh:
        hint = f"; restore it there, or remove {_short(run.path / SHIPPING_FILE)} to track it in a new MLflow run"
    raise RunError(f"cannot track run {run.id}: {trouble}{hint}")


def _start(run: RunDir, command: Sequence[str] | None, console: Console) -> tuple[subprocess.Popen[bytes], int]:
    """Start the trainer, which waits for the word to begin; it, and where in the log its output starts."""
    with open(run.log, "ab") as log:
        offset = log.tell()
        trainer = subprocess.Popen(
            [*(command or _trainer_command(run)), str(run.path)],
            bufsize=0,  # What a dead trainer did not read would be written once more when the pipe is closed.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_trainer_environment(console),
        )
    return trainer, offset


def _train(
    run: RunDir, trainer: subprocess.Popen[bytes], offset: int, console: Console, signals: Signals
) -> tuple[int, str]:
    """Let the trainer run to its end; returns its code as `subprocess` does, and the end of what it wrote."""
    if signals.first is not None:
        return -signals.first, ""
    tail, sampler = LogTail(run.log, offset, console), _sampler(run, trainer.pid, console)
    tail.start()
    begin(trainer, run.record().get("processes", 1))
    try:
        code = signals.wait(trainer)
    finally:
        if sampler is not None:
            sampler.finish()
        _end(trainer)
        tail.finish()
    return code, last_lines(run.log, offset)


def _end(trainer: subprocess.Popen[bytes]) -> None:
    """Make sure that nothing of the trainer is left, whether or not it has begun."""
    assert trainer.stdin is not None
    if trainer.stdin.closed:
        return
    if trainer.poll() is None:
        trainer.terminate()
        trainer.wait()
    with suppress(OSError):
        os.killpg(trainer.pid, signal.SIGKILL)  # Data workers that a killed trainer left behind
    trainer.stdin.close()


def _trainer_command(run: RunDir) -> tuple[str, ...]:
    """One process, or torchrun with several; a run from before there could be several does not say."""
    processes = run.record().get("processes", 1)
    if processes == 1 and "PET_NNODES" not in os.environ:  # torchrun's variable, of a run on several machines
        return (sys.executable, "-m", "saccade.runner")
    return (sys.executable, "-m", "saccade.engine.torchrun", str(processes))


def _sampler(run: RunDir, pid: int, console: Console) -> SystemSampler | None:
    """A running sampler of the machine, if the run is to have one."""
    every_sec = run.record().get("system_metrics_sec")
    if every_sec is None:
        return None
    sampler = SystemSampler(run.path, pid, every_sec, console.say)
    sampler.start()
    return sampler


def _trainer_environment(console: Console) -> dict[str, str]:
    shown = {TERMINAL_VARIABLE: "1", "COLUMNS": str(console.columns)} if console.columns else {}
    return trainer_environment() | shown


def _package(packager: ModelPackager, console: Console, signals: Signals) -> None:
    trouble = packager.finish(signals.after_end)
    if trouble:
        console.say(f"saccade: the MLflow model could not be made: {trouble}; encoder/ holds the encoder")


def _report(run: RunDir, shipment: Shipment, console: Console, *, complete: bool, code: int) -> None:
    """Say how the run ended, where to see it and how to go on."""
    state = shipment.state
    assert state.outcome is not None
    go_on = f"go on with: saccade run --resume {run.id}{runs_option(run)}"
    if state.outcome.status == "FINISHED":
        see = f"at {_link(shipment) or redact(shipment.uri)}"
        if shipment.uri == local_uri(run.root):
            see = f"with: saccade ui{runs_option(run)}"
        console.say(f"saccade: run {run.id} finished; see it {see}")
        for view in STANDARD_VIEWS if _link(shipment) else ():
            console.say(f"saccade: {view.name}: {view_link(shipment.uri, state.experiment_id, view)}")
    elif state.outcome.status == "KILLED":
        console.say(f"saccade: run {run.id} stopped; {go_on}")
    elif code != MISTAKE or "error: " not in state.outcome.tags.get("saccade.failure", ""):
        # Else its mistake has had its line, which says what to do.
        ended, place = state.outcome.tags["saccade.ended"], f"its output is in {_short(run.log)}"
        if shutil.disk_usage(run.path).free < _ROOM_BYTES:
            place = f"the disk that holds {_short(run.root)} is full: make room"
        console.say(f"saccade: run {run.id} failed ({ended}); {place}; {go_on}")
    if not complete:
        sync = f"saccade runs sync {run.id}{runs_option(run)}"
        console.say(f"saccade: not on the server yet: {shipment.unsent()}; send it with: {sync}")


def _link(shipment: Shipment) -> str:
    """The run's page on a server; empty for a database, or when the server has not answered yet."""
    state = shipment.state
    if not is_server(shipment.uri) or not state.mlflow_run_id:
        return ""
    return run_link(shipment.uri, state.experiment_id, state.mlflow_run_id)


def runs_option(run: RunDir) -> str:
    """What a command needs to be given to find a run: its folder of runs, where that is not the default one."""
    root = _short(run.root)
    return "" if root == "runs" else f" --runs {shlex.quote(root)}"


def _short(path: Path) -> str:
    """A path as one would type it here."""
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
