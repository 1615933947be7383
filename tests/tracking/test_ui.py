"""`saccade ui`: a server that starts, can be seen and leaves nothing behind; or the way to the one there is."""

import socket
import urllib.request
from pathlib import Path

import pytest

from saccade.errors import RunError
from saccade.tracking.store import Store
from saccade.tracking.ui import serve_ui

from ..mlflow_server import Ui

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def test_a_server_that_is_configured_is_named(server: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment_id = Store(server, root).open_experiment("the newest")
    said: list[str] = []
    for uri in (server, server.replace("//", "//ann:hunter2@")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert serve_ui(root, say=said.append, experiment="the newest") == 0
    link = f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    assert said == [f"The runs are at {link}"] * 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert serve_ui(root, say=said.append) == 0
    assert said[-1] == "The runs are at http://127.0.0.1:9/#/experiments/0/runs?workflowType=machine_learning"


def test_a_taken_port_is_one_line_with_a_free_one(root: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=rf"cannot serve on 127.0.0.1:{port}: .* in use; try --port \d+"):
            serve_ui(root, port=port)


def test_the_local_runs_are_served(ui: Ui) -> None:
    """That it ends with Ctrl-C is asserted by the fixture."""
    link = f"{ui.address}/#/experiments/0/runs?workflowType=machine_learning"
    assert ui.line == f"MLflow UI on sqlite:///{ui.root}/mlflow.db: {link}  (Ctrl-C ends it)\n"
    with urllib.request.urlopen(ui.address) as page:
        assert b"<title>MLflow</title>" in page.read()
