"""A trainer as the child of whoever watches it: what it finds in its environment, and the word to begin."""

import os
import subprocess
from contextlib import suppress

from saccade.engine.host import briefly_spinning
from saccade.engine.stop import BEGIN, SUPERVISED_VARIABLE

__all__ = ["begin", "trainer_environment"]


def trainer_environment() -> dict[str, str]:
    """Ours, but for what concerns the tracking server, with which a trainer has no business, nor with its password."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return briefly_spinning({**environment, SUPERVISED_VARIABLE: "1", "PYTHONUNBUFFERED": "1"})


def begin(trainer: subprocess.Popen[bytes], processes: int = 1) -> None:
    """Tell it to begin, each of its processes; one that has died of something before says so by its exit code."""
    assert trainer.stdin is not None
    with suppress(BrokenPipeError):
        trainer.stdin.write(BEGIN * processes)
