"""Stopping a trainer in good order: a request is noted, and the loop leaves at its next safe place.

Requests come as SIGTERM or SIGINT, or as the end of standard input when a supervisor holds the other end: the pipe
closes when the supervisor dies in whatever way, so a trainer never goes on unwatched.
"""

import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["SUPERVISED_VARIABLE", "StopRequest", "Stopped"]

SUPERVISED_VARIABLE = "SACCADE_SUPERVISED"
"""Environment variable: "1" when standard input is a pipe that a supervisor holds open for as long as it lives."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run leaves early because somebody asked for it; its state is saved."""


class StopRequest:
    """Whether the trainer was asked to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._process = os.getpid()
        self.reason = ""

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

    def wait(self, timeout_sec: float) -> None:
        """Wait for a request, or that long."""
        self._event.wait(timeout_sec)

    def request(self, reason: str) -> None:
        """Ask for a stop; the first reason stays."""
        if not self.requested:
            self.reason = reason
            self._event.set()

    def install(self) -> None:
        """Listen for signals and, below a supervisor, for the end of standard input. Main thread only."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        if os.environ.get(SUPERVISED_VARIABLE) == "1":
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

    def _watch(self, descriptor: int) -> None:
        while os.read(descriptor, 4096):
            pass
        self.request("its supervisor ended")
