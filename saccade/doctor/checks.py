"""What a check finds, and how checks are made: all at a time, none of them for longer than a moment."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["BAD", "OK", "WARN", "Check", "State", "run_checks"]

State = Literal["ok", "warn", "bad"]
OK: State = "ok"
WARN: State = "warn"
BAD: State = "bad"


@dataclass(frozen=True)
class Check:
    """One line."""

    name: str
    """What was looked at."""
    state: State
    """ok; warn: works, but; bad: something will fail."""
    found: str
    remedy: str = ""
    """What to do about it; empty when nothing is to be done."""


def run_checks(groups: Mapping[str, Callable[[], Iterable[Check]]], limit_sec: float) -> list[Check]:
    """All checks, in the order of their groups; one that hangs (a dead network mount, say) is itself a finding.

    Args:
        groups: By what they look at.
        limit_sec: Time for all of them together.
    """
    found: dict[str, Sequence[Check]] = {}

    def look(name: str, group: Callable[[], Iterable[Check]]) -> None:
        found[name] = list(group())

    threads = {
        name: threading.Thread(target=look, args=(name, group), name=name, daemon=True)
        for name, group in groups.items()
    }
    for thread in threads.values():
        thread.start()
    until = threading.Event()
    timer = threading.Timer(limit_sec, until.set)
    timer.daemon = True
    timer.start()
    for thread in threads.values():
        while thread.is_alive() and not until.is_set():
            thread.join(0.05)
    timer.cancel()
    checks: list[Check] = []
    for name in groups:
        lost = Check(name, BAD, f"no answer within {limit_sec:g} s", "look for a network mount or a device that hangs")
        checks += found.get(name, [lost])
    return checks
