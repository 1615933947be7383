"""Chains: what is refused beforehand, which encoder the later runs get, and that what is left can be gone on with."""

import json
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade import launch
from saccade.chain import followers_of, is_finished, read_followers, shared_overrides
from saccade.errors import SpecError
from saccade.models.encoder import build_encoder
from saccade.models.export import save_encoder
from saccade.models.heads import Projection
from saccade.run_dir import RunDir, list_runs
from saccade.spec import Spec
from saccade.spec_reader import read_spec
from saccade.supervisor import supervise
from saccade.tracking.address import local_uri
from saccade.tracking.store import Store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

STUB = Path(__file__).with_name("trainer_stub.py")
FIRST = """\
name: first
encoder: {name: r2plus1d, width: 4}
contrast: {projection_dim: 8}
then: [second.yaml, more/third.yaml]
"""


@pytest.fixture(autouse=True)
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a chain of three, its dataset, and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write("specs/first.yaml", FIRST)
    write("specs/second.yaml", "name: second\npretrain: {epochs: 0}\n")
    write("specs/more/third.yaml", "name: third\npretrain: {epochs: 0}\ndata: {dataset: HMDB51}\n")
    for name in ("UCF101", "HMDB51"):
        for part in ("split", "jpegs_256"):
            (tmp_path / "data" / name / part).mkdir(parents=True)
    return tmp_path / "specs"


def write(name: str, text: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def chain(*overrides: str) -> list[Spec]:
    path = Path("specs/first.yaml")
    return read_followers(path, read_spec(path, overrides), overrides)


# Reading -------------------------------------------------------------------------------------------------------------


def test_followers_get_the_encoder_of_the_first() -> None:
    second, third = chain("encoder.width=8")
    assert [spec.name for spec in (second, third)] == ["second", "third"]
    for spec in (second, third):
        assert (spec.encoder.name, spec.encoder.width, spec.contrast.projection_dim) == ("r2plus1d", 8, 8)
        assert spec.encoder.weights == ""
    write("specs/second.yaml", "name: second\nencoder: {weights: x.safetensors}\n")
    assert chain()[0].encoder.model_dump() == {**Spec(name="x").encoder.model_dump(), "weights": "x.safetensors"}


def test_overrides_of_the_machine_hold_for_all_and_others_for_the_first() -> None:
    overrides = ["data.root=d", "seed=1", "engine.device=cpu", "tracking.experiment=e", "pretrain.batch_size=7"]
    assert shared_overrides(overrides) == ["data.root=d", "engine.device=cpu", "tracking.experiment=e"]
    for spec in chain(*overrides):
        assert (spec.data.root, spec.engine.device, spec.tracking.experiment) == ("d", "cpu", "e")
        assert (spec.seed, spec.pretrain.batch_size) == (632, 16)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (None, "specs/first.yaml: then: specs/second.yaml: no such file"),
        ("name: second\nsed: 1\n", "specs/first.yaml: then: specs/second.yaml:2: sed: unknown key, did you mean seed?"),
        (
            "name: second\nthen: [first.yaml]\n",
            "specs/second.yaml: then: this spec runs after specs/first.yaml and has no followers of its own; list them "
            "all there",
        ),
        (
            "name: second\nencoder: {name: r3d}\n",
            "specs/second.yaml: sets name to r3d, but runs on the encoder of a run with r2plus1d; leave it out, or "
            "give encoder.weights",
        ),
        (
            "name: second\ncontrast: {projection_dim: 9}\n",
            "specs/second.yaml: sets projection_dim to 9, but runs on the encoder of a run with 8; leave it out, or "
            "give encoder.weights",
        ),
    ],
)
def test_what_is_refused_before_anything_starts(second: str | None, message: str) -> None:
    Path("specs/second.yaml").unlink()
    if second is not None:
        write("specs/second.yaml", second)
    with pytest.raises(SpecError) as caught:
        launch.start_run(Path("runs"), Path("specs/first.yaml"), [])
    assert str(caught.value).startswith(message)
    assert not Path("runs").exists()


