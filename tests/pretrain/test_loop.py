"""What happens when in pre-training, and the loop against a list of what should happen."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade import builders, pretrain
from saccade.datasets.clips import Sample
from saccade.engine.device import Machine
from saccade.engine.stop import Stopped, StopRequest
from saccade.errors import SpecError
from saccade.journal import Journal, read_journal
from saccade.learner import Learner
from saccade.pretrain import PretrainTimetable, Recipe
from saccade.prototypes import Prototypes
from saccade.spec_reader import parse_spec
from saccade.transforms import Crop, View

from .small import CPU, SIZE, B, T, clusterings, small_spec

# What happens when -------------------------------------------------------------------------------------------------


def published(*overrides: str) -> PretrainTimetable:
    return builders.build_timetable(parse_spec("name: paper", "paper.yaml", overrides), 9537)


class TestTimetable:
    def test_the_published_r3d(self) -> None:
        timetable = published()
        assert timetable.steps_per_epoch == 596  # 9537 // 16
        assert timetable.steps == 300 * 596 == 178_800
        assert [timetable.epoch(step) for step in (1, 596, 597, 178_800)] == [1, 1, 2, 300]
        assert [timetable.ends_epoch(step) for step in (595, 596, 597, 1192)] == [False, True, False, True]
        rates = {1: 0.1, 90: 0.1, 91: 0.02, 180: 0.02, 181: 0.004, 240: 0.004, 241: 0.0008, 300: 0.0008}
        assert {epoch: timetable.rate(epoch) for epoch in rates} == pytest.approx(rates)
        assert timetable.projection_lr_ratio == 0.001
        clustered = [epoch for epoch in range(1, 301) if timetable.clusters_after(epoch)]
        assert clustered == [245, 250, 255, 260, 265, 270, 275, 280, 285, 290, 295]
        before = [step for step in range(1, timetable.steps + 1) if timetable.clusters_before(step)]
        assert before == [epoch * 596 + 1 for epoch in clustered]
        kept = [epoch for epoch in range(1, 301) if builders.keeps(parse_spec("name: x", "x.yaml"), epoch)]
        assert kept == [60, 120, 180, 240, 250, 260, 270, 280, 290, 300]

    def test_the_published_r2plus1d(self) -> None:
        timetable = published("pretrain.epochs=360", "pretrain.batch_size=8", "prototypes.warmup_epoch=301")
        assert timetable.steps_per_epoch == 1192  # 9537 // 8
        clustered = [epoch for epoch in range(1, 361) if timetable.clusters_after(epoch)]
        assert clustered == list(range(305, 360, 5))

    def test_logging_and_saving(self) -> None:
        timetable = published("pretrain.epochs=2", "pretrain.decay_epochs=[]", "prototypes.num_clusters=[]")
        logged = [step for step in range(1, timetable.steps + 1) if timetable.logs(step)]
        assert logged == [*range(10, 1192, 10), 1192]
        assert [step for step in range(1, 1193) if timetable.saves(step)] == [596, 1192]

    def test_saves_within_epochs_and_not_after_each(self) -> None:
        overrides = ["pretrain.epochs=5", "pretrain.decay_epochs=[]", "prototypes.num_clusters=[]"]
        timetable = published(
            *overrides, "checkpoint.every_epochs=2", "checkpoint.every_steps=500", "checkpoint.final_epochs=0"
        )
        saved = [step for step in range(1, 5 * 596 + 1) if timetable.saves(step)]
        # Epochs 2 and 4 by the rule, 5 as the last, and each 500 steps.
        assert saved == [500, 1000, 1192, 1500, 2000, 2384, 2500, 2980]

    def test_a_cosine_falls_from_the_rate_to_nothing(self) -> None:
        timetable = published("pretrain.schedule=cosine")
        assert timetable.rate(1) == 0.1
        assert timetable.rate(151) == pytest.approx(0.05)
        assert timetable.rate(300) == pytest.approx(0.1 * 0.5 * (1 - math.cos(math.pi / 300)))

    def test_without_prototypes_nothing_is_clustered(self) -> None:
        timetable = published("prototypes.num_clusters=[]")
        assert not any(timetable.clusters_after(epoch) for epoch in range(1, 301))

    def test_a_batch_must_fit(self) -> None:
        with pytest.raises(
            SpecError, match=r"pretrain\.batch_size: 16 videos do not fit in a training list of 15; use at most 15"
        ):
            builders.build_timetable(parse_spec("name: x", "x.yaml"), 15)

    def test_no_training_has_no_steps(self) -> None:
        assert published("pretrain.epochs=0").steps == 0


# The loop ----------------------------------------------------------------------------------------------------------


class Loop:
    """`pretrain` on samples of one grey each, with a list of what it does."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, epochs: int = 3, log_every: int = 2
    ) -> None:
        settings = [f"pretrain.epochs={epochs}", f"tracking.log_every_steps={log_every}", "consistency.weight=0"]
        spec = small_spec(*settings, *overrides)
        self.learner = builders.build_learner(spec, 6, CPU)
        self.recipe, self.timetable = builders.build_recipe(spec), builders.build_timetable(spec, 6)
        assert self.timetable.steps_per_epoch == 2
        self.folder, self.stop, self.done = folder, StopRequest(), list[Any]()
        self.stop_in: int | str | None = None
        monkeypatch.setattr(pretrain, "training_step", self.step)

    def step(
        self, learner: Learner, recipe: Recipe, clips: Tensor, masks: Tensor | None, videos: Tensor, machine: Machine
    ) -> dict[str, Tensor]:
        assert all(module.training for module in learner._modules().values())
        number = learner.step + 1
        rates = [group["lr"] for group in learner.optimizer.param_groups]
        self.done.append(("step", number, videos.tolist(), len(clips), pytest.approx(rates)))
        if self.stop_in == number:
            self.stop.request("it was told to")
        return {"pretrain/loss": torch.tensor(float(number**2))}

    def cluster(self, epoch: int) -> list[Prototypes]:
        self.done.append(("cluster", epoch))
        self.learner.train(False)
        if self.stop_in == "cluster":
            raise Stopped("it was told to")
        return clusterings([epoch + 2], slots=12)

    def validate(self) -> None:
        self.done.append(("validate", self.learner.step))
        self.learner.train(False)
        if self.stop_in == "validate":
            raise Stopped("it was told to")

    def save(self, epoch: int) -> None:
        self.done.append(("save", epoch))
        if self.stop_in == "save":
            self.stop.request("it was told to")

    def run(self) -> None:
        left = range(self.learner.step, self.timetable.steps)
        frames = torch.full((T, 3, SIZE, SIZE), 7, dtype=torch.uint8)
        batches = [
            [
                Sample(
                    v + number % 4,
                    frames,
                    (slice(0, T),) * 4,
                    (View(Crop(0, 0, SIZE, SIZE)),) * 4,
                    None,
                )
                for v in range(B)
            ]
            for number in left
        ]
        with Journal.open(self.folder / "journal.jsonl", mark=None, attempted=1 << 40) as journal:
            pretrain.pretrain(
                self.learner,
                self.recipe,
                self.timetable,
                batches,
                machine=CPU,
                cluster=self.cluster,
                validate=self.validate,
                save=self.save,
                journal=journal,
                stop=self.stop,
            )

    def logged(self) -> list[tuple[int, dict[str, float]]]:
        return [
            (event["step"], event["values"])
            for event, _ in read_journal(self.folder / "journal.jsonl")
            if event["kind"] == "metrics"
        ]


