"""What a machine gives, also where a container's limits are below the host's."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saccade.engine import host


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8.0),
        ({"cpu.max": "max 100000\n"}, 8.0),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8.0),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
    ],
)
def test_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: float) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert host.usable_cores(write(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        ({}, 4096),
        ({"memory.max": "max", "memory.current": "1048576"}, 4096),
        # 1 GiB allowed, 800 MiB in use, 300 MiB of them files that were read
        (
            {
                "memory.max": str(1 << 30),
                "memory.current": str(800 << 20),
                "memory.stat": f"anon 5\ninactive_file {300 << 20}\n",
            },
            524,
        ),
        ({"memory/memory.limit_in_bytes": str(1 << 30), "memory/memory.usage_in_bytes": str(1 << 29)}, 512),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], mib: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16777216 kB\nMemAvailable:    4194304 kB\n")
    assert host.memory_available_bytes(write(tmp_path / "cgroup", files), meminfo) == mib << 20


def test_free_space_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    assert host.free_bytes(tmp_path / "a" / "b") == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.05)


def test_memory_of_children_counts_once() -> None:
    script = "import time; held = bytearray(b'x' * (64 << 20)); print('held', flush=True); time.sleep(60)"
    before = host.resident_bytes()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            assert 64 << 20 < host.resident_bytes() - before < 90 << 20
        finally:
            child.kill()
    assert host.resident_bytes() - before < 20 << 20


def test_age_of_this_process() -> None:
    before = host.process_age_sec()
    time.sleep(0.2)
    assert host.process_age_sec() - before == pytest.approx(0.2, abs=0.15)
    assert before < 3600 * 24
