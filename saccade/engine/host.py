"""What this machine gives to a process: cores, memory and disk, also where a container's share is less than the host.

Nothing here is imported but the standard library, so that it costs a command no time.
"""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "briefly_spinning",
    "free_bytes",
    "memory_available_bytes",
    "process_age_sec",
    "resident_bytes",
    "usable_cores",
]

_CGROUP = Path("/sys/fs/cgroup")


def briefly_spinning(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for a process that trains, or measures training: how its threads wait for each other.

    Threads that spin for long stand still for seconds once another job wants their cores; those that never spin lose a
    third of their speed without one. Whoever has chosen is left alone.
    """
    ours = {} if "OMP_WAIT_POLICY" in environment else {"GOMP_SPINCOUNT": "10000"}
    return ours | dict(environment)


def usable_cores(cgroup: Path = _CGROUP) -> float:
    """Cores that this process may use at a time: those it is bound to, or a container's quota where that is less."""
    cores = float(len(os.sched_getaffinity(0)))
    for quota, period in (
        _words(cgroup / "cpu.max"),
        [*_words(cgroup / "cpu" / "cpu.cfs_quota_us")[:1], *_words(cgroup / "cpu" / "cpu.cfs_period_us")[:1]],
    ):
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores = min(cores, int(quota) / int(period))
    return cores


def memory_available_bytes(cgroup: Path = _CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that new work may take: what the host has to spare, or what a container's limit leaves; None: unknown."""
    found = [kib * 1024 for kib in [_field(meminfo, "MemAvailable:")] if kib is not None]
    for folder, most, used, cache in (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, now = _text(folder / most).strip(), _text(folder / used).strip()
        if limit.isdecimal() and now.isdecimal():
            # Files that were read count as used, and make room for whoever wants it.
            found.append(max(0, int(limit) - int(now) + (_field(folder / "memory.stat", cache) or 0)))
    return min(found, default=None)


def free_bytes(path: Path) -> int:
    """Free space for a user on the disk that `path` is on, or would be made on."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def process_age_sec() -> float:
    """Seconds since this process was started, the loading of Python and of all imports included."""
    started = int(_text(Path("/proc/self/stat")).rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def resident_bytes() -> int:
    """Memory of this process and its children now; what they share counts once."""
    return sum(_proportional_bytes(pid) for pid in (os.getpid(), *_children()))


def _children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in _text(task / "children").split()]


def _proportional_bytes(pid: int) -> int:
    return (_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") or 0) * 1024  # None: it has ended since it was listed


def _field(path: Path, name: str) -> int | None:
    """The number behind a name at the beginning of a line."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return None


def _words(path: Path) -> list[str]:
    words = _text(path).split()
    return words if len(words) == 2 else [*words, "", ""][:2]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
