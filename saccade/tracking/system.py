"""What a run takes of its machine, sampled beside the trainer and written to system.jsonl, whose lines are a journal's.

Names are those of MLflow's own system metrics where they mean the same, so the UI puts them on their page; steps count
samples, over all attempts.
"""

import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from saccade.engine.clock import SteadyTime
from saccade.journal import read_journal

__all__ = ["SYSTEM_FILE", "SystemSampler"]

SYSTEM_FILE = "system.jsonl"
_FIRST_SEC = 2.0
"""The first sample comes this soon, so that short runs have one."""
_MB = 1e6


class SystemSampler(threading.Thread):
    """Samples until `finish`, in a thread that takes some milliseconds a sample.

    Args:
        folder: The run's folder.
        pid: The trainer.
        every_sec: Time between two samples.
        say: Takes a line for the user, when nothing more can be written.
    """

    def __init__(self, folder: Path, pid: int, every_sec: float, say: Callable[[str], None]) -> None:
        super().__init__(name="system-sampler", daemon=True)
        self._path, self._pid, self._every_sec, self._say = folder / SYSTEM_FILE, pid, every_sec, say
        self._done = threading.Event()

    def run(self) -> None:
        """Sample."""
        try:
            step, after_ms = _continue(self._path)
            clock = SteadyTime(after_ms)
            with _Machine(self._pid, self._path.parent) as machine, open(self._path, "ab", buffering=0) as file:
                wait = min(_FIRST_SEC, self._every_sec)
                while not self._done.wait(wait):
                    content = {"kind": "metrics", "step": step, "values": machine.sample()}
                    line = json.dumps({"t": clock.now_ms(), **content}) + "\n"
                    file.write(line.encode())
                    step, wait = step + 1, self._every_sec
        except OSError as error:
            self._say(f"saccade: no more system metrics: {error}")

    def finish(self) -> None:
        """Write no more."""
        self._done.set()
        self.join()


def _continue(path: Path) -> tuple[int, int]:
    """Cut a torn last line off; number of the next sample, and the time of the last one, unix ms."""
    step, end, time_ms = 0, 0, 0
    for event, end in read_journal(path):  # noqa: B007
        step, time_ms = event["step"] + 1, event["t"]
    if path.exists():
        os.truncate(path, end)
    return step, time_ms


class _Machine:
    """What is sampled; a context manager, since the GPUs' library wants to be shut down."""

    def __init__(self, pid: int, folder: Path) -> None:
        import psutil

        self._psutil, self._folder, self._pid = psutil, folder, pid
        self._cpu_sec: dict[tuple[int, float], float] = {}
        self._at = time.monotonic()
        self._gpus: list[tuple[int, Any]] = []
        self._nvml: Any = None
        psutil.cpu_percent()  # From here on it counts.

    def __enter__(self) -> "_Machine":
        if importlib.util.find_spec("pynvml") is not None:
            import pynvml

            with suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                self._nvml = pynvml
                self._gpus = list(self._visible())
        return self

    def __exit__(self, *_: object) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()

    def _visible(self) -> Iterator[tuple[int, Any]]:
        """The GPUs that the trainer sees, by the numbers that it calls them."""
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(i) for i in range(self._nvml.nvmlDeviceGetCount())] if named is None else named.split(",")
        for number, name in enumerate(filter(None, (name.strip() for name in names))):
            with suppress(self._nvml.NVMLError):
                if name.isdigit():
                    yield number, self._nvml.nvmlDeviceGetHandleByIndex(int(name))
                else:
                    yield number, self._nvml.nvmlDeviceGetHandleByUUID(name)

    def sample(self) -> dict[str, float]:
        """Metrics and their values now."""
        memory, disk = self._psutil.virtual_memory(), self._psutil.disk_usage(str(self._folder))
        values = {
            "system/cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / _MB,
            "system/system_memory_usage_percentage": memory.percent,
            "system/disk_usage_percentage": disk.percent,
            "system/disk_available_megabytes": disk.free / _MB,
        }
        values |= self._trainer()
        for number, device in self._gpus:
            with suppress(self._nvml.NVMLError):
                values |= self._gpu(f"system/gpu_{number}_", device)
        return {name: round(value, 2) for name, value in values.items()}

    def _trainer(self) -> dict[str, float]:
        """The trainer with its data workers: 100 % is one core; memory that is shared counts once."""
        gone = (self._psutil.NoSuchProcess, self._psutil.AccessDenied)
        seconds, memory = dict[tuple[int, float], float](), 0.0
        with suppress(*gone):
            parent = self._psutil.Process(self._pid)
            for process in [parent, *parent.children(recursive=True)]:
                with suppress(*gone):
                    times = process.cpu_times()
                    seconds[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_full_info().pss
        used = sum(now - self._cpu_sec.get(process, 0.0) for process, now in seconds.items())
        elapsed = time.monotonic() - self._at
        self._cpu_sec, self._at = seconds, self._at + elapsed
        if not memory:  # It has ended, and at most waits to be taken note of.
            return {}
        return {
            "system/trainer_cpu_percentage": 100 * used / elapsed,
            "system/trainer_memory_megabytes": memory / _MB,
        }

    def _gpu(self, prefix: str, device: Any) -> dict[str, float]:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        values = {
            f"{prefix}utilization_percentage": nvml.nvmlDeviceGetUtilizationRates(device).gpu,
            f"{prefix}memory_usage_megabytes": memory.used / _MB,
            f"{prefix}memory_usage_percentage": 100 * memory.used / memory.total,
        }
        with suppress(nvml.NVMLError):  # Some do not know their power.
            values[f"{prefix}power_usage_watts"] = nvml.nvmlDeviceGetPowerUsage(device) / 1000
        return values
