"""Linear probe and fine-tuning as stages of a run: splits, scores, files, and what is told before the first step."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from saccade import load_encoder
from saccade.datasets.clips import EvenClips, Item, VideoClips
from saccade.datasets.layout import Video
from saccade.datasets.render import render
from saccade.evaluation import classifier as classifier_module
from saccade.journal import read_journal
from saccade.runner import main

from ..documented import undocumented

OWN = """
name: small
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: []}}
pretrain: {{epochs: 1, batch_size: 4, schedule: cosine}}
evaluation:
  retrieval: {{enabled: false}}
  linear_probe: {{epochs: 3, batch_size: 4, decay_epochs: [2], clips: 3}}
  finetune: {{epochs: 2, batch_size: 4, decay_epochs: [], clips: 2}}
tracking: {{log_every_steps: 2}}
"""
SPEC = (Path(__file__).parent.parent / "small_spec.yaml").read_text() + OWN
PROBE, FINETUNE = "evaluation.linear_probe", "evaluation.finetune"


@pytest.fixture(scope="module")
def toy(make_toy: Callable[..., Path]) -> Path:
    """Eight training and eight test videos of eight classes; in split 2 they have changed places, but for two."""
    root: Path = make_toy()
    lists = root / "toy" / "split"
    train = (lists / "trainlist01.txt").read_text().splitlines()
    test = (lists / "testlist01.txt").read_text().splitlines()
    (lists / "testlist02.txt").write_text("".join(line.split()[0] + "\n" for line in train[2:]))
    (lists / "trainlist02.txt").write_text("\n".join([*train[:2], *test]) + "\n")
    return root


Make = Callable[..., Path]


@pytest.fixture
def make(toy: Path, make_run: Make, no_pictures: None) -> Make:
    """Make a run's folder with this module's spec."""

    def run(*overrides: str) -> Path:
        return make_run(SPEC.format(root=toy), *overrides)

    return run


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event, _ in read_journal(folder / "journal.jsonl") if event["kind"] == kind]


def points(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for event in events(folder, "metrics"):
        for name, value in event["values"].items():
            found.setdefault(name, {})[event["step"]] = value
    return found


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["class"]: row for row in csv.DictReader(file)}


def test_both_protocols_from_spec_to_report(make_run: Make, toy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    both = (f"{PROBE}.enabled=true", f"{FINETUNE}.enabled=true", f"{FINETUNE}.splits=[1, 2]")
    folder = make_run(SPEC.format(root=toy), *both)
    assert main([str(folder)]) == 0
    said = capfd.readouterr().err
    assert [event["name"] for event in events(folder, "stage")] == [
        *("pretrain", "evaluate", "linear_probe", "finetune/split1", "finetune/split2", "report"),
    ]
    found = points(folder)
    assert undocumented(found) == set()
    # Eight training videos in batches of 4; in split 2 there are ten, and two are left over.
    assert found["linear_probe/loss"].keys() == {2, 4, 6}
    assert found["linear_probe/learning_rate"] == {2: 0.1, 4: 0.1, 6: pytest.approx(0.01)}
    assert found["finetune/split1/loss"].keys() == found["finetune/split2/accuracy"].keys() == {2, 4}
    assert found["test/linear_probe_top1"].keys() == {6}
    for top in ("top1", "top5"):
        one, two = (found[f"test/split{n}/finetune_{top}"][4] for n in (1, 2))
        assert found[f"test/finetune_{top}"] == {4: pytest.approx((one + two) / 2)}
        assert (8 * one) % 1 == (6 * two) % 1 == 0
    assert not any(name.startswith(("best/", "val/")) or "/test_top" in name for name in found)

    for name, videos in (("linear_probe", 8), ("finetune_split1", 8), ("finetune_split2", 6)):
        rows = table(folder / "tables" / f"{name}_per_class.csv")
        assert sum(int(row["videos"]) for row in rows.values()) == videos
        metric = f"test/split{name[-1]}/finetune_top1" if "split" in name else "test/linear_probe_top1"
        right = sum(int(row["right"]) for row in rows.values())
        assert right / videos == pytest.approx(next(iter(found[metric].values())))
    announced = {event["path"] for event in events(folder, "artifact")}
    assert all((folder / path).exists() for path in announced)
    assert {path for path in announced if "finetune" in path} == {
        *("classifiers/finetune_split1.safetensors", "classifiers/finetune_split2.safetensors"),
        *("tables/finetune_split1_per_class.csv", "tables/finetune_split2_per_class.csv"),
        *("figures/confusion_finetune_split1.png", "figures/confusion_finetune_split2.png"),
    }
    assert "fine-tuning (mean of 2 splits)" in said
    assert "figures/confusion_linear_probe.png" in (folder / "summary.md").read_text()


@pytest.mark.parametrize(("protocol", "clips"), [("linear_probe", 3), ("finetune", 2)])
def test_the_score_is_that_of_the_classifier_in_the_file(make: Make, toy: Path, protocol: str, clips: int) -> None:
    folder = make(f"evaluation.{protocol}.enabled=true", f"evaluation.{protocol}.normalise=false")
    assert main([str(folder)]) == 0
    path = folder / "classifiers" / f"{protocol}.safetensors"
    encoder, head = load_encoder(path), {key[5:]: t for key, t in load_file(path).items() if key.startswith("head.")}
    names = (toy / "toy" / "split" / "testlist01.txt").read_text().split()
    classes = sorted({name.split("/")[0] for name in names})
    right = 0
    for name in names:
        frame_dir = toy / "toy" / "jpegs_256" / Path(name).stem
        found = Video(name, 0, frame_dir, 12, ())
        even = EvenClips(clip_frames=4, num_clips=clips, crop=40)
        inputs, _ = render(
            [VideoClips([found], even)[Item(0, 0)]], size=16, device=torch.device("cpu"), normalised=False
        )
        logits = torch.zeros(8)
        for clip in inputs:
            with torch.no_grad():
                x = encoder(clip[None])[0]
            if protocol == "linear_probe":
                x = x / x.norm()
                x = (x - head["bn.running_mean"]) / (head["bn.running_var"] + 1e-5).sqrt()
                x = x * head["bn.weight"] + head["bn.bias"]
            logits += (head["linear.weight"] @ x + head["linear.bias"]) / clips
        right += classes[int(logits.argmax())] == name.split("/")[0]
    assert list(points(folder)[f"test/{protocol}_top1"].values()) == [right / 8]


def test_validation_videos_are_scored_and_not_trained_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: set[int] = set()
    step = classifier_module.classifier_step

    def noting(classifier: Any, features: Any, labels: torch.Tensor, draws: Any) -> Any:
        trained.update(labels.tolist())
        return step(classifier, features, labels, draws)

    monkeypatch.setattr(classifier_module, "classifier_step", noting)
    folder = make(f"{PROBE}.enabled=true", "data.validation=['v_Bob_*', 'v_Sway_*']", "pretrain.epochs=0")
    assert main([str(folder)]) == 0
    # One video a class: the two that are held out are those of classes 0 and 7.
    assert trained == set(range(1, 7))
    found = points(folder)
    assert found["val/linear_probe_top1"] == {3: 0.0}
    assert "val/linear_probe_top5" in found  # six classes to choose from


def test_the_best_epoch_is_apart_from_the_last(make: Make) -> None:
    folder = make(f"{PROBE}.enabled=true", f"{PROBE}.test_every_epochs=1", f"{PROBE}.learning_rate=2.0")
    assert main([str(folder)]) == 0
    found = points(folder)
    curve = found["linear_probe/test_top1"]
    assert list(curve) == [2, 4, 6]
    assert found["best/test_selected_linear_probe_top1"] == {6: max(curve.values())}
    assert found["test/linear_probe_top1"] == {6: curve[6]}


def test_the_releases_settings_run(make: Make) -> None:
    release = [f"{PROBE}.{key}" for key in ("enabled=true", "augment=true", "batch_norm_training=true")]
    folder = make(*release, f"{PROBE}.normalise=false", "evaluation.test_jitter_probability=0.3")
    assert main([str(folder)]) == 0
    assert points(folder)["test/linear_probe_top1"].keys() == {6}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([f"{FINETUNE}.batch_size=9"], "evaluation.finetune.batch_size: 9 videos do not fit in a training list of 8"),
        ([f"{FINETUNE}.splits=[1, 3]"], "has no split 3; it has 1, 2"),
    ],
)
def test_what_cannot_work_is_told_before_the_first_step(
    make: Make, capfd: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    folder = make(f"{FINETUNE}.enabled=true", *overrides)
    assert main([str(folder)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert events(folder, "metrics") == []


@pytest.fixture
def evaluated(make: Make) -> Path:
    folder = make(f"{PROBE}.enabled=true")
    assert main([str(folder)]) == 0
    return folder


def test_a_finished_run_is_not_trained_again(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = points(evaluated)
    monkeypatch.setattr(classifier_module, "classifier_step", None)  # whoever calls it fails
    assert main([str(evaluated)]) == 0
    assert points(evaluated) == before


def test_other_videos_in_another_split_are_no_way_to_go_on(
    make: Make, tmp_path: Path, toy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make(f"{PROBE}.enabled=true", f"{PROBE}.splits=[2]")
    assert main([str(folder)]) == 0
    shutil.copytree(toy, tmp_path / "data")
    lists = tmp_path / "data" / "toy" / "split"
    (lists / "testlist02.txt").write_text("\n".join((lists / "testlist02.txt").read_text().splitlines()[1:]) + "\n")
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace(str(toy), str(tmp_path / "data")))
    capfd.readouterr()
    assert main([str(folder)]) == 2
    assert "evaluation.pt: was trained on dataset digest" in capfd.readouterr().err


def test_without_its_pre_training_a_checkpoint_of_the_evaluation_is_dropped(evaluated: Path) -> None:
    before = points(evaluated)
    (evaluated / "checkpoints" / "last.pt").unlink()
    (evaluated / "journal.jsonl").unlink()
    assert main([str(evaluated)]) == 0
    after = points(evaluated)
    assert after["linear_probe/loss"] == before["linear_probe/loss"]
    assert after["test/linear_probe_top1"] == before["test/linear_probe_top1"]
