"""Runs whose folders are on other machines, read from a real server; and servers that do not help."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from saccade.errors import RunError
from saccade.run_dir import RunDir
from saccade.runs.find import all_runs, find_run, tracked_run
from saccade.tracking.store import Store
from saccade.tracking.study import StudyRun

from ..mlflow_server import Door, Ui
from .conftest import check_all_names, rows, said, seeds_of

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Make = Callable[..., RunDir]
Ship = Callable[[RunDir, str], str]
Command = Callable[..., tuple[int, str, str]]
SCORES = {"test/retrieval_top1": [(4, 0.25)], "pretrain/loss": [(2, 3.5), (4, 3.25)]}


def test_all_names_of_a_run(root: Path, make: Make, ship: Ship, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("far", "seed=5", "tracking.experiment=far", curves=SCORES, tags={"encoder": "r3d"})
    here = find_run(root, run.id)
    mlflow_id = ship(run, server)
    shutil.rmtree(run.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    check_all_names(root, here, mlflow_id)
    assert find_run(root, run.id).link.startswith(f"{server}/#/experiments/")


def test_what_is_here_and_there_is_listed_once(
    root: Path, make: Make, ship: Ship, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    both, gone = make("both", "tracking.experiment=once"), make("gone", "tracking.experiment=once")
    for run in (both, gone):
        ship(run, server)
    shutil.rmtree(gone.path)
    never = make("never", "tracking.experiment=once", status="")
    found = all_runs(root, experiment="once")
    assert [(record.id, record.run is not None, record.status) for record in found] == [
        (never.id, True, "KILLED"),
        (gone.id, False, "FINISHED"),
        (both.id, True, "FINISHED"),
    ]
    assert [record.id for record in all_runs(root, experiment="once", limit=2)] == [never.id, gone.id]
    assert [record.id for record in all_runs(root, experiment="once", here=True)] == [never.id, both.id]
    there = tracked_run(find_run(root, both.id))
    assert there is not None
    assert (there.id, there.run) == (both.id, None)
    assert tracked_run(find_run(root, never.id)) is None


def test_a_run_of_something_else(root: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Store(server, root).client
    experiment_id = Store(server, root).open_experiment("of somebody else")
    foreign = client.create_run(experiment_id, run_name="bert").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert said(root, foreign).startswith(
        f"{server}: the MLflow run {foreign} ('bert' in experiment 'of somebody else') is not one of saccade"
    )
    assert "no run 'bert'" in said(root, "bert")
    assert all_runs(root, experiment="of somebody else") == []
    client.delete_run(foreign)
    assert said(root, foreign) == f"{server}: the MLflow run {foreign} was deleted; restore it there"
    assert "no run" in said(root, "0" * 32)


def test_the_run_of_a_study_is_none_of_its_trials(root: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyRun(server, root, "of a study", study_id="lr-1", name="lr", tags={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert all_runs(root, experiment="of a study") == []
    assert said(root, study.mlflow_run_id).startswith(
        f"{server}: the MLflow run {study.mlflow_run_id} is that of the study 'lr'; see it with `saccade sweep status`"
    )
    assert "no run 'lr'" in said(root, "lr")


def test_a_deleted_artifact(root: Path, make: Make, ship: Ship, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("bare")
    mlflow_id = ship(run, server)
    shutil.rmtree(run.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    record = find_run(root, run.id)
    with pytest.raises(RunError) as caught:
        record.text("encoder/encoder.json")
    assert str(caught.value).startswith(f"run {run.id}: 'encoder/encoder.json' is not among its artifacts at {server}")
    assert "\n" not in str(caught.value)
    assert record.text_if_any("nothing.diff") == ""
    assert mlflow_id in record.link


def test_a_wrong_password(root: Path, make: Make, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.open()
    door.status = 401
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.address.replace("//", "//ann:hunter2@"))
    text = said(root, "x")
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in text
    assert "hunter2" not in text
    run, warnings = make("here"), list[str]()
    assert [record.id for record in all_runs(root, warn=warnings.append)] == [run.id]
    assert len(warnings) == 1
    assert "hunter2" not in warnings[0]


def test_no_server(root: Path, make: Make, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.address)  # shut
    run = make("here")
    assert find_run(root, "here").id == run.id  # nobody is asked
    assert said(root, "there") == (
        f"no run 'there' in {root}, and it cannot be looked for elsewhere: {door.address}: [Errno 111] Connection "
        "refused; start the server, or set MLFLOW_TRACKING_URI"
    )


def test_the_same_page_from_the_server(
    make: Make, saccade: Command, ship: Ship, server: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("shown", curves={"test/retrieval_top1": [(4, 0.5)], "pretrain/loss": [(4, 3.0)]})
    here = saccade("runs", "show", run.id)[1]
    mlflow_id = ship(run, server)
    shutil.rmtree(run.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    code, there, _ = saccade("runs", "show", mlflow_id)
    assert code == 0

    def same(text: str) -> list[list[str]]:  # all but where it is, and time, of which the server knows less
        return [row for row in rows(text) if row and row[0] not in ("folder", "tracked", "took", "started")]

    assert same(there) == same(here)
    assert ["folder", "not on this machine"] in rows(there)
    assert any(row[0] == "tracked" and mlflow_id in row[1] for row in rows(there) if row)
    code, out, _ = saccade("runs", "list", "--status", "finished", "--limit", "500")
    assert code == 0
    assert [row[-1] for row in rows(out) if row[0] == run.id] == ["server"]


def test_seeds_on_a_server_by_experiment(
    make: Make, ship: Ship, saccade: Command, server: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in [
        *seeds_of(make, "cool", {1: 0.1, 2: 0.3}, "tracking.experiment=seeds"),
        *seeds_of(make, "warm", {1: 0.2, 2: 0.6}, "tracking.experiment=seeds", "contrast.temperature=0.5"),
    ]:
        ship(run, server)
        shutil.rmtree(run.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    code, out, err = saccade("runs", "compare", "--group", "seed", "--experiment", "seeds")
    assert (code, err) == (0, "")
    # 10 and 30: mean 20, deviation 14.14, t = 20 / (14.14 / sqrt 2) = 2; one degree of freedom: p = 1 - 2 atan(2) / pi.
    (found,) = [row for row in rows(out) if "B - A" in row]
    assert found[2:4] + found[5:] == ["2", "+20.0", "2.00", "0.295", "no difference shown"]
    assert cv2.imread("compare.png") is not None


def test_export_and_removal_of_a_run_that_is_only_there(
    make: Make, ship: Ship, saccade: Command, server: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saccade.spec_reader import read_spec, spec_diff

    run = make("gone", "seed=5", curves=SCORES, files={"summary.md": "# gone\n", "encoder/encoder.json": "{}"})
    (run.path / "encoder").rename(run.path / "kept")  # so that it never gets there
    before = read_spec(run.path / "spec.yaml")
    mlflow_id = ship(run, server)
    shutil.rmtree(run.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    code, out, err = saccade("runs", "export", run.id, "out")
    assert (code, out) == (0, "out: see out/README.md\n")
    assert err == (
        f"warning: run {run.id}: 'encoder' is not among its artifacts at {server}: never sent, or deleted there; use "
        "the machine that has the run's folder\n"
    )
    assert spec_diff(before, read_spec("out/spec.yaml")) == {}
    assert Path("out/summary.md").read_text() == "# gone\n"
    assert Path("out/metrics.csv").read_text().splitlines() == [
        "metric,step,value",
        "pretrain/loss,2,3.5",
        "pretrain/loss,4,3.25",
        "test/retrieval_top1,4,0.25",
    ]
    assert json.loads(Path("out/run.json").read_text())["tracked"].startswith(f"{server}/#/experiments/")
    code, _, err = saccade("runs", "rm", run.id, "--yes")
    assert code == 2
    assert "give --tracked to delete it there" in err
    client = Store(server, root).client
    client.update_run(mlflow_id, status="RUNNING")
    assert "stop it first" in saccade("runs", "rm", run.id, "--yes", "--tracked")[2]
    client.set_terminated(mlflow_id)
    code, out, _ = saccade("runs", "rm", run.id, "--yes", "--tracked")
    assert code == 0
    assert f"deleted the MLflow run {mlflow_id} at {server}" in out
    assert client.get_run(mlflow_id).info.lifecycle_stage == "deleted"


def test_a_spec_that_was_deleted_there(
    make: Make, ship: Ship, saccade: Command, ui: Ui, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("bare", curves=SCORES)
    mlflow_id = ship(run, ui.address)
    shutil.rmtree(run.path)
    (spec,) = (ui.root / "mlartifacts").rglob(f"{mlflow_id}/artifacts/spec.yaml")
    spec.unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ui.address)
    for words in (["export", run.id, "out"], ["verify", run.id], ["rerun", run.id]):
        code, out, err = saccade("runs", *words)
        assert (code, out) == (2, "")
        assert err.startswith(
            f"error: run {run.id}: 'spec.yaml' is not among its artifacts at {ui.address}: never sent"
        )
        assert err.count("\n") == 1
    assert not Path("out").exists()
    # What needs no spec still works: the params say the same.
    assert saccade("runs", "show", run.id)[0] == 0
