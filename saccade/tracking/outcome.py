"""How a run ended: its trainer's code and last words as a status, tags and an exit code."""

import re
import signal
import time
from pathlib import Path

from saccade.engine.stop import STOPPED
from saccade.journal import last_time_ms
from saccade.provenance import hide_secrets
from saccade.tracking.shipping_state import Outcome

__all__ = ["MISTAKE", "exit_code", "last_lines", "outcome", "time_of_end"]

MISTAKE = 2
"""Exit code of a trainer that a user's mistake has stopped."""
_TAIL_BYTES, _TAIL_LINES, _TAIL_CHARS = 65536, 40, 4000
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def time_of_end(journal: Path) -> int:
    """Now, unix ms; not before what the journal says, though the clock has been put back meanwhile."""
    return max(time.time_ns() // 1_000_000, last_time_ms(journal))


def last_lines(log: Path, offset: int) -> str:
    """The end of a log as plain text: no progress bars, no colours, no secrets, at most what a tag holds."""
    with open(log, "rb") as file:
        file.seek(max(offset, log.stat().st_size - _TAIL_BYTES))
        text = _ESCAPES.sub("", file.read().decode("utf-8", "replace"))
    # A bar is redrawn after a carriage return: only what follows the last one was left standing.
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    text = hide_secrets("\n".join([line for line in lines if line][-_TAIL_LINES:]))
    return text if len(text) <= _TAIL_CHARS else "..." + text[3 - _TAIL_CHARS :]


def outcome(code: int, asked: int | None, reason: str | None, tail: str, end_ms: int) -> Outcome:
    """The status of a run from its trainer's code (negative: the signal that killed it) and what it was asked for."""
    if code == 0:
        return Outcome(status="FINISHED", end_ms=end_ms, tags={})
    if asked is None and reason is not None and code in (STOPPED, -signal.SIGTERM):
        return Outcome(status="KILLED", end_ms=end_ms, tags={"saccade.ended": reason})
    if asked is not None or code in (STOPPED, -signal.SIGTERM):
        by = signal.Signals(asked if asked is not None else signal.SIGTERM).name
        return Outcome(status="KILLED", end_ms=end_ms, tags={"saccade.ended": f"stopped by {by}"})
    tags = {"saccade.ended": f"exit code {code}", "saccade.exit_code": str(code), "saccade.failure": tail}
    if code < 0:
        name = signal.Signals(-code).name
        tags |= {"saccade.ended": f"killed by {name}", "saccade.signal": name}
    return Outcome(status="FAILED", end_ms=end_ms, tags={key: value for key, value in tags.items() if value})


def exit_code(code: int, asked: int | None) -> int:
    """What `saccade run` exits with."""
    if code == 0:
        return 0
    if asked is not None:
        return 128 + asked
    if code in (STOPPED, -signal.SIGTERM):
        return STOPPED
    return MISTAKE if code == MISTAKE else 1
