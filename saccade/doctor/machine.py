"""Cores, memory, disks, limits and the clock: what lets a run die or crawl though its spec is right."""

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from saccade.amounts import bytes_text
from saccade.doctor.checks import BAD, OK, WARN, Check, State
from saccade.engine.host import free_bytes, memory_available_bytes, usable_cores

__all__ = [
    "check_clock",
    "check_cores",
    "check_disk",
    "check_limits",
    "check_memory",
    "check_shared_memory",
    "check_writing",
    "filesystem",
]

_GIB = 2**30
_NETWORKS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "lustre", "beegfs", "ceph")
_FILES_WANTED, _FILES_NEEDED = 1024, 256
_PROCESSES_WANTED = 256
_CLOCK_SEC = 2.0


def check_cores() -> Iterator[Check]:
    """Cores, and whether a run would start more threads than that."""
    cores, bound = usable_cores(), len(os.sched_getaffinity(0))
    if cores < bound:
        threads = max(1, int(cores))
        told = f"{cores:g} by the container's quota, but {bound} threads would be started, which wait for each other"
        yield Check("cores", WARN, told, f"set engine.threads={threads} and engine.workers to at most {threads}")
    else:
        yield Check("cores", OK, f"{cores:g}")


def check_memory() -> Iterator[Check]:
    """Memory that a run may take."""
    room = memory_available_bytes()
    if room is None:
        yield Check("memory", WARN, "cannot be found out", "look at /proc/meminfo")
        return
    state: State = BAD if room < _GIB else WARN if room < 4 * _GIB else OK
    remedy = "" if state == OK else "end other programs, or use a larger machine; saccade plan says what a run takes"
    yield Check("memory", state, f"{bytes_text(room)} to be had", remedy)


def check_shared_memory(shm: Path = Path("/dev/shm")) -> Iterator[Check]:
    """Where processes find each other, and several GPUs exchange their gradients; frames do not go through it."""
    if not shm.is_dir():
        yield Check("shared memory", BAD, f"{shm} is not there", "set engine.workers=0, or mount a tmpfs there")
        return
    room = free_bytes(shm)
    state: State = WARN if room < _GIB else OK
    remedy = "" if state == OK else "to train on several GPUs (NCCL): docker run --shm-size=8g, or --ipc=host"
    yield Check("shared memory", state, f"{bytes_text(room)} free in {shm}", remedy)


def check_limits() -> Iterator[Check]:
    """Limits of the shell (ulimit)."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _FILES_WANTED:
        state: State = BAD if files < _FILES_NEEDED else WARN
        yield Check("open files", state, f"{files}, and loading processes want more", "ulimit -n 4096")
    else:
        yield Check("open files", OK, _limit_text(files))
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if processes != resource.RLIM_INFINITY and processes < _PROCESSES_WANTED:
        yield Check("processes", WARN, f"{processes}, threads included", "ulimit -u 4096")
    else:
        yield Check("processes", OK, _limit_text(processes))
    for name, limit, option in (
        ("size of a file", resource.RLIMIT_FSIZE, "f"),
        ("address space", resource.RLIMIT_AS, "v"),
    ):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            yield Check(name, WARN, f"limited to {bytes_text(most)}", f"ulimit -{option} unlimited")


def _limit_text(limit: int) -> str:
    return "no limit" if limit == resource.RLIM_INFINITY else f"up to {limit}"


def check_disk(name: str, path: Path) -> Iterator[Check]:
    """Free space where `path` is or will be, and what kind of disk it is."""
    room, kind = free_bytes(path), filesystem(path)
    state: State = BAD if room < _GIB else WARN if room < 10 * _GIB else OK
    remedy = "" if state == OK else "make room, or use a folder on another disk; saccade plan says what a run takes"
    yield Check(
        f"disk of {name}", state, f"{bytes_text(room)} free at {path} ({kind or 'unknown file system'})", remedy
    )


def filesystem(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Kind of the file system that `path` is on, or would be made on; empty if it cannot be found out."""
    wanted = path.absolute()
    best, kind = -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        words = line.split()
        point = words[1].replace("\\040", " ")
        # Of two mounts on one point the later one is on top.
        if len(point) >= best and wanted.is_relative_to(point):
            best, kind = len(point), words[2]
    return kind


def check_writing(runs_root: Path, *, database_there: bool) -> Iterator[Check]:
    """Whether runs can be written, and kept, where they are going to be.

    Args:
        runs_root: Folder of the runs, there or not.
        database_there: MLflow's SQLite file is in it.
    """
    folder = runs_root.absolute()
    while not folder.exists():
        folder = folder.parent
    kind = filesystem(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".saccade-doctor-") as file:
            now = time.time()
            os.utime(file.name)
            ahead = os.stat(file.name).st_mtime - now
    except OSError as error:
        told = f"cannot be written to ({error.strerror}): {folder}"
        yield Check(
            "runs folder", BAD, told, f"chown or chmod it, or give another one: --runs FOLDER (user id {os.getuid()})"
        )
        return
    if database_there and kind in _NETWORKS:
        told = f"{runs_root} is on {kind}, where SQLite files get damaged"
        yield Check("runs folder", WARN, told, "track at a server (saccade server), or keep runs on a local disk")
    elif kind == "overlay":
        told = f"{runs_root} is in a container's own layer, and is lost with the container"
        yield Check("runs folder", WARN, told, "mount a folder of the host there: docker run -v /HOST/runs:...")
    elif abs(ahead) > _CLOCK_SEC:
        told = f"the clock of the disk of {runs_root} is {ahead:+.0f} s off this machine's"
        yield Check("runs folder", WARN, told, "let both machines keep network time (NTP)")
    else:
        yield Check("runs folder", OK, f"{runs_root} can be written to")


def check_clock(year: int | None = None) -> Iterator[Check]:
    """Whether times will mean something.

    Args:
        year: By the clock; None: now.
    """
    now = datetime.now(UTC)
    if (year or now.year) < 2026:
        yield Check(
            "clock", BAD, f"{year or now.year}, which is over", "set the clock, or let it keep network time (NTP)"
        )
    else:
        yield Check("clock", OK, f"{now:%Y-%m-%d %H:%M} UTC")
