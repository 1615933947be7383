"""What a colleague says to a spec and its videos: nothing where all is well, one line for each trouble."""

from pathlib import Path
from typing import Any

import pytest

from saccade.datasets.layout import Dataset, Video
from saccade.gaze.scanpath import Fixation
from saccade.plan.advice import advise_on_data, advise_on_schedule
from saccade.plan.machine_advice import advise_on_machine
from saccade.plan.measured import Piece

from .conftest import WELL, MakePlan, MakeSpec

ROWS = (Fixation(0, 10, 20), Fixation(5, 20, 40), Fixation(9, 40, 45))


def video(name: str, label: int = 0, frames: int = 100, fixations: tuple[Fixation, ...] = ROWS) -> Video:
    return Video(name, label, Path("x") / name, frames, fixations)


def dataset(**parts: Any) -> Dataset:
    """100 training and 100 test videos of ten classes, with parts of it replaced."""
    whole: dict[str, Any] = {
        "train": tuple(video(f"v_A_g{i:02d}_c01", i % 10) for i in range(100)),
        "validation": (),
        "test": tuple(video(f"t{i}", i % 10, fixations=()) for i in range(100)),
    }
    return Dataset(name="x", classes=tuple("ABCDEFGHIJ"), digest="", **{**whole, **parts})


def test_nothing_to_object_to(make_spec: MakeSpec, make_plan: MakePlan) -> None:
    spec = make_spec(*WELL)
    # Clips that come in no time
    plan = make_plan(spec, step=Piece(10, 0.1, 0.1, 4.0, 16.0))
    assert list(advise_on_schedule(spec, plan)) == []
    assert list(advise_on_data(spec, dataset(), plan)) == []
    assert list(advise_on_machine(spec, plan, tracked_here=True)) == []


CLUSTERS = ("prototypes.num_clusters=[30]", "prototypes.warmup_epoch=5", "prototypes.every_epochs=5")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        # 300 fixations: 30 clusters of 10 are just enough, 31 are not; from epoch 5 on they are made 3 times
        (CLUSTERS, []),
        (
            (*CLUSTERS, "prototypes.num_clusters=[30, 31]"),
            [
                "prototypes.num_clusters: 31 clusters of 300 fixations (100 videos x 3) are 9.7 a cluster; use "
                "at most 30"
            ],
        ),
        (
            (*CLUSTERS, "prototypes.num_clusters=[15]", "prototypes.min_points_per_centroid=40"),
            [
                "prototypes.num_clusters: 15 clusters of 300 fixations (100 videos x 3) are 20.0 a cluster; use "
                "at most 7"
            ],
        ),
        (
            (*CLUSTERS, "prototypes.num_clusters=[2]", "prototypes.max_points_per_centroid=30"),
            ["prototypes.max_points_per_centroid: k-means sees 20 % of the fixations; raise it to see all"],
        ),
        (
            (*CLUSTERS, "prototypes.weight=0"),
            ["prototypes.weight: 0, so 3 clusterings are made for nothing; set prototypes.num_clusters to []"],
        ),
        (
            (
                "prototypes.num_clusters=[30]",
                "prototypes.warmup_epoch=40",
                "prototypes.every_epochs=39",
                "pretrain.epochs=80",
            ),
            [
                "prototypes.warmup_epoch: the first clustering, after epoch 78, leaves 2 of 80 epochs to "
                "prototypes; lower "
                "it"
            ],
        ),
        (
            ("prototypes.num_clusters=[30]", "prototypes.warmup_epoch=5", "prototypes.every_epochs=12"),
            [],
        ),
        (
            (
                "prototypes.num_clusters=[30]",
                "prototypes.warmup_epoch=1",
                "prototypes.every_epochs=30",
                "pretrain.epochs=61",
            ),
            [],
        ),
        (
            ("pretrain.epochs=100", "pretrain.decay_epochs=[50, 97]"),
            ["pretrain.decay_epochs: the last decay, after epoch 97, leaves 3 of 100 epochs"],
        ),
        (
            ("pretrain.schedule=cosine", "pretrain.decay_epochs=[5]"),
            ["pretrain.decay_epochs: not used by schedule cosine; remove them, or set schedule to step"],
        ),
        (
            ("tracking.log_every_steps=50",),
            ["tracking.log_every_steps: 50 of 200 steps give curves of 4 points; lower it"],
        ),
        (
            ("checkpoint.every_epochs=21",),
            [
                "checkpoint.every_epochs: 21 is beyond the last epoch, 20: a run that is killed begins anew; lower it",
            ],
        ),
        (
            ("checkpoint.every_steps=201",),
            ["checkpoint.every_steps: 201 is beyond the last step, 200; lower or remove it"],
        ),
        (
            ("data.validation=[a*]", "evaluation.retrieval.validate_every_epochs=20"),
            [
                "evaluation.retrieval.validate_every_epochs: 20 is not before the last epoch, 20: only the end "
                "is validated, "
                "and there is nothing to choose the best from; lower it"
            ],
        ),
        (
            (
                "evaluation.finetune.enabled=true",
                "evaluation.finetune.epochs=3",
                "evaluation.finetune.decay_epochs=[]",
                "evaluation.finetune.test_every_epochs=3",
            ),
            ["evaluation.finetune.test_every_epochs: not before the last epoch, 3; remove it"],
        ),
        (("pretrain.epochs=0",), []),
    ],
)
def test_schedules(make_spec: MakeSpec, make_plan: MakePlan, overrides: tuple[str, ...], said: list[str]) -> None:
    spec = make_spec(*WELL, *overrides)
    tasks_are_left_out = spec.model_copy(
        update={"evaluation": make_spec().evaluation.model_copy(update={"retrieval": spec.evaluation.retrieval})}
    )
    assert list(advise_on_schedule(spec, make_plan(tasks_are_left_out))) == said


