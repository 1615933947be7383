"""`saccade sweep` on one machine: starts the workers, shows the study, publishes it, and writes down the best.

Whoever runs the same command on another machine joins: the workers agree through the study's database alone.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import optuna

from saccade.errors import SpecError
from saccade.initial_weights import find_initial_weights
from saccade.spec_reader import expand_env
from saccade.sweep.best import best_names, write_confirmation
from saccade.sweep.ledger import STOP
from saccade.sweep.publish import Publisher, scores
from saccade.sweep.reader import read_sweep
from saccade.sweep.screen import Screen
from saccade.sweep.spec import Sweep
from saccade.sweep.standing import Standing, standing
from saccade.sweep.storage import Opened, if_there, open_study, patiently
from saccade.sweep.worker import Job, job_text
from saccade.tracking.address import resolve_uri
from saccade.tracking.sync import reconcile

__all__ = ["INTERRUPTED", "device_groups", "drive", "study_folder"]

INTERRUPTED = 130
_POLL_SEC, _PUBLISH_SEC, _CONNECT_SEC, _LAST_SEND_SEC = 1.0, 30.0, 15.0, 60.0
PUBLISHED = "saccade:published"
"""User attribute of a study: when some machine has last published it."""


def study_folder(runs_root: Path, sweep: Sweep) -> Path:
    """Where a study's files are on this machine."""
    return runs_root / "sweeps" / sweep.file.name


def drive(
    path: Path,
    overrides: Sequence[str],
    runs_root: Path,
    *,
    workers: int = 1,
    devices: Sequence[str] = (),
    command: Sequence[str] | None = None,
) -> int:
    """Begin, join or go on with a study until it is done.

    Args:
        path: The sweep spec.
        overrides: `--set`, of settings of this machine.
        runs_root: Folder of all runs.
        workers: How many trials run here at a time.
        devices: GPUs by the numbers of CUDA_VISIBLE_DEVICES, or groups of them (0+1), a worker for each; `workers` is
            not used then.
        command: The trainer, for tests.

    Returns:
        0 done, 130 interrupted, 1 when workers gave up, 2 when they met a user's mistake.

    Raises:
        SaccadeError: It cannot begin.
    """
    sweep = read_sweep(path, overrides)
    if command is None:
        _check_machine(sweep, runs_root)
    places: list[str | None] = [*device_groups(devices, sweep.start.engine.processes)] or [None] * workers
    threads = max(1, len(os.sched_getaffinity(0)) // len(places)) if len(places) > 1 else None
    job = Job(str(path), tuple(overrides), str(runs_root), threads, tuple(command) if command else None)
    screen = Screen(sweep, len(places))
    reconcile(runs_root, say=screen.say)
    crew = Crew(job, places, study_folder(runs_root, sweep), screen.say)
    with crew.signals():
        opened = patiently(lambda: open_study(sweep, runs_root), crew.stopping, screen.say)
        try:
            code, now = _Drive(sweep, opened, runs_root, crew, screen).run()
        finally:
            opened.close()
    if code == 0 and sweep.file.confirm_seeds and len(now.best) == 1:
        folder = study_folder(runs_root, sweep)
        confirmation = write_confirmation(folder, sweep, folder / "best.yaml")
        screen.say(f"sweep: the best spec with {sweep.file.confirm_seeds} further seeds")
        code = drive(confirmation, overrides, runs_root, workers=workers, devices=devices, command=command)
        _publish_confirmation(sweep, read_sweep(confirmation, overrides), runs_root, screen.say)
    return code


def device_groups(devices: Sequence[str], processes: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker, from groups such as 0+1, a GPU for each process of a trial.

    Raises:
        SpecError: They are no such groups, or of another size.
    """
    groups = [[name.strip() for name in group.split("+")] for group in devices]
    names = [name for group in groups for name in group]
    given = f"--devices {','.join(devices)}"
    if "" in names:
        raise SpecError(f"{given}: an empty name; give GPUs such as 0,1,2, or groups of them such as 0+1,2+3")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise SpecError(f"{given}: {repeated[0]} stands there more than once; give each GPU to one worker")
    for group in groups:
        if len(group) != processes:
            example = ",".join("+".join(str(first + i) for i in range(processes)) for first in (0, processes))
            raise SpecError(
                f"{given}: {'+'.join(group)} has {len(group)} GPU{'s' * (len(group) != 1)} for the {processes} of "
                f"engine.processes; give groups of {processes}, such as {example}"
            )
    return [",".join(group) for group in groups]


def _check_machine(sweep: Sweep, runs_root: Path) -> None:
    """Find out now what would make every trial fail here."""
    from saccade.datasets.layout import check_folder  # brings OpenCV

    check_folder(expand_env(sweep.start.data.root, "data.root"), sweep.start.data.dataset)
    find_initial_weights(sweep.start, runs_root)


def _publish_confirmation(sweep: Sweep, confirmation: Sweep, runs_root: Path, say: Callable[[str], None]) -> None:
    """Tell on the study's own pages how its best spec does with seeds that the search has not seen."""
    opened, confirmed = open_study(sweep, runs_root), open_study(confirmation, runs_root)
    try:
        values = [trial.value for trial in confirmed.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])]
        publisher = Publisher(sweep, opened, study_folder(runs_root, sweep), runs_root, _uri(sweep, runs_root), say)
        publisher.confirmed = tuple(value for value in values if value is not None)
        publisher.publish(status="FINISHED")
    finally:
        opened.close()
        confirmed.close()


def _nothing(text: str) -> None:
    """Trials have no lines of their own among those of their study."""


def _short(path: Path) -> str:
    with suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


def _uri(sweep: Sweep, runs_root: Path) -> str:
    return resolve_uri(expand_env(sweep.start.tracking.uri, "tracking.uri"), runs_root)


