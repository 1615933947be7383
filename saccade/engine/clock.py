"""How fast a training goes."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["Clock"]

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