SHORT = tuple(video(f"s{i}", i, frames=17) for i in range(6)) + tuple(video(f"v{i}", i % 10) for i in range(94))
LONE = (video("a", fixations=ROWS[:1]),) * 30 + (video("b", fixations=(ROWS[0], ROWS[0], ROWS[1])),) * 30


@pytest.mark.parametrize(
    ("overrides", "parts", "said"),
    [
        (
            ("pretrain.batch_size=15",),
            {},
            [
                "pretrain.batch_size: 10 of 100 training videos are left out of every epoch (others each time), "
                "the last "
                "batch not being full; 14 would leave out 2"
            ],
        ),
        (
            ("pretrain.batch_size=25",),
            {},
            [
                "pretrain.batch_size: 25 makes 4 steps an epoch, and all schedules count epochs; lower it, or "
                "give more epochs"
            ],
        ),
        (
            ("contrast.num_negatives=600",),
            {},
            [
                "contrast.num_negatives: 600 are drawn with replacement from 300 memory slots, so that each "
                "comes 2.0 times, "
                "a clip's own too; use at most 300"
            ],
        ),
        (
            (),
            {"train": SHORT},
            [
                "clip.frames: 6 of 100 training videos are hardly longer than a clip of 16 frames, so that both "
                "views of a "
                "fixation are the same frames (s0, s1, ...); shorten it, or exclude them"
            ],
        ),
        (
            (),
            {"train": LONE + tuple(video(f"v{i}", i % 10) for i in range(40))},
            [
                "saccade.focus_num: 60 of 100 training videos have fewer than 3 fixations in different cells at their "
                "beginning; the rest is drawn at random"
            ],
        ),
        (("saccade.source=random",), {"train": tuple(video(f"v{i}", i % 10, fixations=()) for i in range(100))}, []),
        (
            ("data.only_present=true",),
            {},
            [
                "data.only_present: scores will hold for the 100 training and 100 test videos that are here, not "
                "for the "
                "official split"
            ],
        ),
        (
            ("evaluation.retrieval.enabled=false",),
            {},
            ["evaluation: nothing is scored; switch on retrieval, linear_probe or finetune"],
        ),
        (
            (),
            {"train": tuple(video(f"v{i}", i % 8) for i in range(100))},
            ["data: 2 classes have test videos and no training video (I, J), so 20 of 100 test videos cannot be right"],
        ),
        (
            (),
            {"test": tuple(video(f"t{i}", i % 10) for i in range(40))},
            [
                "data: with 40 test videos one video is 2.5 points of a score; compare several seeds before you "
                "believe a "
                "difference"
            ],
        ),
        (
            ("evaluation.retrieval.topk=[1, 25, 26]",),
            {},
            [
                "evaluation.retrieval.topk: 26 of 100 training videos is more than a quarter of them, which says "
                "little; "
                "leave it out"
            ],
        ),
        (
            (),
            # 25 frames: 24 usable ones, in which a clip of 16 can begin at nine places
            {"test": tuple(video(f"t{i}", i % 10, frames=25 if i < 6 else 26) for i in range(100))},
            [
                "evaluation.retrieval.clips: 6 of 100 test videos are too short for 10 different clips (t0, t1, "
                "...); fewer "
                "do as well"
            ],
        ),
        (
            ("evaluation.test_jitter_probability=0.3",),
            {},
            [
                "evaluation.test_jitter_probability: test clips are coloured at random, which blurs the scores; "
                "0 does not"
            ],
        ),
        (
            ("evaluation.linear_probe.enabled=true", "evaluation.linear_probe.test_every_epochs=1"),
            {},
            [
                "evaluation.linear_probe.test_every_epochs: the best epoch is chosen on the test videos; report "
                "the last "
                "one's score, test/linear_probe_top1, and the other by its name, best/test_selected_linear_probe_top1"
            ],
        ),
        (
            ("data.validation=['*_c02']",),
            {"validation": (video("v_A_g07_c02"), video("v_A_g70_c02"), video("v_B_g07_c02"))},
            [
                "data.validation: 2 of 3 held-out videos have videos of their own group (the same scene) in training "
                "(v_A_g07_c02, v_A_g70_c02); hold out whole groups, such as '*_g08_*'"
            ],
        ),
        (
            ("clip.eval_crop=241",),
            {},
            ["clip.eval_crop: 241 px, but frames are 320 x 240: their whole short side is taken; set at most 240"],
        ),
        (("clip.size=256",), {}, ["clip.size: 256 px are more than frames of 320 x 240 have; they are enlarged"]),
        (("pretrain.epochs=0", "contrast.num_negatives=600"), {}, []),
    ],
)
def test_videos(
    make_spec: MakeSpec, make_plan: MakePlan, overrides: tuple[str, ...], parts: dict[str, Any], said: list[str]
) -> None:
    spec = make_spec(*WELL, *overrides)
    plan = make_plan(make_spec(*WELL, *(each for each in overrides if "linear_probe" not in each)))
    assert list(advise_on_data(spec, dataset(**parts), plan)) == said
