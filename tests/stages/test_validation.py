"""Validation within pre-training: its scores, what it leaves alone, the best checkpoint, and kills in the middle."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saccade.checkpoint import load_checkpoint
from saccade.journal import read_journal
from saccade.runner import main
from saccade.stages import pretraining, validation
from saccade.stages.run import BEST, LAST

OWN = """
name: small
data: {{root: {root}, dataset: toy, validation: ["*_c02"]}}
prototypes: {{num_clusters: [3], warmup_epoch: 2, every_epochs: 1, iterations: 2, restarts: 1}}
pretrain: {{epochs: 4, batch_size: 4, schedule: step, decay_epochs: []}}
evaluation: {{retrieval: {{clips: 2, topk: [1, 5], baselines: false}}}}
checkpoint: {{every_epochs: 3}}
tracking: {{log_every_steps: 1}}
"""
SPEC = (Path(__file__).parent.parent / "small_spec.yaml").read_text() + OWN
EVERY = "evaluation.retrieval.validate_every_epochs"
Make = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def toy(make_toy: Callable[..., Path]) -> Path:
    root: Path = make_toy(train_per_class=2, frames=14)
    return root


@pytest.fixture
def make(toy: Path, make_run: Make) -> Make:
    """Make a run's folder with this module's spec: 8 training, 8 validation and 8 test videos, 2 steps an epoch."""

    def run(*overrides: str) -> Path:
        folder = make_run(SPEC.format(root=toy), *overrides)
        for name in ("journal.jsonl", "checkpoints"):
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
        return folder

    return run


def points(folder: Path, prefix: str) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], float] = {}
    for event, _ in read_journal(folder / "journal.jsonl"):
        if event["kind"] == "metrics":
            for name, value in event["values"].items():
                if name.startswith(prefix):
                    assert (name, event["step"]) not in found
                    found[name, event["step"]] = value
    return found


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, f"{path}/{key}")
    else:
        yield path, value


def learner(folder: Path, name: str = LAST) -> dict[str, object]:
    return dict(leaves(load_checkpoint(folder / name)["learner"]))


def assert_same(first: dict[str, object], second: dict[str, object]) -> None:
    assert first.keys() == second.keys()
    for path, value in first.items():
        other = second[path]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, path  # type: ignore[arg-type]


def test_scores_are_those_of_the_end_of_shorter_runs_and_training_does_not_notice(make: Make) -> None:
    expected: dict[tuple[str, int], float] = {}
    for epochs in (1, 2, 3, 4):
        folder = make(f"pretrain.epochs={epochs}", *(["prototypes.num_clusters=[]"] if epochs < 3 else []))
        assert main([str(folder)]) == 0
        found = points(folder, "val/")
        assert set(found) == {("val/retrieval_top1", 2 * epochs), ("val/retrieval_top5", 2 * epochs)}
        expected |= found
        assert points(folder, "best/") == {}
        assert not (folder / BEST).exists()
    plain, plain_points = learner(folder), points(folder, "pretrain/") | points(folder, "test/")

    folder = make(f"{EVERY}=1")
    assert main([str(folder)]) == 0
    assert points(folder, "val/") == expected
    assert points(folder, "pretrain/") | points(folder, "test/") == plain_points
    assert_same(learner(folder), plain)
    top1 = [expected["val/retrieval_top1", step] for step in (2, 4, 6, 8)]
    assert points(folder, "best/") == {
        ("best/val_retrieval_top1", 2 * epoch): max(top1[:epoch]) for epoch in (1, 2, 3, 4)
    }

    # Every third epoch, and after the last.
    folder = make(f"{EVERY}=3")
    assert main([str(folder)]) == 0
    assert points(folder, "val/") == {key: value for key, value in expected.items() if key[1] in (6, 8)}
    assert_same(learner(folder), plain)


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float], *, die_at: int = 0) -> list[int]:
    """Let validations find these top-1 scores; gives the steps at which they came. One of them may end the trainer."""
    steps: list[int] = []

    def score(run: Any, part: Any, encoders: Any, *, desc: str) -> list[Any]:
        steps.append(run.learner.step)
        if len(steps) == die_at:
            raise KeyboardInterrupt
        value = scores[run.learner.step // 2 - 1]
        return [SimpleNamespace(hits={1: value}, metrics=lambda prefix: {f"{prefix}/retrieval_top1": value})]

    monkeypatch.setattr(validation, "score_retrieval", score)
    return steps


def test_the_best_checkpoint_is_that_of_the_first_highest_score(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("pretrain.epochs=3")
    assert main([str(folder)]) == 0
    third = learner(folder)

    folder = make(f"{EVERY}=1")
    steps = scripted(monkeypatch, [0.25, 0.125, 0.5, 0.5])
    assert main([str(folder)]) == 0
    assert steps == [2, 4, 6, 8]
    assert_same(learner(folder, BEST), third)
    assert list(points(folder, "best/").values()) == [0.25, 0.25, 0.5, 0.5]
    announced = [e["path"] for e, _ in read_journal(folder / "journal.jsonl") if e["kind"] == "artifact"]
    assert announced.count(BEST) == 2
    assert load_checkpoint(folder / LAST)["best"] == {"step": 6, "score": 0.5}


def test_killed_in_validations_it_ends_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [0.25, 0.5, 0.375, 0.125]
    folder = make(f"{EVERY}=1")
    scripted(monkeypatch, scores)
    assert main([str(folder)]) == 0
    unbroken = [learner(folder), learner(folder, BEST), points(folder, "")]

    folder = make(f"{EVERY}=1")
    lives = []
    for die_at in (2, 2, 2):
        steps = scripted(monkeypatch, scores, die_at=die_at)
        with pytest.raises(KeyboardInterrupt):
            main([str(folder)])
        lives.append(steps)
    # The second is made again, with its outcome not yet in any checkpoint, and so on.
    lives.append(scripted(monkeypatch, scores))
    assert main([str(folder)]) == 0
    assert lives == [[2, 4], [4, 6], [6, 8], [8]]
    assert_same(learner(folder), unbroken[0])  # type: ignore[arg-type]
    assert_same(learner(folder, BEST), unbroken[1])  # type: ignore[arg-type]
    found = points(folder, "")
    assert {key: value for key, value in found.items() if not key[0].startswith("perf/")} == {
        key: value
        for key, value in unbroken[2].items()  # type: ignore[union-attr]
        if not key[0].startswith("perf/")
    }


def test_a_run_that_goes_on_with_more_epochs_remembers_its_best(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(f"{EVERY}=2", "pretrain.epochs=3")
    scripted(monkeypatch, [0.0, 0.25, 0.75, 0.5])
    assert main([str(folder)]) == 0
    assert load_checkpoint(folder / BEST)["learner"]["step"] == 6
    text = (folder / "spec.yaml").read_text()
    (folder / "spec.yaml").write_text(text.replace("epochs: 3", "epochs: 4"))
    assert main([str(folder)]) == 0
    assert points(folder, "best/") == {
        ("best/val_retrieval_top1", 4): 0.25,
        ("best/val_retrieval_top1", 6): 0.75,
        ("best/val_retrieval_top1", 8): 0.75,
    }
    assert load_checkpoint(folder / BEST)["learner"]["step"] == 6


class Untouchable:
    """In the place of the test videos."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the test split was touched")

    def __len__(self) -> int:
        raise AssertionError("the test split was touched")

    __getitem__ = __iter__


