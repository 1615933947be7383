"""`saccade analyze` from a spec to its table: published numbers, numbers of videos, rates and times."""

from types import SimpleNamespace

import pytest
import torch

from saccade import builders
from saccade.analysis import timing
from saccade.analysis.costs import Analysis, analyse
from saccade.analysis.counting import PartCost
from saccade.analysis.table import as_text
from saccade.engine.device import Machine
from saccade.errors import DataError, RunError, SpecError
from saccade.models.encoder import build_encoder
from saccade.spec import Spec

SMALL = {
    "name": "x",
    "clip": {"frames": 4, "size": 16},
    "saccade": {"focus_num": 2},
    "encoder": {"width": 4},
    "contrast": {"num_negatives": 8, "projection_dim": 8},
    "prototypes": {"num_clusters": []},
    "pretrain": {"epochs": 3, "batch_size": 4, "decay_epochs": []},
    "engine": {"device": "cpu", "precision": "fp32", "threads": 1},
}


@pytest.fixture
def spec() -> Spec:
    return Spec.model_validate(SMALL)


@pytest.fixture(scope="module")
def published() -> Analysis:
    return analyse(Spec.model_validate({"name": "x", "engine": SMALL["engine"]}), videos=9537, tflops=100)


def test_published_numbers(published: Analysis) -> None:
    assert round(published.parameters / 1e6, 2) == 14.36
    assert round(sum(level.forward_flop for level in published.levels) / 1e9, 1) == 39.8
    assert (published.clips_per_step, published.timing.steps) == (96, 300 * 596)
    # Three times the forward pass, less the gradient of the clips, and the heads.
    assert 11.1e12 < published.step_flop < 3 * 96 * 39.8e9
    assert published.memory_rows == 3 * 9537


def test_the_table(published: Analysis) -> None:
    text = as_text(published)
    lines = text.splitlines()
    assert lines[0] == (
        "r3d on clips of 16 x 112 x 112 (frames, px), 96 a step, in fp32; a multiply-add counts as 2 FLOP"
    )
    assert "whole                          14.36 M        39.8 GFLOP         8.77 GiB" in lines
    assert "rate      100.00 TFLOP/s (given)" in lines
    assert lines[-1].startswith("training  5.6 h: 178800 steps, 9537 videos (given); ")
    assert max(map(len, lines)) <= 120
    assert not any(line.endswith(" ") for line in lines)


def test_time_is_work_over_rate(spec: Spec) -> None:
    analysis = analyse(spec, videos=11, tflops=0.5)
    encoder = analysis.parts[0]
    assert analysis.timing.encoder_sec == (encoder.forward_flop + encoder.backward_flop) / 0.5e12
    assert analysis.timing.step_sec == analysis.step_flop / 0.5e12
    assert analysis.timing.steps == 3 * 2  # 11 videos in batches of 4, the last one dropped
    assert analysis.timing.training_sec == 6 * analysis.timing.step_sec


def test_videos_on_disk_are_counted(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "build_dataset", lambda spec: SimpleNamespace(train=[None] * 9))
    analysis = analyse(spec, tflops=1)
    assert (analysis.videos, analysis.videos_source, analysis.timing.steps) == (9, "on disk", 6)


def test_without_videos_the_memory_is_as_large_as_it_matters(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(spec: Spec) -> None:
        raise DataError("data/UCF101: not there")

    monkeypatch.setattr(builders, "build_dataset", missing)
    unknown = analyse(spec, tflops=1)
    assert (unknown.videos, unknown.timing.training_sec) == (None, None)
    assert unknown.memory_rows == 16 * 8  # clips x negatives
    assert "unknown, as is the number of videos (data/UCF101: not there); give --videos" in as_text(unknown)
    # More videos draw no more rows; their memory is there all the same.
    many = analyse(spec, videos=1000, tflops=1)
    assert (many.memory_rows, many.parts) == (unknown.memory_rows, unknown.parts)
    assert many.memory.bank == 2000 * 32 * 4
    assert many.memory.peak - unknown.memory.peak == many.memory.bank - unknown.memory.bank


def test_a_spec_that_trains_nothing(spec: Spec) -> None:
    untrained = spec.model_copy(update={"pretrain": spec.pretrain.model_copy(update={"epochs": 0})})
    analysis = analyse(untrained, videos=8, tflops=1)
    assert analysis.timing.training_sec == 0
    assert all(part.backward_flop > part.forward_flop > 0 for part in analysis.parts)


def test_too_few_videos(spec: Spec) -> None:
    with pytest.raises(SpecError, match="4 videos do not fit in a training list of 3"):
        analyse(spec, videos=3, tflops=1)


def reckoned(spec: Spec) -> timing.Timing:
    """Time of a step of 16 clips whose encoder takes two thirds of the work."""
    parts = (PartCost("encoder", 1000, 3000), PartCost("heads", 500, 1500))
    encoder = build_encoder("r3d", width=4)
    return timing.step_timing(encoder, spec, Machine(torch.device("cpu"), "fp32"), parts, 16, None, None)


@pytest.mark.parametrize(
    ("seconds_per_clip", "counts", "timed"),
    [(1.0, [2], 2), (0.2, [2, 8], 8), (0.001, [2, 8, 16], 16)],
)
def test_a_rate_is_measured_on_as_many_clips_as_take_a_second(
    spec: Spec, monkeypatch: pytest.MonkeyPatch, seconds_per_clip: float, counts: list[int], timed: int
) -> None:
    asked: list[int] = []

    def time_pass(encoder: object, spec: Spec, machine: object, count: int) -> float:
        asked.append(count)
        return seconds_per_clip * count * (2 if asked.count(count) == 1 else 1)  # the first pass is slow

    monkeypatch.setattr(timing, "_time_pass", time_pass)
    found = reckoned(spec)
    assert asked == [count for count in counts for _ in range(2)]
    assert found.encoder_sec == pytest.approx(16 * seconds_per_clip)
    assert found.step_sec == pytest.approx(1.5 * found.encoder_sec)
    assert f"forward and backward of {timed} of the 16 clips on CPU, " in found.source


def test_a_device_that_is_too_small(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 2

    def time_pass(encoder: object, spec: Spec, machine: object, count: int) -> float:
        if count > largest:
            raise torch.OutOfMemoryError
        return 0.01

    monkeypatch.setattr(timing, "_time_pass", time_pass)
    assert "of 2 of the 16 clips" in reckoned(spec).source
    largest = 0
    with pytest.raises(RunError, match="no memory for 2 clips, so nothing can be measured; give --tflops"):
        reckoned(spec)


def test_a_real_measurement(spec: Spec) -> None:
    assert 1 < reckoned(spec).flop_per_sec < 1e15
