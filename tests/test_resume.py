"""A run killed anywhere and resumed is, bit for bit, the run that was never killed; in its files and in MLflow."""

import json
import multiprocessing
import random
import runpy
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from saccade import load_encoder
from saccade.journal import read_journal
from saccade.run_dir import RunDir, create_run
from saccade.spec_reader import parse_spec
from saccade.supervisor import supervise

TRAINER = Path(__file__).parent / "trainer_that_dies.py"
KILLED = -9

OWN = """
name: resume
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: [3, 4], warmup_epoch: 1, every_epochs: 2, iterations: 3, restarts: 2}}
pretrain: {{epochs: 4, batch_size: 4, schedule: cosine}}
evaluation: {{retrieval: {{clips: 2, topk: [1, 5]}}}}
checkpoint: {{every_steps: 3, keep_every_epochs: 2}}
tracking: {{log_every_steps: 3}}
"""
SPEC = (Path(__file__).parent / "small_spec.yaml").read_text() + OWN
CLASSIFIERS = [
    *("pretrain.epochs=1", "prototypes.num_clusters=[]", "evaluation.retrieval.baselines=false"),
    # The release's probe, whose encoder changes too; 16 videos in batches of 4, so 8 steps.
    *(f"evaluation.linear_probe.{key}" for key in ("enabled=true", "augment=true", "batch_norm_training=true")),
    *(f"evaluation.linear_probe.{key}" for key in ("epochs=2", "batch_size=4", "clips=2", "test_every_epochs=1")),
    *(f"evaluation.finetune.{key}" for key in ("enabled=true", "splits=[1, 2]", "epochs=1", "batch_size=4", "clips=2")),
    *("evaluation.linear_probe.decay_epochs=[1]", "evaluation.finetune.decay_epochs=[]"),
]
STEPS = 16  # 4 epochs of 16 videos in batches of 4; a clustering after epoch 2


@pytest.fixture(scope="module")
def data(make_toy: Callable[..., Path]) -> Path:
    root: Path = make_toy(train_per_class=2, frames=16)
    for part in ("train", "test"):
        shutil.copy(root / "toy" / "split" / f"{part}list01.txt", root / "toy" / "split" / f"{part}list02.txt")
    return root


def new_run(folder: Path, data: Path, overrides: Sequence[str] = ()) -> RunDir:
    spec = parse_spec(SPEC.format(root=data), "resume.yaml", overrides)
    return create_run(folder / "runs", spec, ["saccade", "run"])