def test_a_chain_does_not_go_in_circles() -> None:
    write("specs/first.yaml", "name: first\nthen: [../specs/first.yaml]\n")
    with pytest.raises(SpecError, match="is this file itself; a chain does not go in circles"):
        chain()


def test_missing_data_of_a_later_spec_stops_the_first() -> None:
    shutil.rmtree("data/HMDB51")
    with pytest.raises(Exception, match="HMDB51"):
        launch.start_run(Path("runs"), Path("specs/first.yaml"), [])
    assert not Path("runs").exists()


# Running -------------------------------------------------------------------------------------------------------------


class Trainers:
    """In place of `supervise`: notes what is run, leaves what a trainer leaves, ends as told."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.interrupts = False
        self.ran: list[tuple[str, bool]] = []

    def __call__(
        self,
        run: RunDir,
        *,
        resume: bool,
        tracking_uri: str | None,
        experiment: str,
        interrupted: threading.Event,
        tags: Mapping[str, str] | None,
    ) -> int:
        assert tags is None
        self.ran.append((run.record()["name"], resume))
        code = self.codes.pop(0) if self.codes else 0
        if self.interrupts:
            interrupted.set()
        lines = [{"t": 1, "kind": "attempt", "number": 1}]
        if code == 0:
            leave_result(run)
            lines.append({"t": 2, "kind": "end", "status": "finished"})
        run.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return code


def leave_result(run: RunDir) -> None:
    torch.manual_seed(0)
    encoder, projection = build_encoder("r2plus1d", width=4).eval(), Projection(32, 8)
    save_encoder(run.path / "encoder", encoder, projection, name="r2plus1d", width=4, clip_frames=16, clip_size=112)
    (run.path / "summary.md").write_text(f"# {run.record()['name']}\n\n**Retrieval top-1: 12.5 % given weights.**\n")


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> Trainers:
    fake = Trainers()
    monkeypatch.setattr(launch, "supervise", fake)
    monkeypatch.setattr(launch, "reconcile", lambda *_, **__: None)
    monkeypatch.setattr(launch, "sync_run", lambda *_, **__: None)
    return fake


def start(*overrides: str) -> int:
    return launch.start_run(Path("runs"), Path("specs/first.yaml"), overrides)


def runs() -> list[RunDir]:
    return sorted(list_runs("runs"), key=lambda run: run.record()["created"])


def test_a_whole_chain(trainers: Trainers, capfd: pytest.CaptureFixture[str]) -> None:
    assert start("data.root=data", "seed=4") == 0
    assert trainers.ran == [("first", False), ("second", False), ("third", False)]
    first, second, third = runs()
    own = read_spec(first.path / "spec.yaml")
    assert own.then == ("then/2.yaml", "then/3.yaml")
    assert own.seed == 4
    for place, run in ((2, second), (3, third)):
        spec = read_spec(run.path / "spec.yaml")
        assert spec.encoder.model_dump() == {**own.encoder.model_dump(), "weights": first.id}
        assert spec.seed == 632
        copy = run.path / "inputs" / "weights.safetensors"
        assert copy.read_bytes() == (first.path / "encoder" / "encoder.safetensors").read_bytes()
        assert run.record()["follows"] == {"run": first.id, "place": place, "of": 3}
    assert first.record()["follows"] is None
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("saccade: ")]
    assert said == [
        "saccade: 1 of 3: first",
        f"saccade: 2 of 3: second, on the encoder of {first.id}",
        f"saccade: 3 of 3: third, on the encoder of {first.id}",
        "saccade: all 3 runs of the chain are finished",
    ]
    summary = (first.path / "summary.md").read_text()
    assert summary.count("## Runs that followed") == 1
    assert summary.endswith(
        f"2. second (run `{second.id}`): **Retrieval top-1: 12.5 % given weights.**\n"
        f"3. third (run `{third.id}`): **Retrieval top-1: 12.5 % given weights.**\n"
    )
    assert is_finished(first)


def test_the_saved_spec_repeats_the_chain(trainers: Trainers) -> None:
    assert start() == 0
    before = {run.id for run in runs()}
    (first, *_) = runs()
    assert launch.start_run(Path("runs"), first.path / "spec.yaml", []) == 0
    again = [run for run in runs() if run.id not in before]
    assert [run.record()["name"] for run in again] == ["first", "second", "third"]
    assert read_spec(again[2].path / "spec.yaml").encoder.weights == again[0].id


@pytest.mark.parametrize("code", [1, 2, 130, 143])
def test_what_does_not_end_well_stops_the_chain_and_resume_goes_on(
    code: int, trainers: Trainers, capfd: pytest.CaptureFixture[str]
) -> None:
    trainers.codes = [code]
    assert start() == code
    assert trainers.ran == [("first", False)]
    (first,) = runs()
    trainers.codes = [0, 0, code]
    assert launch.resume_run(Path("runs"), first.id, None, []) == code
    assert trainers.ran[1:] == [("first", True), ("second", False), ("third", False)]
    assert f"the chain stops at 3 of 3; go on with: saccade run --resume {first.id}\n" in capfd.readouterr().err
    assert "3. third (run `" in (first.path / "summary.md").read_text()
    assert (first.path / "summary.md").read_text().endswith("not finished\n")
    assert launch.resume_run(Path("runs"), first.id, None, ["engine.device=cpu"]) == 0
    assert trainers.ran[4:] == [("third", True)]
    third = followers_of(first, read_spec(first.path / "spec.yaml"))[1].run
    assert third is not None
    assert read_spec(third.path / "spec.yaml").engine.device == "cpu"
    assert len(runs()) == 3
    # All is done: nothing runs, unless something is set for the first one.
    assert launch.resume_run(Path("runs"), first.id, None, []) == 0
    assert len(trainers.ran) == 5
    assert launch.resume_run(Path("runs"), first.id, None, ["pretrain.epochs=301"]) == 0
    assert trainers.ran[5:] == [("first", True)]
    assert read_spec(first.path / "spec.yaml").then == ("then/2.yaml", "then/3.yaml")


def test_ctrl_c_after_a_trainers_end_stops_the_chain(trainers: Trainers) -> None:
    trainers.interrupts = True
    assert start() == 130
    assert trainers.ran == [("first", False)]


def test_a_run_without_followers_says_nothing_of_chains(trainers: Trainers, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.start_run(Path("runs"), Path("specs/second.yaml"), []) == 0
    assert capfd.readouterr().err == (
        "saccade: neither encoder.weights nor pretrain.epochs are set: it is the random encoder that is evaluated\n"
    )
    (only,) = runs()
    assert not (only.path / "then").exists()
    assert not (only.path / "inputs").exists()


# In MLflow -----------------------------------------------------------------------------------------------------------


def test_the_runs_are_linked_in_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_stub(run: RunDir, **given: Any) -> int:
        leave_result(run)
        (run.path / "encoder" / "encoder.json").unlink()  # so that no model is packaged, which takes its time
        actions = [["train", 3], ["artifact", "summary.md"]]
        return supervise(run, command=[sys.executable, str(STUB), json.dumps(actions)], **given)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(launch, "supervise", run_stub)
    assert start() == 0
    assert signal.getsignal(signal.SIGINT) == before
    first, second, third = runs()
    client = Store(local_uri("runs"), Path("runs")).client
    found: dict[str, Any] = {run.data.tags["saccade.run_id"]: run for run in client.search_runs(["1"])}
    parent = found[first.id]
    assert "mlflow.parentRunId" not in parent.data.tags
    for place, run in ((2, second), (3, third)):
        assert found[run.id].info.status == "FINISHED"
        assert found[run.id].data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert found[run.id].data.tags["saccade.follows"] == f"{first.id}, as {place} of 3"
    assert parent.info.status == "FINISHED"
    assert f"3. third (run `{third.id}`): **Retrieval top-1" in parent.data.tags["mlflow.note.content"]
    stored = Path("runs/mlartifacts") / parent.info.run_id / "artifacts" / "summary.md"
    assert stored.read_bytes() == (first.path / "summary.md").read_bytes()
