"""Every experiment of the repository: readable, explained, and able to run from its spec to its report."""

import json
import math
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from saccade import load_encoder
from saccade.chain import read_followers
from saccade.checkpoint import load_checkpoint
from saccade.initial_weights import adopt, find_initial_weights
from saccade.journal import read_journal
from saccade.models.encoder import build_encoder
from saccade.models.export import save_encoder
from saccade.models.heads import Projection
from saccade.run_dir import create_run
from saccade.runner import main
from saccade.spec import Spec
from saccade.spec_reader import parse_spec, read_spec, spec_diff

from .documented import undocumented

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
WHOLE = [
    "paper/pretrain_r2plus1d.yaml",
    "paper/pretrain_r3d.yaml",
    "quickstart.yaml",
    "ucf101_mini.yaml",
    "weizmann.yaml",
]
"""Pre-training, its evaluation and its report."""
EVALUATIONS = [
    f"paper/{what}_{on}.yaml" for what in ("retrieval", "linear_probe", "finetune") for on in ("ucf101", "hmdb51")
]
CHAINS = ["paper/r3d.yaml", "paper/r2plus1d.yaml"]
ABLATIONS: dict[str, dict[str, object]] = {
    "no_mask": {"saccade.focus_level": -1},
    "no_consistency": {"consistency.weight": 0.0},
    "no_prototypes": {"prototypes.num_clusters": ()},
    "random_fixations": {"saccade.source": "random"},
    **{f"margin_h_{margin:02}": {"saccade.margin_h": margin} for margin in (0, 4, 8, 16, 24)},
    **{f"focus_num_{number}": {"saccade.focus_num": number} for number in (1, 2, 4, 5)},
}
"""What each changes in the published pre-training of R3D, which has a margin of 12 and 3 fixations."""
NAMES = [*WHOLE, *EVALUATIONS, *CHAINS, *(f"ablations/{name}.yaml" for name in ABLATIONS)]
"""All of them; whoever adds an experiment adds its name."""

SMALL = [
    "data.dataset=toy",
    "data.split=1",
    "data.only_present=false",
    "data.exclude=[]",
    "data.validation=['*_g01_*']",
    "clip.frames=8",
    "clip.size=32",
    "clip.eval_crop=40",
    "saccade.grid_num=7",
    "encoder.width=4",
    "contrast.num_negatives=8",
    "contrast.projection_dim=8",
    "prototypes.num_clusters=[3, 4]",
    "prototypes.warmup_epoch=1",
    "prototypes.every_epochs=1",
    "prototypes.min_points_per_centroid=1",
    "pretrain.epochs=2",
    "pretrain.batch_size=8",
    "pretrain.decay_epochs=[]",
    "evaluation.retrieval.topk=[1, 5]",
    "evaluation.retrieval.clips=2",
    "checkpoint.final_epochs=0",
    "engine.device=cpu",
    "engine.precision=fp32",
    "engine.workers=0",
    "engine.threads=1",
    "tracking.log_every_steps=1",
]
"""One step an epoch, so that the second step is one with prototypes."""


