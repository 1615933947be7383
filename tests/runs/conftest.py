"""Runs with given settings and metrics, made without training, here and on a real server."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from saccade import atomic
from saccade.journal import Journal
from saccade.run_dir import RunDir, create_run
from saccade.spec_reader import parse_spec
from saccade.tracking.address import local_uri
from saccade.tracking.store import Store
from saccade.tracking.sync import sync_run

from ..tracking.conftest import Door, Ui, door, server, ui  # noqa: F401 - fixtures, and types for their users

Curves = Mapping[str, Sequence[tuple[int, float]]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder for runs, with no tracking server configured."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "runs"


@pytest.fixture
def make(root: Path) -> Callable[..., RunDir]:
    """Make a run: (name, *overrides, curves, status, tags) to its folder."""

    def run(
        name: str = "toy",
        *overrides: str,
        curves: Curves | None = None,
        status: str = "finished",
        tags: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        into: Path | None = None,
    ) -> RunDir:
        made = create_run(
            into or root, parse_spec(f"name: {name}\n", "x.yaml", overrides), ["saccade", "run", "x.yaml"]
        )
        with Journal.open(made.journal, mark=None, attempted=0) as journal:
            journal.tags({"dataset_digest": "5b4f", "device": "CPU, 1 threads, fp32", **(tags or {})})
            journal.stage("pretrain")
            for path, text in (files or {}).items():
                (made.path / path).parent.mkdir(parents=True, exist_ok=True)
                atomic.write_text(made.path / path, text)
                journal.artifact(path)
            points = [(step, key, value) for key, points in (curves or {}).items() for step, value in points]
            for step, key, value in sorted(points):
                journal.metrics({key: value}, step)
            if status:
                journal.end(status)  # type: ignore[arg-type]
        return made

    return run


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables, which take seconds to make."""
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    Store(f"sqlite:///{file}", file.parent)
    return file


@pytest.fixture
def database(root: Path, empty_database: Path) -> str:
    """Address of the SQLite file that runs in `root` are tracked in when nothing is configured."""
    root.mkdir()
    shutil.copyfile(empty_database, root / "mlflow.db")
    return local_uri(root)


@pytest.fixture
def ship() -> Callable[[RunDir, str], str]:
    """Bring a run to a server or database; gives its MLflow id."""

    def send(run: RunDir, uri: str) -> str:
        from saccade.tracking.shipping_state import ShippingState

        assert sync_run(run, tracking_uri=uri) == ""
        state: Any = ShippingState.load(run.path)
        return str(state.mlflow_run_id)

    return send