def attempt(run: RunDir, place: str = "never", number: int = 1) -> None:
    """One life of the trainer, forked from a process that has imported everything: imports are most of a tiny run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saccade.runner"])
    process = context.Process(
        target=runpy.run_path, args=(str(TRAINER),), kwargs={"run_name": f"{place} {number} {run.path}"}
    )
    process.start()
    process.join(timeout=120)
    assert process.exitcode == (0 if place == "never" else KILLED)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunDir:
    run = new_run(tmp_path_factory.mktemp("unbroken"), data)
    attempt(run)
    return run


def points(run: RunDir) -> list[tuple[str, int, float]]:
    """Every logged point but those that measure time."""
    return [
        (name, event["step"], value)
        for event, _ in read_journal(run.journal)
        if event["kind"] == "metrics"
        for name, value in event["values"].items()
        if not name.startswith("perf/")
    ]


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{place}")
    else:
        yield path, value


def assert_same_checkpoints(run: RunDir, other: RunDir, *names: str) -> None:
    for name in names:
        states = [torch.load(r.path / name, weights_only=True) for r in (run, other)]
        for state in states:
            del state["mark"]  # bytes of a journal, in which times stand
        first, second = (dict(leaves(state)) for state in states)
        assert first.keys() == second.keys()
        for path, value in first.items():
            same = torch.equal(value, second[path]) if isinstance(value, torch.Tensor) else value == second[path]
            assert same, f"{name}{path} differs"


def assert_same_files(run: RunDir, other: RunDir, *names: str) -> None:
    for name in ("encoder/encoder.safetensors", *names):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name


def assert_same_run(run: RunDir, other: RunDir) -> None:
    assert_same_checkpoints(run, other, "checkpoints/last.pt", "checkpoints/epoch_0002.pt", "checkpoints/epoch_0004.pt")
    assert sorted(points(run)) == sorted(points(other))
    assert_same_files(run, other, *(f"clusters/epoch_0002/{n}" for n in ("assignments.parquet", "centroids_0.npy")))


def assert_each_point_once(run: RunDir) -> None:
    counts = Counter((name, step) for name, step, _ in points(run))
    assert counts.most_common(1)[0][1] == 1
    logged = {step for name, step in counts if name == "pretrain/loss"}
    assert logged == {3, 6, 9, 12, 15, 16}


def test_an_unbroken_run_has_trained(unbroken: RunDir) -> None:
    assert_each_point_once(unbroken)
    assert torch.load(unbroken.path / "checkpoints/last.pt", weights_only=True)["learner"]["step"] == STEPS
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
        # before the first checkpoint, then in the first after it
        [("checkpoint", 1), ("renamed", 1)],
        "random",
    ],
    ids=["every place", "first checkpoint", "random steps"],
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
        attempt(run, place, number)
    attempt(run)
    assert_same_run(run, unbroken)
    assert_each_point_once(run)


def test_a_run_killed_in_its_classifiers_ends_as_if_it_had_not_been(tmp_path: Path, data: Path) -> None:
    (tmp_path / "unbroken").mkdir()
    run, other = new_run(tmp_path, data, CLASSIFIERS), new_run(tmp_path / "unbroken", data, CLASSIFIERS)
    attempt(other)
    # Checkpoints come after steps 3 and 4 (the end of an epoch), then 6 and 8, and when a classifier is done.
    for place, number in [
        ("classifier-step", 2),  # the probe, before its first checkpoint
        ("classifier-step", 6),  # beyond the checkpoint of its first epoch
        ("classifier-tested", 1),  # in the test between its epochs
        ("confusion", 1),  # with its scores logged, but not saved
        ("classifier-saved", 3),  # fine-tuning on split 1, trained but not tested
        ("classifier-step", 4),  # and on split 2
    ]:
        attempt(run, place, number)
    attempt(run)
    assert_same_checkpoints(run, other, "checkpoints/last.pt", "checkpoints/evaluation.pt")
    assert sorted(points(run)) == sorted(points(other))
    counts = Counter((name, step) for name, step, _ in points(run))
    assert counts.most_common(1)[0][1] == 1
    assert {step for name, step in counts if name == "linear_probe/loss"} == {3, 6, 8}
    assert {step for name, step in counts if name == "finetune/split2/loss"} == {3, 4}
    stages = ("linear_probe", "finetune_split1", "finetune_split2")
    assert_same_files(run, other, *(f"tables/{stage}_per_class.csv" for stage in stages))
    assert_same_files(run, other, *(f"classifiers/{stage}.safetensors" for stage in stages))
    # Retrieval was done before the first checkpoint of the probe, so never again.
    assert [event["name"] for event, _ in read_journal(run.journal) if event["kind"] == "stage"].count("evaluate") == 1


@pytest.mark.filterwarnings("default")  # MLflow's, which runs in this process here
def test_mlflow_holds_each_point_once_after_a_kill_and_a_resume(
    tmp_path: Path, data: Path, unbroken: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = new_run(tmp_path, data)

    def supervised(place: str, number: int, resume: bool) -> int:
        command = [sys.executable, str(TRAINER), place, str(number)]
        return supervise(run, resume=resume, tracking_uri=None, experiment="resume", command=command)

    # Dies in step 12 with step 9 as its last checkpoint, having logged nothing since: then between 12 and 15.
    assert supervised("step", 12, False) == 1
    assert supervised("step", 5, True) == 1
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

    # The model is found by its address alone, as in a fresh shell where the runs are.
    monkeypatch.chdir(tmp_path)
    clips = torch.rand(2, 3, 4, 16, 16)
    tracked_encoder, own = load_encoder(f"runs:/{tracked[0].info.run_id}/model"), load_encoder(run.path)
    assert torch.equal(tracked_encoder(clips), own(clips))
