"""All checks of `saccade doctor`, and their report."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from saccade.doctor import machine, places, software
from saccade.doctor.checks import BAD, WARN, Check, run_checks
from saccade.errors import RunError
from saccade.tracking.address import is_server, resolve_uri

__all__ = ["as_text", "examine", "verdict"]

_LIMIT_SEC = 75.0
"""More than what the slowest check allows itself."""
_SIGNS = {"ok": "OK  ", "warn": "warn", "bad": "BAD "}


def examine(runs_root: Path, tracking_uri: str | None, data: Path | None) -> list[Check]:
    """Look at everything.

    Args:
        runs_root: Folder of the runs, there or not.
        tracking_uri: Where to track; None: what the environment says, else the local file.
        data: Folder of datasets, or of one; None: only its disk is looked at.
    """
    groups: dict[str, Callable[[], Iterable[Check]]] = {
        "python": software.check_python,
        "packages": software.check_packages,
        "libraries": software.check_libraries,
        "cores": machine.check_cores,
        "memory": machine.check_memory,
        "shared memory": machine.check_shared_memory,
        "limits": machine.check_limits,
        "runs folder": partial(machine.check_writing, runs_root, database_there=_tracks_here(tracking_uri, runs_root)),
        "disk of runs": partial(machine.check_disk, "runs", runs_root),
        "disk of data": partial(machine.check_disk, "data", data or Path("data")),
        "disk of temporary files": partial(machine.check_disk, "temporary files", Path(tempfile.gettempdir())),
        "tracking": partial(places.check_server, tracking_uri, runs_root),
        "code": software.check_code,
        "clock": machine.check_clock,
    }
    if data is not None:
        groups["data"] = partial(places.check_data, data)
    return run_checks(groups, _LIMIT_SEC)


def _tracks_here(tracking_uri: str | None, runs_root: Path) -> bool:
    try:
        return not is_server(resolve_uri(tracking_uri, runs_root))
    except RunError:  # told by the check of the server
        return False


def as_text(checks: Sequence[Check]) -> str:
    """A line for each, its remedy below it, and the sum of it all."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{_SIGNS[check.state]}  {check.name.ljust(width)}  {check.found}")
        if check.remedy:
            lines.append(f"{' ' * (width + 8)}-> {check.remedy}")
    return "\n".join([*lines, "", verdict(checks)])


def verdict(checks: Sequence[Check]) -> str:
    """The sum of it all."""
    bad, warned = (sum(check.state == state for check in checks) for state in (BAD, WARN))
    if not bad and not warned:
        return "All is well."
    return f"{bad} bad, {warned} to be warned of, {len(checks) - bad - warned} well"
