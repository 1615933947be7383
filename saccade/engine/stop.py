"""Stopping a trainer in good order: a request is noted, and the loop leaves at its next safe place, or at once where
every place is safe (`StopRequest.at_once`), so that no clustering or slow disk keeps it from being gone in seconds.

Requests come as SIGTERM or SIGINT, or as the end of standard input when a supervisor holds the other end: the pipe
closes when the supervisor dies in whatever way, so a trainer never goes on unwatched. A byte in that pipe is the word
to begin: until it comes a trainer reads its libraries and touches nothing.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

__all__ = ["BEGIN", "STOPPED", "SUPERVISED_VARIABLE", "StopRequest", "Stopped"]

SUPERVISED_VARIABLE = "SACCADE_SUPERVISED"
"""Environment variable: "1" when standard input is a pipe that a supervisor holds open for as long as it lives."""
BEGIN = b"\n"
"""What the supervisor writes into that pipe, once for each process that reads it, when training may begin."""

STOPPED = 143
"""Exit code of a trainer that was asked to stop."""

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The run leaves early because somebody asked for it; its state is saved.

    No error, so that nobody who catches errors catches it.
    """


class StopRequest:
    """Whether the trainer was asked to stop."""

    def __init__(self) -> None:
        self._event, self._begun = threading.Event(), threading.Event()
        self._process = os.getpid()
        self._at_once, self._left = 0, False
        self.reason = ""
        self.alone = True
        """Nobody waits for this process: of several that train together none may leave before all have agreed."""

    @property
    def requested(self) -> bool:
        """True from the first request on."""
        return self._event.is_set()

    def check(self) -> None:
        """Leave if there was a request.

        Raises:
            Stopped: There was one.
        """
        if self.requested:
            raise Stopped(self.reason)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a request ends what is under way, wherever it is: for work that would be done anew all the same.

        Of k-means in faiss too, which looks for signals now and then. Not where a process is not `alone`.

        Raises:
            Stopped: There is or was a request.
        """
        if self.alone:
            self.check()
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1
        if self.alone:
            self.check()  # What is raised in a destructor or a callback gets lost.

    def while_waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; a request ends the wait for the next one at once."""
        iterator = iter(items)
        while True:
            with self.at_once():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def wait(self, timeout_sec: float) -> None:
        """Wait for a request, or that long."""
        self._event.wait(timeout_sec)

    def await_beginning(self) -> None:
        """Below a supervisor wait until it says that training may begin, or for a request."""
        if _supervised():
            self._begun.wait()

    def request(self, reason: str) -> None:
        """Ask for a stop; the first reason stays."""
        if not self.requested:
            self.reason = reason
            self._event.set()
            self._begun.set()

    def install(self) -> None:
        """Listen for signals and, below a supervisor, for the end of standard input. Main thread only."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        if _supervised():
            threading.Thread(
                target=self._watch, args=(sys.stdin.fileno(),), name="supervisor-watch", daemon=True
            ).start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked data worker inherits this handler, but is to end at once as it would have without it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.request(f"it was sent {signal.Signals(number).name}")
        if self._at_once and self.alone and not self._left:
            self._left = True  # Once: what is saved on the way out is not to be disturbed.
            raise Stopped(self.reason)

    def _watch(self, descriptor: int) -> None:
        if os.read(descriptor, len(BEGIN)):
            self._begun.set()
            # No more is read: what there may be is for other processes of the run, which share the pipe.
            ends = select.poll()
            ends.register(descriptor, 0)
            ends.poll()
        self.request("its supervisor ended")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # where `at_once` is heard of it


def _supervised() -> bool:
    return os.environ.get(SUPERVISED_VARIABLE) == "1"
