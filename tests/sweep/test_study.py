"""Whole studies on cheap trainers: the budget, repeatability, crashes, stops, and what is published."""

import csv
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from saccade.spec_reader import read_spec
from saccade.sweep.driver import drive
from saccade.tracking.address import local_uri
from saccade.tracking.store import Store

from .cheap_trainer import score
from .conftest import TRAINER, driver, epochs, load, running, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
COMMAND = [sys.executable, str(TRAINER)]


def tracked(runs: Path) -> list[Any]:
    """All MLflow runs."""
    store = Store(local_uri(runs), runs)
    return list(store.client.search_runs([store.open_experiment("saccade")]))


def test_a_study_from_its_spec_to_its_best(write_sweep: Callable[..., Path], tracked_folder: Path) -> None:
    sweep = write_sweep(4, "confirm_seeds: 2", "seeds: 2")
    assert drive(sweep, [], Path("runs"), command=COMMAND) == 0

    trials = load(sweep).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert trials[0].params == {"pretrain.learning_rate": 0.05, "saccade.margin_h": 12}  # the experiment as it is
    for trial in trials:
        specs = [read_spec(Path("runs") / run / "spec.yaml") for run in trial.user_attrs["runs"]]
        assert [spec.seed for spec in specs] == [632, 633]
        assert trial.value == pytest.approx(sum(score(spec, 6) for spec in specs) / 2)
        assert trial.user_attrs["spread"] == [pytest.approx(1e-4 / 2**0.5)]
    best = max(trials, key=lambda trial: trial.value or 0)

    # The best spec, ready for `saccade run`, is that of the trial, and was run with two seeds that are new.
    folder = Path("runs/sweeps/try")
    spec = read_spec(folder / "best.yaml")
    assert (spec.pretrain.learning_rate, spec.saccade.margin_h, spec.seed) == (*best.params.values(), 632)
    confirmed = optuna.load_study(study_name="try-confirm", storage="sqlite:///runs/sweeps.db").get_trials()
    assert [trial.params["seed"] for trial in confirmed] == [634, 635]
    scores = [score(spec, 6) + 2e-4, score(spec, 6) + 3e-4]
    assert [trial.value for trial in confirmed] == pytest.approx(scores)
    said = f"with 2 further seeds: {sum(scores) / 2:.4g} ± 7.1e-05 ({scores[0]:.4g} to {scores[1]:.4g})"
    assert said in (folder / "summary.md").read_text()

    with open(folder / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/retrieval_top1"]) for row in rows] == pytest.approx([trial.value for trial in trials])
    for name in ("history", "slices", "parallel_coordinates", "importances"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000

    runs = {run.info.run_name: run for run in tracked(tracked_folder / "runs")}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs.pop("try")
    assert parent.data.metrics["best/val_retrieval_top1"] == pytest.approx(best.value)
    assert parent.data.tags["best.trial"] == str(best.number)
    assert "![history](get-artifact?path=figures/history.png&run_uuid=" in parent.data.tags["mlflow.note.content"]
    names = [f"try-{number:03d}-seed{seed}" for number in range(4) for seed in range(2)]
    assert all(runs[name].data.tags["mlflow.parentRunId"] == parent.info.run_id for name in names)
    assert {runs[name].data.tags["optuna.state"] for name in names} == {"COMPLETE"}


def test_a_crash_costs_only_its_trial_and_every_state_is_true(
    write_sweep: Callable[..., Path], tracked_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(100, "sampler: grid", "pruner: {name: median, startup_trials: 1}")
    text = sweep.read_text().replace("{min: 1e-3, max: 0.3, log: true}", "[0.05]")
    sweep.write_text(text.replace("{min: 0, max: 24, step: 4}", "[12, 8, 16, 20, 24]"))
    options = '{"pause": 0.4, "die_at": {"16": 1}, "silent": [24]}'
    (folder := Path("runs/sweeps/try")).mkdir(parents=True)
    (folder / "figures").write_text("in the way: a folder that takes no files costs no trial")
    assert drive(sweep, [], Path("runs"), command=[*COMMAND, options]) == 0
    trials = {trial.params["saccade.margin_h"]: trial for trial in load(sweep).get_trials()}
    states = {margin: trials[margin].state.name for margin in sorted(trials)}
    assert states == {8: "COMPLETE", 12: "COMPLETE", 16: "FAIL", 20: "PRUNED", 24: "FAIL"}
    assert "SIGSEGV" in trials[16].user_attrs["why"]
    assert trials[20].user_attrs["why"].startswith("pruned at epoch ")
    assert trials[24].user_attrs["why"].endswith("has logged no val/retrieval_top1")
    found = [run for run in tracked(tracked_folder / "runs") if run.info.run_name != "try"]
    runs = {int(run.data.params["saccade.margin_h"]): run for run in found}
    status = {margin: run.info.status for margin, run in runs.items()}
    assert status == {
        margin: {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}[state]
        for margin, state in states.items()
    }
    assert runs[20].data.tags["saccade.ended"].startswith("pruned at epoch ")
    assert runs[20].data.tags["optuna.state"] == "PRUNED"
    said = capfd.readouterr().err
    assert "trial 2 failed: killed by SIGSEGV" in said
    assert "best so far: val/retrieval_top1" in said
    assert said.count("runs/sweeps/try: cannot be written (File exists); the study goes on") == 1


def test_ctrl_c_stops_in_good_order_and_the_same_command_goes_on(
    write_sweep: Callable[..., Path], tracked_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.sweep.publish.draw_study", lambda *_: [])  # takes longer than the study
    sweep = write_sweep(3)
    pause = {"pause": 1}  # long enough for a busy machine to be interrupted in time
    first = driver(sweep, options=pause, devices=["3", "5"])
    wait_for(lambda: any(epochs(trial) for trial in running(sweep)))
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=150)
    assert first.returncode == 130
    assert f"go on, here or on any machine, with: saccade sweep {sweep}" in said
    left = load(sweep).get_trials()
    assert {trial.state for trial in left} <= {TrialState.WAITING, TrialState.COMPLETE}
    waiting = [trial.number for trial in left if trial.state == TrialState.WAITING]
    assert waiting

    devices = {file.read_text() for file in Path("runs").glob("*/device.txt")}
    assert devices
    assert devices <= {"3", "5"}

    assert drive(sweep, [], Path("runs"), command=COMMAND) == 0
    trials = load(sweep).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    for trial in trials:
        assert epochs(trial) == [1, 2, 3, 4, 5, 6]  # none done twice
        assert len(trial.user_attrs["runs"]) == 1
