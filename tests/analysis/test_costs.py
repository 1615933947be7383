"""`saccade analyze` from a spec to its table: published numbers, numbers of videos, times at a given rate."""

from types import SimpleNamespace

import pytest

from saccade import builders
from saccade.analysis.costs import Analysis, analyse
from saccade.analysis.table import as_text
from saccade.errors import DataError, SpecError
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
    assert (published.clips_per_step, published.steps) == (96, 300 * 596)
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
    assert "training  178800 steps, 9537 videos (given)" in lines
    # 178800 steps of 11.3 TFLOP at 100 TFLOP a second
    assert lines[-1] == "time      5.6 h; loading of clips, clustering, evaluation not counted"
    assert max(map(len, lines)) <= 120
    assert not any(line.endswith(" ") for line in lines)


def test_time_is_work_over_rate(spec: Spec) -> None:
    analysis = analyse(spec, videos=11, tflops=0.5)
    encoder = analysis.parts[0]
    assert analysis.timing is not None
    assert analysis.timing.encoder_sec == (encoder.forward_flop + encoder.backward_flop) / 0.5e12
    assert analysis.timing.step_sec == analysis.step_flop / 0.5e12
    assert analysis.steps == 3 * 2  # 11 videos in batches of 4, the last one dropped
    assert analysis.timing.training_sec == 6 * analysis.timing.step_sec


def test_without_a_rate_nothing_is_said_of_time(spec: Spec) -> None:
    analysis = analyse(spec, videos=11)
    assert analysis.timing is None
    assert as_text(analysis).splitlines()[-2:] == [
        "training  6 steps, 11 videos (given)",
        "time      give --tflops to reckon with a rate; saccade plan measures what it takes here",
    ]


def test_videos_on_disk_are_counted(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "build_dataset", lambda spec: SimpleNamespace(train=[None] * 9))
    analysis = analyse(spec, tflops=1)
    assert (analysis.videos, analysis.videos_source, analysis.steps) == (9, "on disk", 6)


def test_without_videos_the_memory_is_as_large_as_it_matters(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(spec: Spec) -> None:
        raise DataError("data/UCF101: not there")

    monkeypatch.setattr(builders, "build_dataset", missing)
    unknown = analyse(spec, tflops=1)
    assert (unknown.videos, unknown.steps) == (None, None)
    assert unknown.timing is not None
    assert unknown.timing.training_sec is None
    assert unknown.memory_rows == 16 * 8  # clips x negatives
    assert "unknown, as is the number of videos (data/UCF101: not there); give --videos" in as_text(unknown)
    # More videos draw no more rows; their memory is there all the same.
    many = analyse(spec, videos=1000, tflops=1)
    assert (many.memory_rows, many.parts) == (unknown.memory_rows, unknown.parts)
    assert many.memory.bank == 2000 * 32 * 4
    assert many.memory.peak - unknown.memory.peak == many.memory.bank - unknown.memory.bank
    engine = spec.engine.model_copy(update={"processes": 3, "split_memory": True})
    split = analyse(spec.model_copy(update={"engine": engine}), videos=1000, tflops=1)
    assert split.memory.bank == 667 * 32 * 4
    assert split.memory.peak == many.memory.peak - 1333 * 32 * 4


def test_a_spec_that_trains_nothing(spec: Spec) -> None:
    untrained = spec.model_copy(update={"pretrain": spec.pretrain.model_copy(update={"epochs": 0})})
    analysis = analyse(untrained, videos=8, tflops=1)
    assert analysis.timing is not None
    assert analysis.timing.training_sec == 0
    assert all(part.backward_flop > part.forward_flop > 0 for part in analysis.parts)


def test_too_few_videos(spec: Spec) -> None:
    with pytest.raises(SpecError, match="4 videos do not fit in a training list of 3"):
        analyse(spec, videos=3, tflops=1)
