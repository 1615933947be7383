"""A run to supervise, on a store of its own."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def run(root: Path) -> RunDir:
    return create_run(root, Spec(name="toy"), ["saccade", "run", "toy.yaml"])


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "shipper":
            thread.join(10)
            assert not thread.is_alive()
