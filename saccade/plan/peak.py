"""The most memory that this process and its workers have had at a time."""

import resource
import threading
from types import TracebackType
from typing import Self

from saccade.engine.host import resident_bytes

__all__ = ["PeakMemory"]

_EVERY_SEC = 0.2


class PeakMemory:
    """Looks at the memory a few times a second while it is open; of this process alone no moment is missed."""

    def __init__(self) -> None:
        self._seen = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        """So far."""
        alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return max(self._seen, alone)

    def _watch(self) -> None:
        while True:
            self._seen = max(self._seen, resident_bytes())
            if self._done.wait(_EVERY_SEC):
                return
