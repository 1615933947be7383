"""Runs whose folder is lost go on from what the server has of them, bit for bit as if nothing had happened."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.checkpoint import load_checkpoint, save_checkpoint
from saccade.errors import RunError
from saccade.journal import read_journal
from saccade.run_dir import RunDir, create_run
from saccade.runner import main
from saccade.spec import CheckpointSpec, Spec
from saccade.spec_reader import parse_spec
from saccade.supervisor import supervise
from saccade.tracking.restore import restore_run
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Store

pytestmark = [
    # MLflow's own use of SQLAlchemy, and of others
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
]
TESTS = Path(__file__).parent.parent
OWN = """
name: restore
data: {{root: {root}, dataset: toy, validation: ["*_c02"]}}
prototypes: {{num_clusters: []}}
pretrain: {{epochs: 4, batch_size: 4, schedule: cosine}}
evaluation: {{retrieval: {{clips: 1, topk: [1, 5], baselines: false, validate_every_epochs: 1}}}}
checkpoint: {{track_every_minutes: 0, keep_every_epochs: 2, final_epochs: 0}}
tracking: {{log_every_steps: 1, experiment: tests, system_metrics_sec: 1}}
"""
SPEC = (TESTS / "small_spec.yaml").read_text() + OWN


def points(path: Path) -> list[tuple[str, int, float]]:
    return [
        (name, event["step"], value)
        for event, _ in read_journal(path)
        if event["kind"] == "metrics"
        for name, value in event["values"].items()
        if not name.startswith("perf/")
    ]


def state_of(run: RunDir) -> ShippingState:
    state = ShippingState.load(run.path)
    assert state is not None
    return state


def tracked_points(server: str, mlflow_run_id: str) -> list[tuple[str, int, float]]:
    client = Store(server, Path()).client
    keys = [key for key in client.get_run(mlflow_run_id).data.metrics if not key.startswith(("perf/", "system/"))]
    return [(p.key, p.step, p.value) for key in keys for p in client.get_metric_history(mlflow_run_id, key)]


def test_killed_its_folder_lost_and_resumed_from_the_server(
    server: str,
    root: Path,
    make_toy: Callable[..., Path],
    make_run: Callable[..., Path],
    saccade: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("saccade.tracking.model.package_model", lambda *_: "")  # takes long
    text = SPEC.format(root=make_toy(train_per_class=2, frames=14))
    unbroken = make_run(text)
    assert main([str(unbroken)]) == 0

    run = create_run(root, parse_spec(text, "restore.yaml"), ["saccade", "run"])
    # Two steps an epoch: it dies in the sixth step, after the checkpoint, the validation and the point of step 5.
    command = [sys.executable, str(TESTS / "chaos" / "faulty_trainer.py"), "kill", "step", "6"]
    assert supervise(run, resume=False, tracking_uri=server, experiment="tests", command=command) == 1
    mlflow_run_id = state_of(run).mlflow_run_id
    client = Store(server, root).client
    assert client.get_run(mlflow_run_id).data.tags["saccade.checkpoint"] == "checkpoints/epoch_0002.pt"
    # As it is when the machine is lost as a whole: of the journal the server has what was there at the checkpoint.
    mark = load_checkpoint(run.path / "checkpoints/last.pt")["mark"]
    cut = root.parent / "journal.jsonl"
    cut.write_bytes(run.journal.read_bytes()[:mark])
    assert ("pretrain/loss", 5) not in {point[:2] for point in points(cut)}
    assert ("pretrain/loss", 5) in {point[:2] for point in tracked_points(server, mlflow_run_id)}
    client.log_artifact(mlflow_run_id, str(cut))
    shutil.rmtree(root)

    words = ("--runs", "elsewhere", "--set", f"tracking.uri={server}")
    code, _, said = saccade("run", "--resume", mlflow_run_id, *words)
    assert code == 0, said
    assert f"saccade: run {run.id} was brought here from {server}; it goes on from checkpoints/epoch_0002.pt" in said
    folder = Path("elsewhere").absolute() / run.id
    ours, theirs = (load_checkpoint(path / "checkpoints/last.pt")["learner"] for path in (folder, unbroken))
    for part, values in theirs["networks"].items():
        assert all(torch.equal(value, ours["networks"][part][name]) for name, value in values.items())
    assert torch.equal(ours["memory"], theirs["memory"])
    for name in ("encoder/encoder.safetensors", "checkpoints/best.pt"):
        assert (folder / name).exists()
    assert (folder / "encoder/encoder.safetensors").read_bytes() == (
        unbroken / "encoder/encoder.safetensors"
    ).read_bytes()
    assert state_of(RunDir(folder)).mlflow_run_id == mlflow_run_id
    found = client.get_run(mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["attempt"] == "2"
    shipped = tracked_points(server, mlflow_run_id)
    assert Counter(point[:2] for point in shipped).most_common(1)[0][1] == 1
    assert sorted(shipped) == sorted(points(unbroken / "journal.jsonl"))
    assert sorted(points(folder / "journal.jsonl")) == sorted(shipped)
    samples = [p.step for p in client.get_metric_history(mlflow_run_id, "system/cpu_utilization_percentage")]
    assert sorted(samples) == list(range(len(samples)))


@pytest.fixture
def lost(server: str, root: Path) -> Callable[..., tuple[RunDir, str]]:
    """Make a run of the stub that has failed, with checkpoints on the server, and remove its folder."""

    def make(checkpoints: dict[str, Any], *, track: float | None = 0.0) -> tuple[RunDir, str]:
        spec = Spec(name="toy", checkpoint=CheckpointSpec(track_every_minutes=track))
        run = create_run(root, spec, [])
        for name, state in checkpoints.items():
            save_checkpoint(run.path / "checkpoints" / f"{name}.pt", state)
        kept = [["artifact", f"checkpoints/{name}.pt"] for name in checkpoints if name.startswith("epoch")]
        actions = [["train", 8, {"save_every": 4}], *kept, ["exit", 1]]
        command = [sys.executable, str(TESTS / "trainer_stub.py"), json.dumps(actions)]
        assert supervise(run, resume=False, tracking_uri=server, experiment="tests", command=command) == 1
        mlflow_run_id = state_of(run).mlflow_run_id
        shutil.rmtree(run.path)
        return run, mlflow_run_id

    return make


Lost = Callable[..., tuple[RunDir, str]]


def test_what_comes_back(lost: Lost, server: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, mlflow_run_id = lost({"epoch_0001": {"mark": 5}, "best": {"mark": 5}, "last": {"mark": 9}})
    said: list[str] = []
    assert restore_run(root, run.id, server, say=said.append) == run
    assert said == [f"saccade: run {run.id} was brought here from {server}; it goes on from checkpoints/last.pt"]
    files = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert files >= {"run.json", "spec.yaml", "environment.txt", "journal.jsonl", "trainer.log", "shipping.json"}
    assert {name for name in files if "checkpoints" in name} == {"checkpoints/last.pt", "checkpoints/best.pt"}
    assert load_checkpoint(run.path / "checkpoints/last.pt") == {"mark": 9}
    assert points(run.journal) == [
        point for step in range(1, 9) for point in (("pretrain/loss", step, 1 / step), ("epoch", step, step // 5))
    ]
    state = state_of(run)
    assert (state.mlflow_run_id, state.experiment, state.tracking_uri) == (mlflow_run_id, "tests", server)
    assert state.offset == state.attempted == run.journal.stat().st_size
    # Nothing that is there is sent again.
    assert state.uploaded.keys() == files - {"shipping.json", "system.jsonl"}
    with pytest.raises(RunError, match=rf"{run.id}: is no complete folder of a run; move it away"):
        restore_run(root, mlflow_run_id, server, say=said.append)


def test_a_checkpoint_that_is_damaged_on_the_server_or_gone(lost: Lost, server: str, root: Path) -> None:
    run, mlflow_run_id = lost({"epoch_0001": {"mark": 5}, "epoch_0002": {"mark": 7}, "last": {"mark": 9}})
    client = Store(server, root).client
    torn = root / "last.pt"
    torn.write_bytes(b"PK\x03\x04 half of it")
    client.log_artifact(mlflow_run_id, str(torn), "checkpoints")
    said: list[str] = []
    restore_run(root, mlflow_run_id, server, say=said.append)
    assert said[0] == f"saccade: checkpoints/last.pt at {server} is damaged; looking for one before"
    assert said[1].endswith("; it goes on from checkpoints/epoch_0002.pt")
    assert load_checkpoint(run.path / "checkpoints/last.pt") == {"mark": 7}
    shutil.rmtree(run.path)
    client.set_tag(mlflow_run_id, "saccade.checkpoint", "checkpoints/epoch_0060.pt")
    said.clear()
    restore_run(root, mlflow_run_id, server, say=said.append)
    assert said[0] == f"saccade: checkpoints/epoch_0060.pt is not at {server} any more; looking for one before"


def test_without_tracked_checkpoints_it_begins_anew(lost: Lost, server: str, root: Path) -> None:
    run, mlflow_run_id = lost({"last": {"mark": 9}, "best": {"mark": 5}}, track=None)
    said: list[str] = []
    restore_run(root, mlflow_run_id, server, say=said.append)
    assert said[0].endswith("; it begins anew, since no checkpoint of it is tracked")
    assert not (run.path / "checkpoints/last.pt").exists()


def test_what_cannot_be_brought_back(lost: Lost, server: str, root: Path) -> None:
    with pytest.raises(RunError, match=rf"no run '{'0' * 32}' in .* or at {server}; set tracking.uri or MLFLOW_"):
        restore_run(root, "0" * 32, server, say=print)
    with pytest.raises(RunError, match=r"no run .* or at MLflow, which has no database there"):
        restore_run(root, "0" * 32, None, say=print)
    client = Store(server, root).client
    other = client.create_run("0").info.run_id
    with pytest.raises(RunError, match=rf"the MLflow run {other} .* is not one of saccade"):
        restore_run(root, other, server, say=print)
    client.set_tag(other, "saccade.run_id", "20260101-000000-x-abcd")
    with pytest.raises(RunError, match=r"run 20260101-000000-x-abcd: run.json is not among its artifacts"):
        restore_run(root, other, server, say=print)
    client.set_tag(other, "saccade.run_id", "../../etc")
    with pytest.raises(RunError):
        restore_run(root, other, server, say=print)
    client.delete_run(other)
    with pytest.raises(RunError, match=rf"the MLflow run {other} was deleted; restore it there"):
        restore_run(root, other, server, say=print)
    assert not root.exists() or list(root.iterdir()) == []


def test_a_typing_error_asks_no_server(saccade: Callable[..., tuple[int, str, str]]) -> None:
    code, _, said = saccade("run", "--resume", "quickstrat", "--set", "tracking.uri=http://127.0.0.1:9")
    assert code == 2
    assert said.startswith("error: no run 'quickstrat': there are no runs in runs; give --runs FOLDER")