class Crew:
    """The worker processes, and what the user asks of them.

    Args:
        job: For each of them.
        places: CUDA_VISIBLE_DEVICES of each; None: whichever there are.
        folder: For their logs.
        say: Takes a line for the user.
    """

    def __init__(self, job: Job, places: Sequence[str | None], folder: Path, say: Callable[[str], None]) -> None:
        self._job, self._places, self._folder, self._say = job, places, folder, say
        self._processes: list[subprocess.Popen[bytes]] = []
        self._told = set[int]()
        self.stopping = threading.Event()
        """The user, or somebody on another machine, has asked for the end."""

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle signals within: the first stops the workers in good order, a second Ctrl-C kills them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopping.is_set() and number == signal.SIGINT:
            for process in self._processes:
                process.kill()
            return
        self.stop()

    def stop(self) -> None:
        """Ask the workers to stop their trainers, hand their trials back, and leave."""
        self.stopping.set()
        for process in self._processes:
            if process.poll() is None:
                process.terminate()

    def start(self) -> None:
        """Start the workers, each in a session of its own: Ctrl-C is for the driver to pass on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number, device in enumerate(self._places):
            environment = dict(os.environ) if device is None else {**os.environ, "CUDA_VISIBLE_DEVICES": device}
            with open(self.log(number), "ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "saccade.sweep.worker", job_text(self._job)],
                    stdin=subprocess.PIPE,  # ends when we do, whatever ends us
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                )
            self._processes.append(process)
        if self.stopping.is_set():  # The signal came meanwhile.
            self.stop()

    def log(self, number: int) -> Path:
        """Where a worker writes what it has to say."""
        return self._folder / f"worker-{socket.gethostname()}-{number}.log"

    def alive(self) -> bool:
        """Whether any worker is still there; one that is gone before its time is told of, once."""
        for number, process in enumerate(self._processes):
            code = process.poll()
            if code and number not in self._told:
                self._told.add(number)
                end = f"was killed by {signal.Signals(-code).name}" if code < 0 else self._last_line(number)
                self._say(f"sweep: worker {number} {end}")
        return any(process.poll() is None for process in self._processes)

    def _last_line(self, number: int) -> str:
        lines = self.log(number).read_text(encoding="utf-8", errors="replace").splitlines()
        return f"left: {lines[-1] if lines else 'without a word'} (see {self.log(number)})"

    def close(self) -> list[int]:
        """Wait for all; returns their exit codes."""
        codes = [process.wait() for process in self._processes]
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        return codes


class _Drive:
    """A study's time on this machine, from its beginning to its end or the user's Ctrl-C."""

    def __init__(self, sweep: Sweep, opened: Opened, runs_root: Path, crew: Crew, screen: Screen) -> None:
        self._sweep, self._opened, self._runs_root = sweep, opened, runs_root
        self._crew, self._screen = crew, screen
        folder = study_folder(runs_root, sweep)
        uri = _uri(sweep, runs_root)
        self._publisher = Publisher(sweep, opened, folder, runs_root, uri, screen.say)
        self._over = threading.Event()

    def run(self) -> tuple[int, Standing]:
        self._publisher.open(_CONNECT_SEC)
        ledger = self._opened.ledger
        patiently(lambda: ledger.ask_to_stop(False), self._crew.stopping, self._screen.say)
        if self._publisher.link:
            self._screen.say(f"sweep: {self._sweep.file.name} is tracked at {self._publisher.link}")
            self._screen.say(f"sweep: its trials side by side: {self._publisher.view}")
        self._crew.start()
        publishing = threading.Thread(target=self._publish, name="publisher", daemon=True)
        publishing.start()
        while self._crew.alive():
            self._look()
            time.sleep(_POLL_SEC)
        codes = self._crew.close()
        self._over.set()
        publishing.join()
        reconcile(self._runs_root, say=_nothing, budget_sec=_LAST_SEND_SEC)
        return self._end(codes)

    def _look(self) -> None:
        with if_there():
            self._screen.show(standing(self._sweep, self._opened.study))
            if not self._crew.stopping.is_set() and self._opened.study.user_attrs.get(STOP):
                self._screen.say("sweep: stopping, as saccade sweep stop has asked")
                self._crew.stop()

    def _publish(self) -> None:
        ledger = self._opened.ledger.copy()
        while not self._over.wait(_POLL_SEC):
            with if_there():
                if ledger.take_turn(PUBLISHED, _PUBLISH_SEC):
                    self._publisher.publish()
                    if not self._publisher.away:  # What trials could not send while it was
                        reconcile(self._runs_root, say=_nothing)

    def _end(self, codes: Sequence[int]) -> tuple[int, Standing]:
        now, hours = standing(self._sweep, self._opened.study), self._sweep.file.budget.hours
        left = self._opened.ledger.left(trials=now.total, hours=hours)
        at_work = now.counts()["running"] > 0
        now = self._publisher.publish(status=None if at_work else "KILLED" if left else "FINISHED")
        self._screen.show(now)
        for trial in now.best[:1]:
            self._screen.say(f"sweep: best so far: {scores(self._sweep, trial)} in trial {trial.number}")
        folder = study_folder(self._runs_root, self._sweep)
        for name in best_names(now)[:1]:
            self._screen.say(f"sweep: run it with: saccade run {_short(folder / name)}")
        if not left:
            name = self._sweep.file.name
            self._screen.say(f"sweep: {name} is done; its pictures and table are in {_short(folder)}")
            return 0, now
        code = 2 if codes and all(each == 2 for each in codes) else 1
        code = INTERRUPTED if self._crew.stopping.is_set() else code
        self._screen.say(f"sweep: not done; go on, here or on any machine, with: saccade sweep {self._sweep.path}")
        return code, now