def kinds(done: list[Any]) -> list[Any]:
    return [entry[:2] for entry in done]


class TestLoop:
    def test_everything_in_its_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.run()
        # Three epochs of two steps; prototypes after epochs 1 and 2, never after the last.
        assert kinds(loop.done) == [
            *[("step", 1), ("step", 2), ("save", 1), ("cluster", 1)],
            *[("step", 3), ("step", 4), ("save", 2), ("cluster", 2)],
            *[("step", 5), ("step", 6), ("save", 3)],
        ]
        assert loop.learner.step == 6
        assert [len(p.centroids) for p in loop.learner.prototypes] == [4]
        steps = [entry for entry in loop.done if entry[0] == "step"]
        assert [videos for _, _, videos, _, _ in steps] == [[v + n % 4 for v in range(3)] for n in range(6)]
        assert {clips for _, _, _, clips, _ in steps} == {12}
        # Half a cosine over three epochs: 1, 3/4 and 1/4 of the rate.
        assert [rates for *_, rates in steps] == [
            [0.1 * part, 0.0001 * part] for part in (1, 1, 0.75, 0.75, 0.25, 0.25)
        ]

    def test_what_is_logged_is_the_mean_since_the_last_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = Loop(tmp_path, monkeypatch, log_every=4)
        loop.run()
        logged = loop.logged()
        assert [step for step, _ in logged] == [4, 6]
        assert logged[0][1]["pretrain/loss"] == pytest.approx((1 + 4 + 9 + 16) / 4)
        assert logged[1][1]["pretrain/loss"] == pytest.approx((25 + 36) / 2)
        assert [values["epoch"] for _, values in logged] == [2, 3]
        assert [values["optim/learning_rate"] for _, values in logged] == pytest.approx([0.075, 0.025])
        for _, values in logged:
            assert values.keys() == {
                *("pretrain/loss", "optim/learning_rate", "epoch"),
                *("perf/clips_per_sec", "perf/data_wait_fraction"),
            }
            assert values["perf/clips_per_sec"] > 0
            assert 0 <= values["perf/data_wait_fraction"] <= 1

    def test_a_stop_finishes_the_step_and_saves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.stop_in = 3
        with pytest.raises(Stopped, match="it was told to"):
            loop.run()
        assert kinds(loop.done)[-2:] == [("step", 3), ("save", 2)]
        assert loop.learner.step == 3

    def test_a_stop_while_saving_waits_for_the_next_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.stop_in = "save"
        with pytest.raises(Stopped):
            loop.run()
        # Whatever has been done when it leaves has been saved.
        assert kinds(loop.done)[-1] == ("save", loop.timetable.epoch(loop.learner.step))

    def test_a_stop_while_clustering_loses_no_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.stop_in = "cluster"
        with pytest.raises(Stopped):
            loop.run()
        assert kinds(loop.done) == [("step", 1), ("step", 2), ("save", 1), ("cluster", 1)]
        # Resumed from that checkpoint, the clustering comes first.
        loop.done.clear()
        loop.stop_in = None
        loop.run()
        assert kinds(loop.done)[:2] == [("cluster", 1), ("step", 3)]
        assert kinds(loop.done)[-1] == ("save", 3)

    def test_validations_come_between_epochs_of_saved_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        every = [f"checkpoint.{name}=60" for name in ("every_epochs", "final_epochs", "keep_every_final_epochs")]
        validation = ["data.validation=[x]", "evaluation.retrieval.validate_every_epochs=2"]
        loop = Loop(tmp_path, monkeypatch, *every, *validation, epochs=4)
        loop.stop_in = "validate"
        with pytest.raises(Stopped):
            loop.run()
        first = [*[("step", 1), ("step", 2), ("cluster", 1)], *[("step", 3), ("step", 4), ("save", 2), ("validate", 4)]]
        assert kinds(loop.done) == first
        loop.done.clear()
        loop.stop_in = None
        loop.run()
        # Again from that checkpoint. The one after the last epoch is not the loop's.
        assert kinds(loop.done) == [
            *[("validate", 4), ("cluster", 2), ("step", 5), ("step", 6)],
            *[("cluster", 3), ("step", 7), ("step", 8), ("save", 4)],
        ]

    def test_nothing_is_done_after_the_last_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = Loop(tmp_path, monkeypatch)
        loop.learner.step = 6
        loop.run()
        assert loop.done == []
