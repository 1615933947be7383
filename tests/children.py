"""Processes of ours that others of ours start (trainers, workers, measurements), done at once in this one.

A new Python process that imports torch takes seconds of CPU time, and documents have dozens of them.
"""

import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

NOBODY = 2**31 - 2
"""A process id that Linux never gives."""


def _main_of(name: str, takes: Callable[[list[str]], list[str]] = lambda words: words) -> Callable[[list[str]], int]:
    def main(words: list[str]) -> int:
        return int(importlib.import_module(name).main(takes(words)) or 0)

    return main


MODULES: Mapping[str, Callable[[list[str]], int]] = {
    "saccade.runner": _main_of("saccade.runner"),
    # One process in place of several, which compute the same (tests/distributed).
    "saccade.engine.torchrun": _main_of("saccade.runner", lambda words: words[1:]),
    "saccade.plan": _main_of("saccade.plan.__main__"),
    "saccade.sweep.worker": _main_of("saccade.sweep.worker"),
}
LEFT_OUT = "saccade.tracking.model"
"""The MLflow model of an encoder: tracing one takes longer than all else of a small run."""


class Child:
    """Stands in for `subprocess.Popen`: its program runs in this process when somebody first asks how it is."""

    def __init__(self, words: Sequence[str], **options: Any) -> None:
        self._module, self._words = words[2], list(words[3:])
        output = options.get("stdout")
        descriptor = output.fileno() if hasattr(output, "fileno") else output
        writes = isinstance(descriptor, int) and descriptor >= 0  # and is not PIPE or DEVNULL
        # Whoever starts a process closes the file then.
        self._output = io.TextIOWrapper(os.fdopen(os.dup(descriptor), "ab")) if writes else io.StringIO()
        self._input, self.stdin = None, None
        if options.get("stdin") == subprocess.PIPE:
            reading, writing = os.pipe()
            self._input, self.stdin = os.fdopen(reading), os.fdopen(writing, "wb")
        self.stdout = io.BytesIO() if output == subprocess.PIPE else None
        self.pid = NOBODY
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._run()
        return self.returncode

    def poll(self) -> int:
        return self.wait()

    def terminate(self) -> None:
        """Too late: it is done as soon as anybody looks."""

    kill = terminate

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def _run(self) -> int:
        if self._module == LEFT_OUT:
            return 0
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        before, sys.stdin = sys.stdin, self._input
        try:
            with self._output as out, redirect_stdout(out), redirect_stderr(out):
                return MODULES[self._module](self._words)
        finally:
            sys.stdin = before
            for end in (self.stdin, self._input):
                if end is not None:
                    end.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)


def adopt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes of `MODULES` done here; all others are started as ever."""

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __new__(cls, args: Any, *rest: Any, **options: Any) -> Any:
            if (
                isinstance(args, list | tuple)
                and list(args[:2]) == [sys.executable, "-m"]
                and args[2] in (*MODULES, LEFT_OUT)
            ):
                return Child(args, **options)
            return super().__new__(cls)

    monkeypatch.setattr(subprocess, "Popen", Popen)
