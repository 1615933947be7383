"""The thread that ships a run while it trains, and keeps trying for as long as it is let."""

import threading
import time
from collections.abc import Callable

from saccade.errors import RunError
from saccade.provenance import redact
from saccade.tracking.errors import DeniedError, OutageError, TrackingError, line
from saccade.tracking.shipment import Shipment
from saccade.tracking.shipping_state import LetGoError, Outcome

__all__ = ["PATIENCE_SEC", "Shipper"]

PATIENCE_SEC = 60.0
"""How long the rest is tried to be sent after training without anything getting through."""

_POLL_SEC = 0.5
_BACKOFF_SEC = (0.5, 10.0)
_SILENT_SEC = 5.0


class _DiskError(OutageError):
    """It is this machine's disk."""


class Shipper(threading.Thread):
    """Ships in the background. A daemon: a request that hangs does not keep the program from ending.

    Args:
        shipment: What to ship; not touched by others once the thread runs.
        say: Takes a line for the user; called from the thread.
        insist: Go on though the very first request got no answer.
    """

    def __init__(self, shipment: Shipment, say: Callable[[str], None], *, insist: bool = True) -> None:
        super().__init__(name="shipper", daemon=True)
        self._shipment, self._say = shipment, say
        self._wake, self._left = threading.Event(), threading.Event()
        self._first_answer = threading.Event()
        self._progress = time.monotonic()
        self._away, self._insist = False, insist
        self.failure = ""
        """Why nothing more is sent by this thread, when that is so."""
        self.trouble: TrackingError | None = None
        """What went wrong with the latest request."""

    # For the supervisor ----------------------------------------------------------------------------------------------

    def wait_for_answer(self, seconds: float) -> bool:
        """Wait until the server has taken the run, or the first request has failed; False when neither came in time."""
        return self._first_answer.wait(seconds)

    def end(self, outcome: Outcome) -> None:
        """The trainer has ended: nothing of its journal can be cut any more, and the status is known."""
        self._shipment.state.outcome = outcome
        try:
            self._shipment.state.save()
        except OSError as error:  # The thread will try again with whatever it does next.
            self._say(f"tracking: the outcome cannot be written down yet: {error}")
        self._shipment.attempt = None
        self._hurry()

    def drain(self, patience_sec: float, interrupted: threading.Event, *, large_files: bool = True) -> bool:
        """Send the rest; True when all of it is on the server.

        Gives up after `patience_sec` in which nothing got through, or when `interrupted` is set.

        Args:
            patience_sec: As said.
            interrupted: As said.
            large_files: Be patient with a file for as long as it may take on a slow line.
        """
        self._shipment.last_call = True
        self._hurry()
        began = self._progress = time.monotonic()
        told = False
        while self.is_alive():
            self.join(0.1)
            now = time.monotonic()
            patience = patience_sec + (self._shipment.uploads.allowance_sec if large_files else 0.0)
            if interrupted.is_set() or now - self._progress > patience:
                break
            if not told and self.is_alive() and now - began > _SILENT_SEC:
                told = True
                self._say(
                    f"tracking: sending the rest ({self._shipment.unsent()}) to {redact(self._shipment.uri)}; "
                    f"giving up after {patience_sec:.0f} s without an answer, Ctrl-C leaves it for later"
                )
        return self._shipment.state.complete

    def leave(self) -> None:
        """Send nothing more; a request that is under way is not waited for, and what comes of it not written down.

        Whoever has the run next sends what was asked to be sent before this: MLflow has it once all the same. What was
        only about to be asked is not.
        """
        self._shipment.state.close()
        self._left.set()
        self._wake.set()

    def _hurry(self) -> None:
        self._shipment.uploads.retry_now()
        self._wake.set()

    # The thread ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Step until all is sent, it makes no sense any more, or `leave` was called."""
        backoff = _BACKOFF_SEC[0]
        while not self._left.is_set() and not self._shipment.state.complete:
            try:
                moved = self._shipment.step()
            except LetGoError:
                break
            except (OutageError, OSError) as error:
                self._note(error if isinstance(error, OutageError) else _DiskError(line(str(error))))
                if not self._insist:
                    break
                self._pause(backoff)
                backoff = min(2 * backoff, _BACKOFF_SEC[1])
                continue
            except (TrackingError, RunError) as error:
                self.trouble = error if isinstance(error, TrackingError) else None
                self.failure = str(error)
                self._say(f"tracking: nothing more is sent: {error}")
                break
            backoff, self._insist = _BACKOFF_SEC[0], True
            self._note(None)
            if moved:
                self._progress = time.monotonic()
            else:
                self._pause(_POLL_SEC)
        self._first_answer.set()

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _note(self, trouble: OutageError | None) -> None:
        first, disk = not self._first_answer.is_set(), isinstance(self.trouble, _DiskError)
        self.trouble = trouble
        self._first_answer.set()
        if trouble is not None and not self._away:
            # At the very first request the supervisor decides what to say: being refused entrance stops it.
            if not (first and isinstance(trouble, DeniedError)):
                what = f"cannot reach {redact(self._shipment.uri)}"
                if isinstance(trouble, _DiskError):
                    what = "cannot write down what is sent, so nothing is"
                self._say(f"tracking: {what} ({trouble}); nothing is lost: it is kept here until it can be sent")
            self._away = True
        elif trouble is None and self._away:
            self._away = False
            self._say("tracking: sending again" if disk else f"tracking: {redact(self._shipment.uri)} answers again")
