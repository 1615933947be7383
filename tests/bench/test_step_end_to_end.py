"""The benchmark from files to update: both sides see the same clips, and waits are what they are said to be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saccade.bench import end_to_end, step
from saccade.bench.end_to_end import _Runs, bench_end_to_end
from saccade.bench.made_videos import GAZE_ROWS, write_rows, write_videos
from saccade.bench.measure import Report, Row
from saccade.engine.device import Machine
from saccade.spec import ClipSpec, ContrastSpec, DataSpec, EncoderSpec, Spec

CPU = Machine(torch.device("cpu"), "fp32")


def _spec(**changed: object) -> Spec:
    small = {"encoder": EncoderSpec(width=4), "contrast": ContrastSpec(num_negatives=8, projection_dim=8)}
    return step.paper_spec("r3d").model_copy(update={**small, **changed})


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Runs:
    monkeypatch.setattr(end_to_end, "BANK", 12)
    write_videos(tmp_path / "made", videos=2, frames=40, height=64, width=80, seed=1)
    write_rows(tmp_path / "made", GAZE_ROWS)
    spec = _spec(data=DataSpec(root=str(tmp_path), dataset="made"))
    return _Runs(spec, CPU, videos=2, uncounted=0, counted=1, workers=0)


def test_both_sides_see_the_same_clips(runs: _Runs) -> None:
    (ours,), (theirs,) = list(runs._our_batches(CPU)), list(runs._their_batches())
    assert ours.clips.shape == theirs.clips.shape == (12, 3, 16, 112, 112)
    assert torch.equal(ours.videos, theirs.videos)
    # Pillow's bytes, hues and blur; deviations are of about 1.
    assert (ours.clips - theirs.clips).abs().mean() < 0.06
    assert (ours.masks - theirs.masks).abs().mean() < 0.01


def test_what_is_waited_for_is_part_of_the_time(runs: _Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.uncounted, runs.counted = 1, 2
    now = [0.0]
    monkeypatch.setattr(runs, "_now", lambda: now[0])

    def batches() -> object:
        for seconds in (100.0, 1.0, 2.0):
            now[0] += seconds
            yield seconds

    def work(_: object) -> None:
        now[0] += 4.5

    assert runs._train("ours", batches(), work) == 12.0  # type: ignore[arg-type]
    assert runs.waited == {"ours": [0.25]}


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "BANK", 12)
    monkeypatch.setattr(end_to_end, "paper_spec", lambda encoder: _spec(clip=ClipSpec(size=32)))
    small = {"frames": 40, "height": 64, "width": 80}
    monkeypatch.setattr(end_to_end, "write_videos", lambda to, **settings: write_videos(to, **{**settings, **small}))
    report = bench_end_to_end("cpu", rounds=1)
    theirs, ours, their_wait, our_wait = report.rows
    assert ours.ratio == pytest.approx(ours.value / theirs.value)
    assert 0 < our_wait.value < 100
    assert 0 < their_wait.value < 100
    assert report.settings["videos a step"] == 1


def test_a_decoder_on_the_gpu_has_its_own_row(runs: _Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    machines: list[Machine] = []
    monkeypatch.setattr(runs, "_our_batches", lambda machine: machines.append(machine) or iter([None]))
    monkeypatch.setattr(runs, "_their_batches", lambda: iter([None]))
    monkeypatch.setattr(runs.steps, "our_step", lambda batch: None)
    monkeypatch.setattr(runs.steps, "their_step", lambda batch: None)
    sides = {"release style": runs.theirs, "as here": runs.ours, "as here, nvJPEG": runs.ours_decoded_there}
    rows = end_to_end._measured(runs, sides, 1)
    assert [row.name for row in rows] == 2 * list(sides)
    assert [machine.nvjpeg for machine in machines] == [False, True] * 2


def test_the_command(monkeypatch: pytest.MonkeyPatch, saccade: Callable[..., tuple[int, str, str]]) -> None:
    asked = []

    def fake(device: str, **settings: object) -> Report:
        asked.append((device, settings))
        return Report("end-to-end", {}, [Row("clips", "plain", 1.0, "clips/s", None, (1.0,))], {"processor": "x"})

    monkeypatch.setattr(end_to_end, "bench_end_to_end", fake)
    code, out, _ = saccade("bench", "end-to-end", "--rounds", "2", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["name"] == "plain"
    assert saccade("bench", "end-to-end", "--device", "cpu")[0] == 0
    assert asked == [("auto", {"rounds": 2}), ("cpu", {"rounds": 3})]
