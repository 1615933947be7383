"""The encoder as an MLflow model: same features through every door, for any batch, and no pickle behind any."""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.errors import WeightsError
from saccade.models.encoder import build_encoder
from saccade.models.export import load_encoder, save_encoder
from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec
from saccade.supervisor import supervise
from saccade.tracking import model as module
from saccade.tracking.model import ModelPackager, fetch_model, package_model, write_model
from saccade.tracking.store import Store

# MLflow's own use of SQLAlchemy, and what torch.export says of itself
pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]

STUB = Path(__file__).parent.parent / "trainer_stub.py"
FRAMES, SIZE, WIDTH = 4, 32, 4


@pytest.fixture(scope="module")
def encoder_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """encoder.json and encoder.safetensors, as a trainer leaves them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export") / "encoder"
    encoder = build_encoder("r3d", width=WIDTH)
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):  # Statistics of a trained encoder, not of a new one.
            torch.nn.init.normal_(layer.running_mean)
    save_encoder(folder, encoder, name="r3d", width=WIDTH, clip_frames=FRAMES, clip_size=SIZE)
    return folder


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.rand(5, 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def finished(
    server: str, encoder_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunDir, str]]:
    """A run that has ended with an exported encoder, and its MLflow id."""
    run = create_run(tmp_path_factory.mktemp("model") / "runs", Spec(name="toy"), [])
    shutil.copytree(encoder_files, run.path / "encoder")
    actions: list[Any] = [["train", 6], ["artifact", "encoder"]]
    command = [sys.executable, str(STUB), json.dumps(actions)]
    assert supervise(run, resume=False, tracking_uri=server, experiment="tests", command=command) == 0
    mlflow_run_id = json.loads((run.path / "shipping.json").read_text())["mlflow_run_id"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server)
        yield run, mlflow_run_id


def test_every_door_gives_the_same_features(
    finished: tuple[RunDir, str], encoder_files: Path, clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    run, mlflow_run_id = finished
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    model_id = json.loads((run.path / "shipping.json").read_text())["model_id"]
    wanted = load_encoder(encoder_files)(clips).detach()
    assert wanted.shape == (5, 8 * WIDTH)
    assert float(wanted.std()) > 0.01
    for uri in (f"runs:/{mlflow_run_id}/model", f"models:/{model_id}"):
        model = mlflow.pytorch.load_model(uri)
        for batch in (1, 2, 5):
            torch.testing.assert_close(model(clips[:batch]).detach(), wanted[:batch], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(load_encoder(uri)(clips).detach(), wanted, rtol=0, atol=0)
    served = mlflow.pyfunc.load_model(f"runs:/{mlflow_run_id}/model")
    torch.testing.assert_close(torch.as_tensor(served.predict(clips.numpy())), wanted, rtol=1e-4, atol=1e-5)
    assert [item.shape for item in served.metadata.signature.inputs] == [(-1, 3, FRAMES, SIZE, SIZE)]


def test_the_run_shows_its_model(server: str, finished: tuple[RunDir, str], tmp_path: Path) -> None:
    run, mlflow_run_id = finished
    client = Store(server, tmp_path).client
    shown = client.get_run(mlflow_run_id).outputs.model_outputs
    assert [(output.model_id, output.step) for output in shown] == [
        (json.loads((run.path / "shipping.json").read_text())["model_id"], 6)
    ]
    model = client.get_logged_model(shown[0].model_id)
    assert (model.name, model.status.name, model.source_run_id) == ("model", "READY", mlflow_run_id)
    assert "model/MLmodel" in [item.path for item in client.list_artifacts(mlflow_run_id, "model")]


def test_a_run_has_one_model_until_it_changes(server: str, finished: tuple[RunDir, str], tmp_path: Path) -> None:
    from saccade.tracking.sync import sync_run

    run, mlflow_run_id = finished
    path = run.path / "shipping.json"

    def send_again() -> set[str]:
        state = json.loads(path.read_text()) | {"complete": False, "status_final": False}
        path.write_text(json.dumps(state))
        assert sync_run(run) == ""
        found = Store(server, tmp_path).client.get_run(mlflow_run_id).outputs.model_outputs
        return {output.model_id for output in found}

    first = {json.loads(path.read_text())["model_id"]}
    assert send_again() == first
    (run.path / "model" / "note.txt").write_text("trained on")
    assert len(send_again()) == 2
    assert json.loads(path.read_text())["model_id"] not in first


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (f"runs:/{'0' * 32}/model", f"runs:/{'0' * 32}/model.*: .*not found"),
        ("models:/nothing/1", "models:/nothing/1: .*not found"),
        ("runs:/x", "runs:/x: "),
    ],
)
def test_an_address_with_nothing_behind_it(finished: tuple[RunDir, str], uri: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        fetch_model(uri)
    assert "\n" not in str(caught.value)


def test_without_a_server_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An earlier test may have set one in this process, which counts.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(WeightsError, match=r"there is no .*/mlflow.db; set MLFLOW_TRACKING_URI"):
        fetch_model(f"runs:/{'0' * 32}/model", runs_root=tmp_path)


def test_an_encoder_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    files = tmp_path / "encoder"
    save_encoder(files, build_encoder("s3d"), name="s3d", width=64, clip_frames=8, clip_size=17)
    write_model(load_encoder(files), files, tmp_path / "model")  # which compares the features
    assert load_encoder(tmp_path / "model").description.name == "s3d"


class OneBatchOnly(torch.nn.Module):
    """Traces to a program for the batch that it was traced with."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.reshape(2, -1)[:, :5]


