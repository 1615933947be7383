"""A server that lies, or is none: what it says is one line or a run's folder, and nothing is written beside that."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import saccade
from saccade.checkpoint import save_checkpoint
from saccade.errors import RunError
from saccade.journal import Journal
from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec
from saccade.tracking.restore import restore_run
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store
from saccade.tracking.sync import sync_run

from ..mlflow_server import Door
from .mutations import Mutation, Refusal, fuzzed, mutate, mutations, read, refused, snapshot
from .test_weights import Payload, torch_bytes

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

LISTING = "mlflow-artifacts/artifacts?"
LOGIN = b"<!doctype html><title>Please log in</title>" + b"<p>" * 200
TOKENS = (
    b'"../../x"',
    b'"/tmp/x"',
    b'"is_dir": true',
    b'"path": "x"',
    b'"step": -1',
    b'"timestamp": 1e99',
    b'"value": ',
)


class Far(SimpleNamespace):
    """A run that is only on a server, and the door to that."""

    door: Door
    run_id: str
    mlflow_id: str

    def restore(self, folder: Path) -> RunDir:
        """Bring the run to an empty folder, two below `folder`."""
        shutil.rmtree(folder, ignore_errors=True)
        return restore_run(folder / "here" / "runs", self.mlflow_id, self.door.address, say=lambda _: None)


@pytest.fixture(scope="module")
def far(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    root = tmp_path_factory.mktemp("far")
    run = create_run(root, Spec(name="liar"), [])
    save_checkpoint(run.path / "checkpoints" / "last.pt", {"mark": 0})
    with Journal.open(run.journal, mark=None, attempted=0) as journal:
        for step in range(3):
            journal.metrics({"pretrain/loss": 1 / (step + 1)}, step)
        journal.end("stopped")
    assert sync_run(run, tracking_uri=server, say=lambda _: None) == ""
    state = ShippingState.load(run.path)
    assert state is not None
    shutil.rmtree(run.path)
    door = Door(server)
    door.open()
    yield Far(door=door, run_id=run.id, mlflow_id=state.mlflow_run_id)
    door.shut()


@pytest.fixture(autouse=True)
def honest(far: Far) -> Iterator[None]:
    """However a test leaves the door."""
    yield
    far.door.change = lambda _, answer: answer


def only_the_run(folder: Path, far: Far, *, there: bool) -> None:
    """Nothing lies beside the folder of the run, and no half of that."""
    runs = folder / "here" / "runs"
    assert [path.name for path in folder.glob("*")] in ([], ["here"])
    assert [path.name for path in folder.glob("here/*")] in ([], ["runs"])
    assert [path.name for path in runs.glob("*")] == ([far.run_id] if there else [])


def test_an_honest_server(far: Far, tmp_path: Path) -> None:
    far.door.requests.clear()
    run = far.restore(tmp_path / "there")
    assert {"run.json", "spec.yaml", "journal.jsonl"} <= snapshot(run.path).keys()
    assert sum(LISTING in asked for asked in far.door.requests) > 3
    only_the_run(tmp_path / "there", far, there=True)


@fuzzed(12, 300)
@given(which=st.integers(0, 30), changes=mutations(TOKENS))
def test_answers(far: Far, tmp_path: Path, which: int, changes: list[Mutation]) -> None:
    asked = 0

    def change(_: str, answer: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return mutate(answer, changes) if asked == which + 1 else answer

    far.door.change = change
    found = read("answers of a server", lambda: far.restore(tmp_path / "there"), RunError)
    only_the_run(tmp_path / "there", far, there=not isinstance(found, Refusal))


@pytest.mark.parametrize("is_dir", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        "../../evil",
        "spec/../../../evil",
        "/evil",
        "..",
        ".",
        "",
        "a//b",
        "..\\..\\evil",
        "%2e%2e/evil",
        "a\0b",
        "x/" * 2000,
    ],
)
def test_paths_out_of_the_run(far: Far, tmp_path: Path, path: str, is_dir: bool) -> None:
    def change(asked: str, answer: bytes) -> bytes:
        if LISTING not in asked:
            return answer
        return json.dumps({"files": [*json.loads(answer)["files"], {"path": path, "is_dir": is_dir}]}).encode()

    far.door.change = change
    refused("answers of a server", lambda: far.restore(tmp_path / "there"))
    only_the_run(tmp_path / "there", far, there=False)


def test_a_folder_that_holds_itself(far: Far, tmp_path: Path) -> None:
    endless = json.dumps({"files": [{"path": "again", "is_dir": True}]}).encode()
    far.door.change = lambda asked, answer: endless if LISTING in asked else answer
    refused("answers of a server", lambda: far.restore(tmp_path / "there"), "again/again", far.door.address)
    only_the_run(tmp_path / "there", far, there=False)


@pytest.mark.parametrize("answer", [LOGIN, b"", b"[]", b"null", b"7", b"[" * 100_000, b"\xff\xfe"])
def test_what_answers_is_no_mlflow(far: Far, tmp_path: Path, answer: bytes) -> None:
    """A login page, say, that a network puts before everything."""
    far.door.change = lambda *_: answer
    refused("answers of a server", lambda: far.restore(tmp_path / "there"), far.door.address)
    only_the_run(tmp_path / "there", far, there=False)


@pytest.mark.parametrize(
    "files",
    [
        [{"is_dir": False}],
        [{"path": "x"}],
        [{"path": 5, "is_dir": False}],
        [{"path": "x", "is_dir": False, "file_size": "many"}],
        [7],
        7,
        None,
    ],
)
def test_listings_that_are_none(far: Far, tmp_path: Path, files: object) -> None:
    far.door.change = lambda asked, answer: json.dumps({"files": files}).encode() if LISTING in asked else answer
    refused("answers of a server", lambda: far.restore(tmp_path / "there"), "cannot read", far.door.address)
    only_the_run(tmp_path / "there", far, there=False)


def test_code_in_a_model(far: Far, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own loader would run it; ours reads safetensors only, and nothing that only has their name."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", far.door.address)
    monkeypatch.chdir(tmp_path)
    client = Store(server, tmp_path).client
    for name, place in (("model.pth", "data"), ("encoder.safetensors", "extra_files")):
        (tmp_path / name).write_bytes(torch_bytes(Payload(), legacy=False))
        client.log_artifact(far.mlflow_id, str(tmp_path / name), f"model/{place}")
        refused("code", lambda: saccade.load_encoder(f"runs:/{far.mlflow_id}/model"))
    assert not (tmp_path / "trace").exists()


def test_a_login_page_loses_nothing(far: Far, tmp_path: Path) -> None:
    """To who sends a run it is an outage: what is not sent can be sent later."""
    run = create_run(tmp_path, Spec(name="own"), [])
    with Journal.open(run.journal, mark=None, attempted=0) as journal:
        journal.metrics({"pretrain/loss": 1.0}, 1)
        journal.end("finished")
    far.door.change = lambda *_: LOGIN
    said: list[str] = []
    unsent = sync_run(run, tracking_uri=far.door.address, say=said.append, patience_sec=1.0)
    assert unsent == "3 events, its status"
    assert "not in a valid JSON format" in said[0]
    far.door.change = lambda _, answer: answer
    assert sync_run(run, tracking_uri=far.door.address, say=said.append) == ""