def test_no_test_video_is_touched(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(f"{EVERY}=1")
    seen: list[set[str]] = []

    def guarded(run: Any) -> None:
        data = run.data
        run.data = dataclasses.replace(data, test=Untouchable())
        extract = run.extract

        def watch(videos: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append({video.name for video in videos})
            return extract(videos, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(run, "extract", watch)
            validation.validate(run)
        run.data = data

    monkeypatch.setattr(pretraining, "validate", guarded)
    assert main([str(folder)]) == 0
    assert len(seen) == 8
    for gallery, queries in zip(seen[::2], seen[1::2], strict=True):
        assert {name[-4:] for name in gallery} == {"_c01"}
        assert {name[-4:] for name in queries} == {"_c02"}
        assert len(gallery) == len(queries) == 8


def test_it_stands_without_retrieval_at_the_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(f"{EVERY}=4", "evaluation.retrieval.enabled=false")
    assert main([str(folder)]) == 0
    assert set(points(folder, "val/")) == {("val/retrieval_top1", 8), ("val/retrieval_top5", 8)}
    assert points(folder, "test/") == {}


def test_too_few_training_videos_are_told_before_the_first_step(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make(f"{EVERY}=1", "evaluation.retrieval.enabled=false", "evaluation.retrieval.topk=[1, 9]")
    assert main([str(folder)]) == 2
    assert "topk: 9 neighbours cannot be retrieved among 8 training videos" in capfd.readouterr().err
