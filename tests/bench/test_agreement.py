"""The comparison of a device with the CPU: the CPU agrees with itself, and what differs is told."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saccade.bench import agreement
from saccade.bench.agreement import bench_agreement, disagreements
from saccade.bench.made_videos import write_videos
from saccade.bench.measure import Report, Row
from saccade.bench.step import Batch
from saccade.datasets.clips import VideoClips
from saccade.engine import nvjpeg
from saccade.engine.device import Machine
from saccade.spec import Spec

from ..nvjpeg_stand_in import on_cpu

CPU = Machine(torch.device("cpu"), "fp32")
GROUPS = [
    "augmented clips, mean difference",
    "their masks, mean difference",
    "losses of 2 steps, mean difference",
    "objective of a clustering, difference",
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"height": 64, "width": 80}
    monkeypatch.setattr(agreement, "write_videos", lambda to, **given: write_videos(to, **{**given, **size}))
    monkeypatch.setattr(agreement, "_STEPS", 2)
    monkeypatch.setattr(agreement, "pick_machine", lambda device: CPU)


def found(report: Report) -> dict[str, float]:
    return {row.group: row.value for row in report.rows if row.name == "found"}


def test_the_cpu_agrees_with_itself() -> None:
    report = bench_agreement("cpu")
    assert found(report) == dict.fromkeys(GROUPS, 0.0)
    assert disagreements(report) == []
    assert "x baseline" not in str(report)


@pytest.mark.parametrize(
    ("name", "change", "group"),
    [
        ("render", lambda made: (made[0] + 0.001, made[1]), GROUPS[0]),
        ("render", lambda made: (made[0], made[1] + 0.01), GROUPS[1]),
        ("training_step", lambda made: {**made, "pretrain/loss": made["pretrain/loss"] * 1.1}, GROUPS[2]),
        ("training_step", lambda made: {**made, "pretrain/loss": made["pretrain/loss"] * np.nan}, GROUPS[2]),
        ("fit_prototypes", lambda made: replace(made, objective=made.objective * 1.02), GROUPS[3]),
    ],
)
def test_a_device_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Any], Any], group: str
) -> None:
    """One of the two does, that which is asked first, half of all times."""
    real, asked = getattr(agreement, name), []
    half = 2 if name == "training_step" else 1

    def call(*args: object, **settings: object) -> object:
        asked.append(name)
        made = real(*args, **settings)
        return change(made) if len(asked) <= half else made

    monkeypatch.setattr(agreement, name, call)
    assert disagreements(bench_agreement("cpu")) == [group]


def test_each_way_of_training_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Machine] = []

    def losses(spec: Spec, batch: Batch, machine: Machine) -> list[float]:
        asked.append(machine)
        if machine.graphs:
            raise RuntimeError("recording failed\nTraceback")
        return [5.0 + (machine.precision == "bf16"), 4.0]

    gpu = Machine(torch.device("cuda"), "bf16")
    monkeypatch.setattr(agreement, "_losses", losses)
    monkeypatch.setattr(agreement, "pick_machine", lambda device: gpu)
    for part in ("_augmented", "_clustered"):
        monkeypatch.setattr(agreement, part, lambda *_: [])
    monkeypatch.setattr(nvjpeg, "why_not", lambda: "no decoder")
    monkeypatch.setattr(Machine, "description", "a GPU")
    report = bench_agreement("cuda")
    assert report.settings["nvJPEG"] == "no decoder"
    ours = [machine for machine in asked if machine.device.type == "cuda"]
    assert [(way.precision, way.compiled, way.graphs) for way in ours] == [
        ("fp32", False, False),
        ("bf16", False, False),
        ("bf16", True, False),
        ("bf16", True, True),
    ]
    graphs = "losses of 2 steps, compiled, CUDA graphs, mean difference"
    assert list(found(report).values()) == pytest.approx([0, 0.1, 0.1, np.nan], nan_ok=True)
    assert report.settings[graphs] == "recording failed"
    assert len(disagreements(report)) == 3


def test_frames_by_another_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    clips: VideoClips = agreement._clips(tmp_path / "made")
    for decoded, wanted in (
        (on_cpu, pytest.approx(0.0)),
        (lambda files: 255 - on_cpu(files), pytest.approx(100, abs=60)),
        (lambda files: on_cpu(files)[:-1], pytest.approx(np.nan, nan_ok=True)),
    ):
        monkeypatch.setattr(nvjpeg, "_decoded", decoded)
        rows = agreement._decoded(clips)
        assert rows[0].value == wanted
        report = Report("agreement", {}, rows, {})
        assert disagreements(report) == ([] if decoded is on_cpu else ["frames by nvJPEG, mean difference"])


def test_the_command(monkeypatch: pytest.MonkeyPatch, saccade: Callable[..., tuple[int, str, str]]) -> None:
    def fake(device: str) -> Report:
        rows = [
            Row("clips", name, value, "of 255", None, (value,)) for name, value in (("found", 3.0), ("allowed", 1.0))
        ]
        return Report("agreement", {"on": device}, rows if device == "cpu" else [], {"processor": "x"})

    monkeypatch.setattr(agreement, "bench_agreement", fake)
    code, out, said = saccade("bench", "agreement", "--device", "cpu")
    assert code == 1
    assert "allowed" in out
    assert said.strip() == "error: clips: more than allowed, so do not trust what cpu computes"
    assert saccade("bench", "agreement")[0] == 0
