"""Where a supervised run is seen: the terminal, which its trainer's output and its supervisor's own lines share."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

__all__ = ["Console", "LogTail", "unfailing_output"]


class Console:
    """Standard error, shared by the trainer's output and the supervisor's own lines; gone terminals do no harm.

    Args:
        log: File that takes our own lines instead, and then nothing of the trainer's is shown; None: the terminal.
    """

    def __init__(self, log: Path | None = None, descriptor: int = 2) -> None:
        self._descriptor, self._log = descriptor, log
        self._lock = threading.RLock()  # A signal's handler writes too, in the middle of whatever
        self._line_open = False
        self.columns = 0
        """Width of the terminal; 0 when it is none."""
        if log is None:
            with suppress(OSError):
                self.columns = os.get_terminal_size(descriptor).columns

    def copy(self, data: bytes) -> None:
        """Write bytes as they are."""
        if self._log is not None:  # The trainer's output has a log of its own.
            return
        with self._lock, suppress(OSError):
            self._line_open = not data.endswith((b"\n", b"\r"))
            while data:
                data = data[os.write(self._descriptor, data) :]

    def say(self, text: str) -> None:
        """Write a line of our own, below a progress bar that stands unfinished."""
        if self._log is not None:
            with self._lock, suppress(OSError), open(self._log, "a", encoding="utf-8") as log:
                log.write(f"{text}\n")
            return
        line_feed = "\n" if self._line_open else ""
        self.copy(f"{line_feed}{text}\n".encode())


class LogTail(threading.Thread):
    """Copies what is appended to a file to the console, until told that no more will come."""

    def __init__(self, path: Path, offset: int, console: Console) -> None:
        super().__init__(name="log-tail", daemon=True)
        self._path, self._offset, self._console = path, offset, console
        self._done = threading.Event()

    def run(self) -> None:
        """Copy."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            while True:
                last = self._done.is_set()  # Before reading: what was written before `finish` is still copied.
                while data := file.read(65536):
                    self._console.copy(data)
                if last:
                    return
                self._done.wait(0.1)

    def finish(self) -> None:
        """Copy what is there and end."""
        self._done.set()
        self.join()


class _Unfailing:
    """A stream that loses what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unfailing_output() -> Iterator[None]:
    """Within, what is printed where the disk is full, or nobody reads any more, is lost, and no reason to end."""
    out, err = (cast(TextIO, _Unfailing(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield
