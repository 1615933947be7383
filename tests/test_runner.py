"""The trainer's process from outside: exit codes, one line for a mistake, stops and resumes."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade import pretrain, runner
from saccade.checkpoint import load_checkpoint, save_checkpoint
from saccade.engine.stop import StopRequest
from saccade.journal import Journal, read_journal
from saccade.run_dir import RunDir
from saccade.runner import main
from saccade.spec_reader import read_spec
from saccade.stages import retrieval
from saccade.stages.run import Run

OWN = """
name: small
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: []}}
pretrain: {{epochs: 2, batch_size: 4, schedule: cosine}}
evaluation: {{retrieval: {{clips: 1, topk: [1, 5], baselines: false}}}}
tracking: {{log_every_steps: 1}}
"""
SPEC = (Path(__file__).parent / "small_spec.yaml").read_text() + OWN


@pytest.fixture(scope="module")
def toy(make_toy: Callable[..., Path]) -> Path:
    root: Path = make_toy()
    return root


Make = Callable[..., Path]


@pytest.fixture
def make(toy: Path, make_run: Make, no_pictures: None) -> Make:
    """Make a run's folder with this module's spec."""

    def run(*overrides: str, root: Path = toy) -> Path:
        return make_run(SPEC.format(root=root), *overrides)

    return run


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event, _ in read_journal(folder / "journal.jsonl") if event["kind"] == kind]


def mistake(folder: Path, capfd: pytest.CaptureFixture[str], *, but: str = "saccade: ") -> str:
    """The one line that a run that cannot go on leaves, after the names of its stages and how far it got."""
    capfd.readouterr()
    assert main([str(folder)]) == 2
    lines = [
        line
        for line in capfd.readouterr().err.splitlines()
        if not line.startswith(("saccade: ", "pre-training: ", but))
    ]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not any(event["status"] for event in events(folder, "end"))
    return lines[0]


def test_a_spec_that_cannot_be_read(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make()
    (folder / "spec.yaml").unlink()
    assert "spec.yaml: no such file" in mistake(folder, capfd)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.dataset=nothing", "nothing: the dataset is not there"),
        ("data.root=${SACCADE_NOT_SET}", "data.root: the environment variable SACCADE_NOT_SET is not set"),
        ("clip.frames=40", "fewer usable frames (all but the last) than a clip's 40"),
        ("pretrain.batch_size=9", "pretrain.batch_size: 9 videos do not fit in a training list of 8; use at most 8"),
        ("evaluation.retrieval.topk=[1, 9]", "evaluation.retrieval.topk: 9 neighbours cannot be retrieved among 8"),
    ],
)
def test_what_cannot_work_is_told_before_the_first_step(
    make: Make, capfd: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    folder = make(override)
    assert said in mistake(folder, capfd)
    assert events(folder, "metrics") == []


def test_more_clusters_than_fixations_are_told_before_the_first_step(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make("prototypes.num_clusters=[3, 17]", "prototypes.warmup_epoch=1", "prototypes.every_epochs=1")
    assert mistake(folder, capfd).endswith(
        "prototypes.num_clusters: 17 clusters are more than the 16 fixations of 8 training videos x focus_num; "
        "use at most 16"
    )
    assert events(folder, "metrics") == []


def test_without_epochs_the_random_encoder_is_evaluated(make_run: Make, toy: Path) -> None:
    folder = make_run(SPEC.format(root=toy), "pretrain.epochs=0")
    assert main([str(folder)]) == 0
    assert [set(event["values"]) for event in events(folder, "metrics")] == [
        {"test/retrieval_top1", "test/retrieval_top5"}
    ]
    assert {event["path"] for event in events(folder, "artifact")} == {
        *(f"figures/{name}.png" for name in ("neighbours", "confusion_retrieval", "embedding")),
        "encoder",
        "previews",
        "summary.md",
    }
    assert not (folder / "checkpoints").exists()


def test_without_evaluation_it_trains_only(make: Make) -> None:
    folder = make("evaluation.retrieval.enabled=false", "pretrain.epochs=1", "saccade.source=random")
    assert main([str(folder)]) == 0
    assert {name.split("/")[0] for event in events(folder, "metrics") for name in event["values"]} == {
        *("pretrain", "optim", "perf", "epoch"),
    }
    assert "Nothing was evaluated" in (folder / "summary.md").read_text()


def test_a_stop_is_saved_and_the_run_goes_on_from_there(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, step, done = make(), pretrain.training_step, []

    def stopping(learner: Any, *rest: Any) -> Any:
        done.append(learner.step + 1)
        if done == [1, 2, 3]:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(learner, *rest)

    monkeypatch.setattr(pretrain, "training_step", stopping)
    assert main([str(folder)]) == 143
    assert [event["status"] for event in events(folder, "end")] == ["stopped"]
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["learner"]["step"] == 3
    assert main([str(folder)]) == 0
    assert done == [1, 2, 3, 4]
    assert [event["step"] for event in events(folder, "metrics") if "pretrain/loss" in event["values"]] == [1, 2, 3, 4]
    assert [event["number"] for event in events(folder, "attempt")] == [1, 2]
    # Resumed once more, a finished run trains no further; its results are written down again.
    assert main([str(folder)]) == 0
    assert done == [1, 2, 3, 4]


@pytest.fixture
def trained(make: Make, toy: Path, tmp_path: Path) -> Path:
    """A run of one epoch, on a copy of the data, that is about to go on for a second one."""
    shutil.copytree(toy, tmp_path / "data")
    folder = make("pretrain.epochs=1", root=tmp_path / "data")
    assert main([str(folder)]) == 0
    (folder / "journal.jsonl").write_text(
        "".join(line for line in (folder / "journal.jsonl").read_text().splitlines(True) if '"end"' not in line)
    )
    return make(root=tmp_path / "data")


def test_other_videos_in_the_same_place_are_no_way_to_go_on(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = sorted((tmp_path / "data" / "toy" / "jpegs_256").glob("v_Bob_g01*/*.jpg"))
    frames[0].write_bytes(frames[-1].read_bytes())
    before = load_checkpoint(trained / "checkpoints" / "last.pt")["learner"]["step"]
    said = mistake(trained, capfd)
    assert "was trained on dataset digest" in said
    assert "restore the videos, or start a new run" in said
    assert load_checkpoint(trained / "checkpoints" / "last.pt")["learner"]["step"] == before == 2


def test_data_that_has_moved_is_a_way_to_go_on(trained: Path, tmp_path: Path, make: Make) -> None:
    (tmp_path / "data").rename(tmp_path / "moved")
    make(root=tmp_path / "moved")
    assert main([str(trained)]) == 0
    assert load_checkpoint(trained / "checkpoints" / "last.pt")["learner"]["step"] == 4


def cut(path: Path) -> None:
    """Damage a file, but not what other names it has."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def test_the_one_before_takes_the_place_of_a_damaged_checkpoint(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make("evaluation.retrieval.enabled=false")
    assert main([str(folder)]) == 0
    unbroken = load_checkpoint(folder / "checkpoints" / "last.pt")["learner"]["networks"]["encoder"]
    assert load_checkpoint(folder / "checkpoints" / "last_1.pt")["learner"]["step"] == 2
    cut(folder / "checkpoints" / "last.pt")
    capfd.readouterr()
    assert main([str(folder)]) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "readable" in line]
    assert len(told) == 1
    assert told[0].startswith(f"saccade: {folder}/checkpoints/last.pt: not a readable checkpoint (")
    assert told[0].endswith("; going on from the one before, last_1.pt (it is kept as damaged_last.pt)")
    again = load_checkpoint(folder / "checkpoints" / "last.pt")["learner"]
    assert again["step"] == 4
    assert all(torch.equal(value, unbroken[name]) for name, value in again["networks"]["encoder"].items())
    # Both of them: then that of the last kept epoch.
    for name in ("last.pt", "last_1.pt"):
        cut(folder / "checkpoints" / name)
    capfd.readouterr()
    assert main([str(folder)]) == 0
    assert "going on from the one before, epoch_0002.pt" in capfd.readouterr().err


def test_a_damaged_checkpoint_of_the_evaluation_costs_only_that(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    probe = "evaluation.linear_probe"
    settings = [f"{probe}.enabled=true", f"{probe}.epochs=1", f"{probe}.batch_size=4", f"{probe}.decay_epochs=[]"]
    folder = make("evaluation.retrieval.enabled=false", "pretrain.epochs=1", *settings)
    assert main([str(folder)]) == 0
    scores = [event["values"] for event in events(folder, "metrics") if "test/linear_probe_top1" in event["values"]]
    for name in ("evaluation.pt", "evaluation_1.pt"):
        cut(folder / "checkpoints" / name)
    capfd.readouterr()
    assert main([str(folder)]) == 0
    assert (
        "evaluating anew from the end of pre-training (it is kept as damaged_evaluation.pt)" in capfd.readouterr().err
    )
    assert [
        event["values"] for event in events(folder, "metrics") if "test/linear_probe_top1" in event["values"]
    ] == scores
    assert len(scores) == 1
    assert load_checkpoint(folder / "checkpoints" / "evaluation.pt")["scores"]["linear_probe"]


def test_a_damaged_checkpoint_is_told(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    last = trained / "checkpoints" / "last.pt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    assert "last.pt: not a readable checkpoint" in mistake(trained, capfd)
    save_checkpoint(last, {"something": "else"})
    assert "last.pt: not a checkpoint of this kind of run" in mistake(trained, capfd)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "x/summary.md"), "x/summary.md: cannot be written (No space left on"),
        # As pyarrow puts it, on a disk without room
        (OSError("Error writing bytes to file"), "run: cannot be written (Error writing bytes to file); all before is"),
    ],
)
def test_a_full_disk_is_told_in_one_line(
    make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: OSError, said: str
) -> None:
    def write_report(*_: object) -> str:
        print("nobody can read this", file=sys.stderr)
        raise error

    folder = make("evaluation.retrieval.enabled=false", "pretrain.epochs=1")
    monkeypatch.setattr(runner, "write_report", write_report)
    if error.errno is None:
        room = shutil.disk_usage(folder)._replace(free=0)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    line = mistake(folder, capfd, but="nobody can read this")
    assert said in line
    assert line.endswith("all before is kept: make room, then resume the run")
    monkeypatch.undo()
    assert main([str(folder)]) == 0


def test_output_that_cannot_be_written_ends_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is on the disk that is full."""
    folder = make("evaluation.retrieval.enabled=false", "pretrain.epochs=1")
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        monkeypatch.setattr(sys, "stdout", full)
        assert main([str(folder)]) == 0
        monkeypatch.undo()
        with suppress(OSError):
            full.close()
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["learner"]["step"] == 2


def test_a_run_that_is_being_trained_is_left_alone(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make()
    with RunDir(folder).lock():
        assert "is being trained by pid" in mistake(folder, capfd)
    assert not (folder / "journal.jsonl").exists()


def test_a_broken_frame_stops_the_run_with_its_name(
    make: Make, toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(toy, tmp_path / "data")
    (frame,) = (tmp_path / "data" / "toy" / "jpegs_256").glob("v_Hop_g01*/000006.jpg")
    frame.write_bytes(frame.read_bytes()[:200])
    folder = make("engine.workers=1", "evaluation.retrieval.enabled=false", root=tmp_path / "data")
    assert f"{frame}: this frame is cut off or no JPEG (200 bytes)" in mistake(folder, capfd)


def test_the_random_encoder_is_the_one_that_training_started_from(make: Make) -> None:
    folder = make()
    with Journal.open(folder / "journal.jsonl", mark=None, attempted=0) as journal:
        run = Run(read_spec(folder / "spec.yaml"), folder, journal, StopRequest())
        clips = torch.rand(2, 3, 4, 16, 16)
        run.learner.train(False)
        before = retrieval.current_encoder(run)(clips, None)
        with torch.no_grad():
            for parameter in (*run.learner.encoder.parameters(), *run.learner.projection.parameters()):
                parameter.mul_(1.5)
        run.learner.train()
        assert not torch.allclose(retrieval.current_encoder(run)(clips, None), before)
        assert torch.equal(retrieval._initial_encoder(run, given=False)(clips, None), before)
