"""A run killed anywhere and resumed is, bit for bit, the run that was never killed; in its files and in MLflow."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from saccade.run_dir import RunDir
from saccade.supervisor import supervise

from .lives import (
    PROBE,
    STEPS,
    TRAINER,
    assert_each_point_once,
    assert_same_classifiers,
    assert_same_run,
    events,
    live,
    new_run,
    points,
    saved_step,
)


def test_an_unbroken_run_has_trained(unbroken: RunDir) -> None:
    assert_each_point_once(unbroken)
    assert saved_step(unbroken) == STEPS
    assert {name.split("/")[0] for name, _, _ in points(unbroken)} >= {
        "pretrain",
        "clusters",
        "test",
        "baseline",
        "optim",
    }


@pytest.mark.parametrize(
    "kills",
    [
        # each at another moment of one run's life, one after the other
        [
            ("step", 2),
            ("checkpoint", 2),
            ("clustering", 1),
            ("record", 1),
            ("renamed", 2),
            ("evaluate", 1),
            ("export", 1),
        ],
        # in the first checkpoint, after it, and after those of step 8 and step 16, which are to be kept
        [("checkpoint", 1), ("renamed", 1), ("renamed", 3), ("renamed", 4)],
        "random",
    ],
    ids=["every place", "checkpoints", "random steps"],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    kills: list[tuple[str, int]] | str, tmp_path: Path, data: Path, unbroken: RunDir
) -> None:
    if kills == "random":
        rng = random.Random()
        # At least 3: an attempt that dies sooner may not get beyond the checkpoint that it began from.
        kills = [("step", rng.randint(3, 5)) for _ in range(3)]
        print("killed at", kills)  # shown when it fails
    run = new_run(tmp_path, data)
    for place, number in kills:
        live(run, "kill", place, number)
    live(run)
    assert_same_run(run, unbroken)


def test_a_killed_run_with_names_that_mean_something_elsewhere(tmp_path: Path, data: Path, unbroken: RunDir) -> None:
    odd = "-a b #1 100% %41 é 'q' [y] $HOME 👁"
    shutil.copytree(data / "toy", tmp_path / odd / odd)
    settings = {"name": odd, "data.root": str(tmp_path / odd), "data.dataset": odd}
    run = new_run(
        tmp_path / odd, data, [f"{path}={json.dumps(value, ensure_ascii=False)}" for path, value in settings.items()]
    )
    for place, number in [("step", 4), ("clustering", 1), ("evaluate", 1)]:
        live(run, "kill", place, number)
    live(run)
    assert_same_run(run, unbroken)


def test_a_run_killed_in_its_classifiers_ends_as_if_it_had_not_been(
    tmp_path: Path, data: Path, unbroken_classifiers: RunDir
) -> None:
    run = new_run(tmp_path, data, PROBE)
    # Checkpoints come after steps 3 and 4 (the end of an epoch), then 6 and 8, and when a classifier is done.
    for place, number in [
        ("classifier-step", 2),  # the probe, before its first checkpoint
        ("classifier-step", 6),  # beyond the checkpoint of its first epoch
        ("classifier-tested", 1),  # in the test between its epochs
        ("confusion", 1),  # with its scores logged, but not saved
        ("classifier-saved", 3),  # fine-tuning on split 1, trained but not tested
        ("classifier-step", 4),  # and on split 2
    ]:
        live(run, "kill", place, number)
    live(run)
    assert_same_classifiers(run, unbroken_classifiers)
    # Retrieval was done before the first checkpoint of the probe, so never again.
    assert [event["name"] for event in events(run, "stage")].count("evaluate") == 1


@pytest.mark.filterwarnings("default")  # MLflow's, which runs in this process here
def test_mlflow_holds_each_point_once_after_a_kill_and_a_resume(
    tmp_path: Path, data: Path, unbroken: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = new_run(tmp_path, data)

    def supervised(what: str, number: int, resume: bool) -> int:
        command = [sys.executable, str(TRAINER), what, "step", str(number)]
        return supervise(run, resume=resume, tracking_uri=None, experiment="resume", command=command, package=False)

    # Dies in step 12 with step 9 as its last checkpoint, having logged nothing since: then between 12 and 15.
    assert supervised("kill", 12, False) == 1
    assert supervised("kill", 5, True) == 1
    assert supervised("never", 1, True) == 0
    assert_same_run(run, unbroken)

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.root}/mlflow.db")
    experiment = client.get_experiment_by_name("resume")
    assert experiment is not None
    tracked = client.search_runs([experiment.experiment_id])
    assert [r.info.status for r in tracked] == ["FINISHED"]
    shipped = [
        (metric.key, metric.step, metric.value)
        for key in tracked[0].data.metrics
        if not key.startswith(("perf/", "system/"))
        for metric in client.get_metric_history(tracked[0].info.run_id, key)
    ]
    assert sorted(shipped) == sorted(points(unbroken))
    assert json.loads((run.path / "shipping.json").read_text())["complete"]
