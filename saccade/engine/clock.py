"""How fast a training goes, and timestamps that no correction of the machine's clock disturbs."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["Clock", "SteadyTime"]

T = TypeVar("T")


class Clock:
    """Clips per second, and the part of the time spent waiting for data."""

    def __init__(self) -> None:
        self.clips = 0
        self._begun, self._waited = time.perf_counter(), 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand the batches on, measuring how long each takes to come."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def take(self) -> dict[str, float]:
        """What was measured since the last `take`, and start anew."""
        elapsed = time.perf_counter() - self._begun
        values = {"clips_per_sec": self.clips / elapsed, "data_wait_fraction": self._waited / elapsed}
        self.clips, self._begun, self._waited = 0, time.perf_counter(), 0.0
        return values


class SteadyTime:
    """Unix time that neither jumps nor goes back: read once, and counted on by a clock that nobody sets.

    Durations between its timestamps are true, whatever is done to the machine's clock meanwhile.

    Args:
        after_ms: An earlier timestamp which those to come must not be before, unix ms.
    """

    def __init__(self, after_ms: int = 0) -> None:
        self._offset_ms = max(time.time_ns() // 1_000_000, after_ms) - _since_boot_ms()

    def now_ms(self) -> int:
        """Unix ms."""
        return self._offset_ms + _since_boot_ms()


def _since_boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000  # goes on while the machine sleeps
