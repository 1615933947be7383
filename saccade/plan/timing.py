"""Seconds of a piece of work, on the wall and of all its threads."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch

__all__ = ["Seconds", "median", "repeated", "timed"]

T = TypeVar("T")

_TIMES, _LONG_SEC = 3, 10.0


class Seconds(NamedTuple):
    """Of a piece of work in this process."""

    wall: float
    cpu: float
    """Summed over the threads."""


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, Seconds]:
    """What `work` returns, and its seconds, what it has left to a GPU included."""
    _wait_for(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    _wait_for(device)
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def repeated(work: Callable[[], object], device: torch.device) -> Seconds:
    """Median of three times, since the first chooses kernels; of fewer when they take long."""
    found: list[Seconds] = []
    while len(found) < _TIMES and sum(seconds.wall for seconds in found) < _LONG_SEC:
        found.append(timed(work, device)[1])
    return median(found)


def median(found: Sequence[Seconds]) -> Seconds:
    """Of each; the lower one of two, so that a first time that was slow does not count."""
    return Seconds(*(statistics.median_low(values) for values in zip(*found, strict=True)))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
