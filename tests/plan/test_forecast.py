"""From pieces to a run: every number here is reckoned by hand."""

import pytest

from saccade.plan.forecast import Plan, overlapped_sec
from saccade.plan.measured import Piece, Prototyping
from saccade.plan.text import as_text

from .conftest import MIB, MakePlan, MakeSpec


def seconds(plan: Plan) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in plan.stages}


def test_loading_then_working_without_workers(make_spec: MakeSpec, make_plan: MakePlan) -> None:
    plan = make_plan(make_spec())
    assert (plan.steps, plan.steps_per_epoch, plan.epochs) == (200, 10, 20)
    assert plan.epoch is not None
    assert (plan.epoch.load_sec, plan.epoch.work_sec, plan.epoch.overlapped_sec) == (10.0, 40.0, 50.0)
    assert plan.epoch.waiting == pytest.approx(0.2)
    assert seconds(plan) == {
        "start": 5.0,
        "pre-training": 20 * 50.0,
        "20 checkpoints": 20 * 0.5,
        # 100 training and 50 test videos; of five, loading takes 4 s and each of two encoders 6 s.
        "test retrieval": 150 * (4.0 + 2 * 6.0) / 5,
        "pictures": 2.0,
    }
    assert plan.seconds == 5 + 1000 + 10 + 480 + 2


@pytest.mark.parametrize(
    ("piece", "gain", "cores", "expected"),
    [
        (Piece(1, 1.0, 1.0, 4.0, 4.0), 2.0, 4.0, 4.0),  # hidden behind the work of a GPU
        (Piece(1, 6.0, 6.0, 1.0, 1.0), 2.0, 16.0, 3.0),  # two workers are too slow for it
        (Piece(1, 1.0, 1.0, 4.0, 16.0), 2.0, 4.0, 4.25),  # no core is free for the loading
        (Piece(1, 6.0, 0.5, 1.0, 1.0), 2.0, 2.0, 3.0),  # it is the disk that is slow
    ],
)
def test_workers_load_meanwhile(piece: Piece, gain: float, cores: float, expected: float) -> None:
    assert overlapped_sec(piece, workers=2, gain=gain, cores=cores) == expected
    assert overlapped_sec(piece, workers=0, gain=1.0, cores=cores) == piece.load_sec + piece.work_sec


def test_clusterings_and_prototypes(make_spec: MakeSpec, make_plan: MakePlan) -> None:
    spec = make_spec("prototypes.num_clusters=[5]", "prototypes.warmup_epoch=11", "prototypes.every_epochs=4")
    plan = make_plan(
        spec,
        prototyping=Prototyping(
            features=Piece(10, 0.5, 0.5, 1.5, 6.0),
            kmeans_sec=3.0,
            record_sec=1.0,
            record_bytes=2 * MIB,
            step=Piece(10, 1.0, 1.0, 5.0, 20.0),
            checkpoint_bytes=110 * MIB,
        ),
    )
    assert plan.clusterings == (12, 16)  # the first multiple of 4 from 11 on; not after the last epoch, 20
    found = seconds(plan)
    assert found["pre-training"] == 12 * 50.0 + 8 * 60.0
    assert found["2 clusterings"] == 2 * (100 * 0.2 + 3.0 + 1.0)
    files = {file.name: (file.count, file.bytes) for file in plan.files}
    assert files["clusterings"] == (2, 4 * MIB)
    assert files["kept checkpoints"] == (1, 110 * MIB)


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ((), [20]),
        (("checkpoint.keep_every_epochs=5",), [5, 10, 15, 20]),
        (("checkpoint.final_epochs=6", "checkpoint.keep_every_final_epochs=2"), [16, 18, 20]),
        (("checkpoint.keep_every_epochs=7",), [7, 14, 20]),
    ],
)
def test_checkpoints_on_disk(
    make_spec: MakeSpec, make_plan: MakePlan, overrides: tuple[str, ...], kept: list[int]
) -> None:
    plan = make_plan(make_spec(*overrides))
    (file,) = (file for file in plan.files if file.name == "kept checkpoints")
    assert (file.count, file.bytes) == (len(kept), len(kept) * 100 * MIB)
    assert plan.disk_bytes == (len(kept) * 100 + 50) * MIB
    assert plan.tracked_bytes == plan.disk_bytes


def test_rolling_checkpoints_beside_the_kept_one(make_spec: MakeSpec, make_plan: MakePlan) -> None:
    plan = make_plan(make_spec("checkpoint.keep_last=3"))
    assert {file.name: file.count for file in plan.files} == {
        "rolling checkpoints": 2,  # those of epochs 18 and 19; that of 20 is the kept one
        "kept checkpoints": 1,
        "encoder": 1,
    }


@pytest.mark.parametrize(("minutes", "sent"), [("null", 0), ("30", 0), ("20", 100)])
def test_rolling_checkpoints_in_mlflow(make_spec: MakeSpec, make_plan: MakePlan, minutes: str, sent: int) -> None:
    # The run takes 27 minutes; what is sent twice takes the place of what was sent before.
    plan = make_plan(make_spec("checkpoint.keep_last=3", f"checkpoint.track_every_minutes={minutes}"))
    assert plan.disk_bytes == (200 + 100 + 50) * MIB
    assert plan.tracked_bytes == (sent + 100 + 50) * MIB


def test_saves_within_epochs(make_spec: MakeSpec, make_plan: MakePlan) -> None:
    found = seconds(make_plan(make_spec("checkpoint.every_epochs=10", "checkpoint.every_steps=40")))
    # After steps 40, 80, ... 200, of which 200 ends epoch 20, and after epoch 10, step 100
    assert found["6 checkpoints"] == 3.0


def test_validations(make_spec: MakeSpec, make_plan: MakePlan) -> None:
    spec = make_spec("data.validation=[a*]", "evaluation.retrieval.validate_every_epochs=6")
    plan = make_plan(spec, videos={"train": 100, "validation": 20, "test": 50})
    found = seconds(plan)
    # After epochs 6, 12 and 18: 100 + 20 videos of 2 s each; and after the last one
    assert (found["3 validations"], found["last validation"]) == (3 * 240.0, 240.0)
    assert [file.bytes for file in plan.files if file.name == "best checkpoint"] == [100 * MIB]


def test_a_run_that_trains_nothing(make_spec: MakeSpec, make_plan: MakePlan) -> None:
    plan = make_plan(make_spec("pretrain.epochs=0"), step=None)
    assert (plan.epoch, plan.steps) == (None, 0)
    assert set(seconds(plan)) == {"start", "test retrieval", "pictures"}
    assert [file.name for file in plan.files] == ["encoder"]
    assert "epochs" not in as_text(plan)


def test_the_text(make_spec: MakeSpec, make_plan: MakePlan) -> None:
    text = as_text(make_plan(make_spec()))
    lines = text.splitlines()
    assert lines[0] == "planned: 100 training, 50 test videos, on CPU, 4 threads, fp32; 4 cores"
    assert "20 epochs of 10 steps  data  steps  both at a time  a step" in lines
    assert "an epoch               10 s   40 s            50 s     5 s" in lines
    assert "the steps are the bottleneck, not the data: for 20 % of the time no step goes on" in lines
    assert "pre-training    16.7 min  67 %  200 steps" in lines
    assert "whole run       24.9 min" in lines
    assert "memory at the most    2 GiB  of 16 GiB to be had" in lines
    assert "disk, whole run     150 MiB  of 100 GiB free" in lines
    assert lines[-1] == "Nothing to object to."
    assert max(map(len, lines)) <= 120
