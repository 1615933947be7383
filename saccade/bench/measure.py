"""Times of functions side by side, and what they were measured on, as a table and as JSON."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

import cv2
import torch

from saccade.amounts import columns

__all__ = ["Report", "Row", "compare", "cpu_seconds", "one_thread", "own_seconds"]

_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "simplejpeg", "pillow")


@dataclass(frozen=True)
class Row:
    """A thing that was measured."""

    group: str
    """What it may be compared with: the rows of its group."""
    name: str
    value: float
    """Median of the rounds."""
    unit: str
    ratio: float | None
    """How many times as good as the baseline, the first of its group: median of the rounds' ratios."""
    rounds: tuple[float, ...]
    """Values of all rounds."""


@dataclass
class Report:
    """What a benchmark found."""

    benchmark: str
    settings: dict[str, object]
    rows: list[Row] = field(default_factory=list)
    machine: dict[str, object] = field(default_factory=lambda: _machine())

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def __str__(self) -> str:
        lines = [", ".join(f"{name} {value}" for name, value in self.machine.items())]
        lines.append(", ".join(f"{name} {value}" for name, value in self.settings.items()))
        for group in dict.fromkeys(row.group for row in self.rows):
            rows = [row for row in self.rows if row.group == group]
            cells = [(group, rows[0].unit, "x baseline" if any(row.ratio is not None for row in rows) else "")]
            cells += [(r.name, _number(r.value), "" if r.ratio is None else f"{r.ratio:.2f}") for r in rows]
            lines += ["", *columns(cells)]
        return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _machine() -> dict[str, object]:
    packages = " ".join(f"{name} {version(name)}" for name in _PACKAGES)
    load = os.getloadavg()[0]
    cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else len(os.sched_getaffinity(0))
    return {"processor": _processor(), "cores": cores, "load": round(load, 1), "python": platform.python_version()} | {
        "packages": packages
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch and OpenCV use one thread, so that CPU time is that of one core."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU time that this process spends on a call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def own_seconds(function: Callable[[], object]) -> float:
    """What a function that measures itself says."""
    seconds = function()
    assert isinstance(seconds, float)
    return seconds


def compare(
    group: str,
    functions: Mapping[str, Callable[[], object]],
    *,
    amount: float | Mapping[str, float],
    unit: str,
    rounds: int,
    baseline: bool = True,
    seconds: Callable[[Callable[[], object]], float] = cpu_seconds,
) -> list[Row]:
    """Measure functions in rounds in which each has its turn.

    Args:
        group: Of the rows.
        functions: What to call, by the names of the rows.
        amount: How much a call does, of each function when they differ.
        unit: Of the values: "<amount>/s", amount per second of CPU time, or "ms/<amount>".
        rounds: How often; one more before them does not count.
        baseline: The first function is one, for the others to be compared with.
        seconds: Time of a call.
    """
    amounts = amount if isinstance(amount, Mapping) else dict.fromkeys(functions, amount)
    speeds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            taken = seconds(function)
            if turn:
                speeds[name].append(amounts[name] / taken)
    first = next(iter(speeds))
    rows = []
    for name, found in speeds.items():
        ratios = [a / b for a, b in zip(found, speeds[first], strict=True)] if baseline and name != first else []
        values = [1e3 / speed for speed in found] if unit.startswith("ms/") else found
        rows.append(Row(group, name, median(values), unit, median(ratios) if ratios else None, tuple(values)))
    return rows