def test_a_program_for_one_batch_size_is_refused(encoder_files: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="the traced encoder"):
        write_model(OneBatchOnly(), encoder_files, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    run = create_run(tmp_path, Spec(name="toy"), [])
    assert package_model(run, threading.Event()) == ""  # No encoder, no model.
    (run.path / "encoder").mkdir()
    (run.path / "encoder" / "encoder.json").write_text("{}")
    assert "no encoder.safetensors" in package_model(run, threading.Event())
    assert not (run.path / "model").exists()


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `package_model` was asked for, in place of doing it: it waits until it is interrupted or a while is over."""
    calls: list[str] = []

    def package(run: RunDir, interrupted: threading.Event) -> str:
        calls.append(run.id)
        return "it was interrupted" if interrupted.wait(0.3) else ""

    monkeypatch.setattr(module, "package_model", package)
    return calls


def _export(run: RunDir) -> None:
    (run.path / "encoder").mkdir(exist_ok=True)
    (run.path / "encoder" / "encoder.json").write_text("{}")


def test_the_model_is_made_while_the_trainer_is_still_at_work(tmp_path: Path, packaged: list[str]) -> None:
    run = create_run(tmp_path, Spec(name="toy"), [])
    packager = ModelPackager(run)
    assert packaged == []
    _export(run)
    deadline = time.monotonic() + 20
    while not packaged and time.monotonic() < deadline:
        time.sleep(0.01)
    assert packaged == [run.id]
    assert packager.finish(threading.Event()) == ""
    assert packaged == [run.id]


def test_the_encoder_of_an_earlier_attempt_waits_for_the_end(tmp_path: Path, packaged: list[str]) -> None:
    run = create_run(tmp_path, Spec(name="toy"), [])
    _export(run)
    packager = ModelPackager(run)
    time.sleep(0.6)
    assert packaged == []
    assert packager.finish(threading.Event()) == ""
    assert packaged == [run.id]


def test_no_model_of_a_trainer_that_failed(tmp_path: Path, packaged: list[str]) -> None:
    packager = ModelPackager(create_run(tmp_path, Spec(name="toy"), []))
    packager.give_up()
    assert packaged == []


def test_a_signal_ends_the_making_of_a_model(tmp_path: Path, packaged: list[str]) -> None:
    run = create_run(tmp_path, Spec(name="toy"), [])
    packager, interrupted = ModelPackager(run), threading.Event()
    interrupted.set()
    _export(run)
    packager.finish(interrupted)
    assert len(packaged) <= 1
    assert not any(thread.name == "ModelPackager" for thread in threading.enumerate())
