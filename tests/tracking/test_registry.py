"""Encoders that are registered on request: a version for each run, and never two for one."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec, TrackingSpec
from saccade.supervisor import supervise
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store
from saccade.tracking.sync import sync_run

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

STUB = Path(__file__).parent.parent / "trainer_stub.py"


def trained(server: str, root: Path, name: str, registered: str) -> RunDir:
    """A run that left a model in MLflow's format, as far as the server looks into it."""
    run = create_run(root, Spec(name=name, tracking=TrackingSpec(register_model=registered)), ["saccade"])
    actions = [["silent_file", "model/MLmodel", "flavors: {}\n"], ["silent_file", "model/data.txt", name]]
    command = [sys.executable, str(STUB), json.dumps(actions)]
    assert supervise(run, resume=False, tracking_uri=server, experiment="registry", command=command) == 0
    return run


def versions(server: str, root: Path, name: str) -> list[Any]:
    found = Store(server, root).client.search_model_versions(f"name = '{name}'")
    return sorted(found, key=lambda version: int(version.version))


def sent_again(run: RunDir) -> None:
    """As if the answer to the last request had been lost."""
    path = run.path / "shipping.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "registered": "", "complete": False, "pending": ["model"]}))
    assert sync_run(run, patience_sec=20) == ""


def test_each_run_is_a_version_of_the_model(server: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [trained(server, root, name, "toy encoder") for name in ("first", "second")]
    assert "tracking: the model is version 2 of 'toy encoder': models:/toy encoder/2\n" in capfd.readouterr().err
    sent_again(runs[0])
    states = [ShippingState.load(run.path) for run in runs]
    found = versions(server, root, "toy encoder")
    assert len(found) == 2
    for version, state, run in zip(found, states, runs, strict=True):
        assert state is not None
        assert (version.run_id, version.source) == (state.mlflow_run_id, f"models:/{state.model_id}")
        assert version.description == f"Encoder of run {run.id}, {run.record()['name']}"


def test_nothing_is_registered_without_being_asked_for(server: str, root: Path) -> None:
    run = trained(server, root, "toy", "")
    state = ShippingState.load(run.path)
    assert state is not None
    assert state.model_id
    assert state.complete
    client = Store(server, root).client
    assert [version for version in client.search_model_versions() if version.run_id == state.mlflow_run_id] == []


def test_a_name_that_the_server_refuses_costs_the_registration_only(
    server: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = trained(server, root, "toy", "a/b")  # which a spec that is read cannot have
    state = ShippingState.load(run.path)
    assert state is not None
    assert state.complete
    assert list(state.refused) == ["file model"]
    assert capfd.readouterr().err.count("MLflow refuses file model") == 1
    model = Store(server, root).client.get_logged_model(state.model_id)
    assert model.status.name == "READY"
