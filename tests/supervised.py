"""Supervised runs of the stub of a trainer: started, watched, and looked at in MLflow."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saccade.run_dir import RunDir
from saccade.supervisor import supervise
from saccade.tracking.address import local_uri
from saccade.tracking.store import Store

STUB = Path(__file__).with_name("trainer_stub.py")
Action = list[Any]


def command(*actions: Action) -> list[str]:
    return [sys.executable, str(STUB), json.dumps(actions)]


def train(run: RunDir, *actions: Action, resume: bool = False, **options: Any) -> int:
    options = {"tracking_uri": None, "experiment": "tests", "patience_sec": 20.0} | options
    return supervise(run, resume=resume, command=command(*actions), **options)


def tracked(run: RunDir) -> Any:
    """The MLflow run, which must be the only one of this run."""
    found = Store(local_uri(run.root), run.root).client.search_runs(["0", "1"], f"tags.`saccade.run_id` = '{run.id}'")
    assert len(found) == 1
    return found[0]


def history(run: RunDir, key: str) -> list[tuple[int, float]]:
    """Every point of a metric, doubles included."""
    client = Store(local_uri(run.root), run.root).client
    return sorted((point.step, point.value) for point in client.get_metric_history(tracked(run).info.run_id, key))


def curve(last: int) -> list[tuple[int, float]]:
    return [(step, 1 / step) for step in range(1, last + 1)]


def when(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Do something as soon as something holds, while the main thread supervises."""

    def wait() -> None:
        while not condition():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def lines(run: RunDir) -> int:
    return run.journal.read_bytes().count(b"\n") if run.journal.exists() else 0
