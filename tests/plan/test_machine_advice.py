"""What a colleague says to the machine of a run, and where its data are the bottleneck."""

from typing import Any

import pytest

from saccade.plan.machine_advice import advise_on_machine, data_remedy
from saccade.plan.measured import Piece

from .conftest import GIB, WELL, MakePlan, MakeSpec

FAST = {"step": Piece(10, 0.1, 0.1, 4.0, 16.0)}


@pytest.mark.parametrize(
    ("overrides", "machinery", "measured", "said"),
    [
        (("engine.device=cpu",), {"cuda_there": True}, FAST, ["engine.device: cpu, though there is a GPU; set auto"]),
        (
            ("engine.precision=bf16",),
            {},
            FAST,
            ["engine.precision: bf16, which CPU, 4 threads, fp32 only imitates; set auto"],
        ),
        (
            ("engine.precision=fp32",),
            {"device": "cuda", "cuda_there": True, "bf16_units": True},
            FAST,
            ["engine.precision: fp32, though the GPU has units for bf16, which take about half the time; set auto"],
        ),
        (
            (),
            {"load": 9.04},
            FAST,
            [
                "machine: others compute on it (load 9.0 on 4 cores), so these times hold only while they do; plan "
                "again when it is quiet"
            ],
        ),
        (("engine.threads=8",), {}, FAST, ["engine.threads: 8 on 4 cores wait for each other; set null"]),
        (
            ("engine.workers=6",),
            {},
            FAST,
            [
                "engine.workers: 6 on 4 cores only change places; set at most 4",
            ],
        ),
        (
            (),
            {"memory_bytes": 2 * GIB},
            FAST,
            [
                "memory: 2 GiB at the most, of 2 GiB to be had; lower pretrain.batch_size or engine.workers",
            ],
        ),
        (
            (),
            {"disk_bytes": 320 << 20},
            FAST,
            [
                # 150 MiB, and as much again in MLflow's folder beside it
                "disk: 300 MiB are wanted and 320 MiB are free; make room, or keep fewer checkpoints "
                "(checkpoint.keep_every_epochs)"
            ],
        ),
        (
            ("checkpoint.every_epochs=10",),
            {},
            {"step": Piece(10, 1.0, 1.0, 99.0, 396.0)},
            [
                # 10 epochs of 10 steps of 100 s
                "checkpoint.every_epochs: a kill costs up to 2.78 h of work; set checkpoint.every_steps to 36, "
                "about an hour"
            ],
        ),
        (
            (),
            {},
            {**FAST, "save_sec": 8.2},
            ["checkpoint.every_epochs: saving takes 8.2 s every 41 s of training; set 10"],
        ),
        (
            ("pretrain.epochs=400", "checkpoint.every_steps=36"),
            {},
            {"step": Piece(10, 1.0, 1.0, 399.0, 1596.0)},
            [
                "time: 18.5 days on this machine; fewer epochs, a smaller encoder, or a faster machine",
            ],
        ),
    ],
)
def test_machines(
    make_spec: MakeSpec,
    make_plan: MakePlan,
    overrides: tuple[str, ...],
    machinery: dict[str, Any],
    measured: dict[str, Any],
    said: list[str],
) -> None:
    spec = make_spec(*WELL, *overrides)
    assert list(advise_on_machine(spec, make_plan(spec, machinery, **measured), tracked_here=True)) == said


@pytest.mark.parametrize(
    ("overrides", "piece", "cores", "said"),
    [
        (("engine.workers=0",), Piece(10, 0.4, 0.4, 4.0, 4.0), 4.0, None),
        # 3 s to load, 1 s to work on: three workers hide it, and the cores have 4 s in 4 to do.
        (
            ("engine.workers=0",),
            Piece(10, 3.0, 3.0, 1.0, 1.0),
            4.0,
            "75 % of the time; try engine.workers=3: 1 s a step instead of 4 s if all goes well",
        ),
        # All cores are busy as it is: no decoding, then.
        (
            ("engine.workers=1",),
            Piece(10, 3.0, 3.0, 1.0, 1.0),
            1.0,
            "75 % of the time; saccade data pack data/UCF101 --as decoded, then data.store=packed_decoded",
        ),
        (
            ("engine.workers=1", "data.store=packed_decoded"),
            Piece(10, 3.0, 3.0, 1.0, 1.0),
            1.0,
            "75 % of the time, and its 1 core is busy with decoding; more cores or smaller frames would help "
            "(saccade data prepare --short-side)",
        ),
        # The processor idles while the disk seeks.
        (
            ("engine.workers=1",),
            Piece(10, 3.0, 0.3, 1.0, 0.5),
            1.0,
            "67 % of the time; saccade data pack data/UCF101 --as jpeg, then data.store=packed_jpeg",
        ),
        (
            ("engine.workers=1", "data.store=packed_jpeg"),
            Piece(10, 3.0, 0.3, 1.0, 0.5),
            1.0,
            "67 % of the time, mostly for the disk; put data.root on a faster one, or where memory holds it after the "
            "first epoch",
        ),
    ],
)
def test_data_as_the_bottleneck(
    make_spec: MakeSpec, make_plan: MakePlan, overrides: tuple[str, ...], piece: Piece, cores: float, said: str | None
) -> None:
    spec = make_spec(*WELL, *overrides)
    told = None if said is None else f"data: training waits for its clips {said}"
    assert data_remedy(spec, make_plan(spec, {"cores": cores}, step=piece)) == told
