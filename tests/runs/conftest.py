"""Runs with given settings and metrics, made without training, here and on a real server."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from saccade import atomic
from saccade.errors import RunError
from saccade.journal import Journal
from saccade.run_dir import RunDir, create_run
from saccade.runs.find import all_runs, find_run
from saccade.runs.record import RunRecord
from saccade.spec_reader import parse_spec
from saccade.tracking.address import local_uri
from saccade.tracking.sync import sync_run

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
            journal.tags({"dataset_digest": "5b4f", "device": "CPU, 1 thread, fp32", **(tags or {})})
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


@pytest.fixture
def database(root: Path, empty_store: Path) -> str:
    """Address of the SQLite file that runs in `root` are tracked in when nothing is configured."""
    root.mkdir()
    shutil.copyfile(empty_store, root / "mlflow.db")
    return local_uri(root)


@pytest.fixture
def ship() -> Callable[[RunDir, str], str]:
    """Bring a run to a server or database; gives its MLflow id."""

    def send(run: RunDir, uri: str) -> str:
        from saccade.tracking.shipping_state import ShippingState

        assert sync_run(run, tracking_uri=uri, say=lambda _: None) == ""
        state: Any = ShippingState.load(run.path)
        return str(state.mlflow_run_id)

    return send


def rows(text: str) -> list[list[str]]:
    """Cells of tables, which two spaces or more separate."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def said(root: Path, ref: str) -> str:
    """The one line about a run that cannot be found."""
    with pytest.raises(RunError) as caught:
        find_run(root, ref)
    text = str(caught.value)
    assert "\n" not in text
    return text


def check_all_names(root: Path, here: RunRecord, mlflow_id: str) -> None:
    """A run named "far" whose folder is gone is found by all its names, with all that its folder knew."""
    for ref in (here.id, here.id[:-1], mlflow_id, "far"):
        found = find_run(root, ref)
        assert (found.id, found.run, found.name, found.status) == (here.id, None, "far", "FINISHED")
    assert found.settings == here.settings
    assert found.last == here.last == {"test/retrieval_top1": 0.25, "pretrain/loss": 3.25}
    assert {key: (list(steps), list(values)) for key, (steps, values) in found.curves.items()} == {
        "test/retrieval_top1": ([4], [0.25]),
        "pretrain/loss": ([2, 4], [3.5, 3.25]),
    }
    assert found.tags["dataset_digest"] == "5b4f"
    assert found.text("spec.yaml").splitlines()[0] == "name: far"
    assert found.experiment == "far"
    assert [record.id for record in all_runs(root, experiment="far")] == [here.id]
    assert all_runs(root, experiment="far", status="FAILED") == []


def seeds_of(make: Callable[..., RunDir], name: str, scores: dict[int, float], *overrides: str) -> list[RunDir]:
    """Runs that differ in the seed, each with its test score."""
    return [
        make(name, f"seed={seed}", *overrides, curves={"test/retrieval_top1": [(4, value)]})
        for seed, value in scores.items()
    ]