def test_the_list_is_complete() -> None:
    there = sorted(path.relative_to(EXPERIMENTS).as_posix() for path in EXPERIMENTS.rglob("*") if path.is_file())
    assert there == sorted(NAMES)
    assert len(NAMES) == 26


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_what_a_reader_needs(name: str) -> None:
    lines = (EXPERIMENTS / name).read_text(encoding="utf-8").splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    text = "\n".join(header)
    for word in ("Purpose", "Command", "Time", "Score"):
        (said,) = re.findall(rf"^# {word}: +(\S.*)$", text, re.MULTILINE)
        assert "TODO" not in said, f"{name}: {word} is still to be written"
    assert f"saccade run experiments/{name}" in text
    if name.startswith("paper/"):
        assert "doi 10.1109/TCSVT.2023.3290938" in text
        assert re.search(r"^# Release: +\S", text, re.MULTILINE)
        assert re.search(r"^# Data: +\S", text, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_it_loads(name: str) -> None:
    spec = read_spec(EXPERIMENTS / name)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", spec.name)
    assert spec.data.root == "data"


def test_names_of_runs_differ() -> None:
    names = [read_spec(EXPERIMENTS / name).name for name in NAMES]
    assert len(set(names)) == len(names)


def test_the_papers_own_are_the_published_values() -> None:
    defaults = parse_spec("name: x", "x.yaml")
    changed = spec_diff(defaults, read_spec(EXPERIMENTS / "paper/pretrain_r3d.yaml"))
    # The only default that is not published: another way to the same, several times as fast.
    assert changed.keys() == {"name", "prototypes.seeding"}
    assert changed["prototypes.seeding"] == ("auto", "random")
    changed = spec_diff(defaults, read_spec(EXPERIMENTS / "paper/pretrain_r2plus1d.yaml"))
    del changed["name"]
    assert {path: new for path, (_, new) in changed.items()} == {
        "encoder.name": "r2plus1d",
        "consistency.power": 4.0,
        "prototypes.seeding": "random",
        "prototypes.warmup_epoch": 301,
        "pretrain.epochs": 360,
        "pretrain.batch_size": 8,
    }


def test_the_papers_evaluations() -> None:
    release = {"evaluation.test_jitter_probability": 0.3, "pretrain.epochs": 0}
    classifier = release | {"evaluation.retrieval.enabled": False}
    linear_probe = {"augment": True, "batch_norm_training": True}
    both = {"enabled": True, "splits": (1, 2, 3), "normalise": False, "test_every_epochs": 1}
    expected: dict[str, dict[str, object]] = {
        "retrieval": release,
        "linear_probe": {
            **classifier,
            "seed": 42,
            **{f"evaluation.linear_probe.{key}": value for key, value in (both | linear_probe).items()},
        },
        "finetune": {**classifier, **{f"evaluation.finetune.{key}": value for key, value in both.items()}},
    }
    defaults = parse_spec("name: x", "x.yaml")
    for name in EVALUATIONS:
        changed = {path: new for path, (_, new) in spec_diff(defaults, read_spec(EXPERIMENTS / name)).items()}
        what, _, on = Path(name).stem.rpartition("_")
        del changed["name"]
        assert changed == expected[what] | ({"data.dataset": "HMDB51"} if on == "hmdb51" else {})


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_a_pre_training_and_every_evaluation(name: str) -> None:
    path = EXPERIMENTS / name
    spec = read_spec(path)
    first = read_spec(path.with_name(f"pretrain_{path.name}"))
    assert spec_diff(first, spec).keys() == {"name", "then"}
    assert [f"paper/{name}" for name in spec.then] == EVALUATIONS
    followers = read_followers(path, spec, [])
    assert [follower.encoder for follower in followers] == [spec.encoder] * len(EVALUATIONS)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(name: str) -> None:
    published, spec = (read_spec(EXPERIMENTS / file) for file in ("paper/pretrain_r3d.yaml", f"ablations/{name}.yaml"))
    changed = {path: new for path, (_, new) in spec_diff(published, spec).items()}
    assert changed == {"name": f"ablation-{name.replace('_', '-')}", **ABLATIONS[name]}


@pytest.fixture(scope="module")
def data(make_toy: Callable[..., Path]) -> Path:
    """A toy set of nine training videos, one of them for validation, and eight test videos."""
    root: Path = make_toy(train_per_class=3)
    folder = root / "toy" / "split"
    # Of the 24 training videos: those of scene 2, one for each class, and one of scene 1 to hold out.
    lines = (folder / "trainlist01.txt").read_text().splitlines()
    kept = [line for line in lines if "_g02_" in line] + [line for line in lines if "_g01_" in line][:1]
    assert len(kept) == 9
    (folder / "trainlist01.txt").write_text("\n".join(kept) + "\n")
    return root


@pytest.fixture
def signals() -> Iterator[None]:
    """The trainer listens to signals; the tests' own handlers come back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def points(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for event, _ in read_journal(folder / "journal.jsonl"):
        if event["kind"] == "metrics":
            for name, value in event["values"].items():
                found.setdefault(name, {})[event["step"]] = value
    return found


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("name", WHOLE)
def test_made_small_it_runs_from_spec_to_report(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SACCADE_SUPERVISED", raising=False)
    spec = read_spec(EXPERIMENTS / name, [*SMALL, f"data.root={data}"])
    run = create_run(tmp_path / "runs", spec, ["saccade", "run", name])
    assert main([str(run.path)]) == 0
    said = capfd.readouterr().err
    assert "error" not in said
    assert "after pre-training" in said

    events = [event for event, _ in read_journal(run.journal)]
    stages = [event["name"] for event in events if event["kind"] == "stage"]
    assert stages == ["pretrain", "evaluate", "report"]
    assert events[-1]["kind"] == "end"
    assert events[-1]["status"] == "finished"
    check_metrics(points(run.path), spec)

    announced = [event["path"] for event in events if event["kind"] == "artifact"]
    assert all((run.path / path).exists() for path in announced)
    assert set(announced) == {
        *("figures/training_clips.png", "clusters/epoch_0001", "checkpoints/epoch_0002.pt"),
        *("figures/neighbours.png", "encoder", "figures/curves.png", "summary.md"),
        *("figures/scanpaths.png", "figures/confusion_retrieval.png", "figures/embedding.png", "previews"),
    }
    assert load_checkpoint(run.path / "checkpoints" / "last.pt")["learner"]["step"] == 2
    rows = pq.read_table(run.path / "clusters" / "epoch_0001" / "assignments.parquet")
    assert len(rows) == 2 * 8 * spec.saccade.focus_num
    encoder = load_encoder(run.path / "encoder")
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 8, 32, 32)).shape == (1, 32)
    assert json.loads((run.path / "encoder" / "encoder.json").read_text())["name"] == spec.encoder.name
    assert (run.path / "summary.md").read_text().startswith(f"# {spec.name}\n")


def check_metrics(found: dict[str, dict[int, float]], spec: Spec) -> None:
    assert undocumented(found) == set()
    losses = ("loss_saccade", "loss_consistency", "loss_prototype")
    assert found["pretrain/loss"].keys() == found["pretrain/loss_saccade"].keys() == {1, 2}
    assert found["pretrain/loss_prototype"].keys() == {2}  # after the first clustering
    weights = (1.0, spec.consistency.weight, spec.prototypes.weight)
    for step, total in found["pretrain/loss"].items():
        parts = [w * found[f"pretrain/{n}"].get(step, 0.0) for n, w in zip(losses, weights, strict=True)]
        assert total == pytest.approx(sum(parts), rel=1e-5)
    assert all(math.isfinite(value) for values in found.values() for value in values.values())
    for prefix, step in (("baseline/random_encoder", 0), ("baseline/pixels", 0), ("val", 2), ("test", 2)):
        top1, top5 = (found[f"{prefix}/retrieval_top{k}"] for k in (1, 5))
        assert top1.keys() == top5.keys() == {step}
        assert 0 <= top1[step] <= top5[step] <= 1
    assert found["clusters/0/nonempty"] == {1: 3}
    assert found["clusters/1/nonempty"] == {1: 4}
    assert found["epoch"] == {1: 1, 2: 2}


@pytest.mark.usefixtures("signals", "no_pictures")
@pytest.mark.parametrize(
    ("name", "logged"),
    [
        ("no_mask", {"loss_saccade", "loss_consistency", "loss_prototype"}),
        ("no_consistency", {"loss_saccade", "loss_prototype"}),
        ("no_prototypes", {"loss_saccade", "loss_consistency"}),
        ("random_fixations", {"loss_saccade", "loss_consistency", "loss_prototype"}),
        ("focus_num_1", {"loss_saccade", "loss_consistency", "loss_prototype"}),
    ],
)
def test_made_small_the_ablations_train(
    name: str, logged: set[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SACCADE_SUPERVISED", raising=False)
    small = [override for override in SMALL if override.partition("=")[0] not in ABLATIONS[name]]
    overrides = [*small, f"data.root={data}", "evaluation.retrieval.enabled=false"]
    run = create_run(tmp_path, read_spec(EXPERIMENTS / "ablations" / f"{name}.yaml", overrides), [])
    assert main([str(run.path)]) == 0
    losses = {key.removeprefix("pretrain/") for key in points(run.path) if key.startswith("pretrain/loss_")}
    assert losses == logged


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("name", [name for name in EVALUATIONS if name.endswith("ucf101.yaml")])
def test_made_small_the_evaluations_run(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SACCADE_SUPERVISED", raising=False)
    torch.manual_seed(0)
    encoder, projection = build_encoder("r3d", width=4).eval(), Projection(32, 8)
    save_encoder(tmp_path / "of", encoder, projection, name="r3d", width=4, clip_frames=8, clip_size=32)
    small = [override for override in SMALL if not override.startswith("pretrain.")]
    small += [f"data.root={data}", f"encoder.weights={tmp_path}/of"]
    for protocol in ("linear_probe", "finetune"):
        settings = {"splits": [1], "epochs": 1, "batch_size": 4, "clips": 2, "decay_epochs": []}
        small += [f"evaluation.{protocol}.{key}={value}" for key, value in settings.items()]
    spec = read_spec(EXPERIMENTS / name, small)
    weights = find_initial_weights(spec, tmp_path)
    assert weights is not None
    run = create_run(tmp_path, spec, [])
    adopt(weights, spec.encoder.weights, run)
    assert main([str(run.path)]) == 0
    assert f"test/{Path(name).stem.removesuffix('_ucf101')}_top1" in points(run.path)
