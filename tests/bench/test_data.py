"""The benchmark of the input pipeline: its baseline does the same work, and it measures what it says."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saccade.bench import data
from saccade.bench.data import bench_data
from saccade.bench.made_videos import write_rows, write_videos
from saccade.bench.measure import Report, Row
from saccade.bench.release_clips import release_sample
from saccade.datasets.clips import Item, VideoClips
from saccade.datasets.render import render
from saccade.transforms import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    write_videos(folder, videos=1, frames=40, height=128, width=160, seed=1)
    write_rows(folder, [(24, 1, 9), (16, 11, 16), (32, 18, 25)])
    return folder


def test_the_baseline_makes_the_same_clips(made: Path) -> None:
    """As far as Pillow's bytes, its hues of 256 steps and its blur out of three box filters allow."""
    chooser, videos = data._chooser(), data._load(made).train
    deviation = torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)
    for epoch in range(2):
        item = Item(epoch, 0)
        clips, masks = release_sample(videos[0], chooser, item, 112)
        ours, own_masks = render([VideoClips(videos, chooser)[item]], size=112, device=torch.device("cpu"))
        assert own_masks is not None
        assert clips.shape == ours.shape == (6, 3, 16, 112, 112)
        difference = ((clips - ours) * deviation).abs()
        assert difference.mean() < 0.012  # 3 of 255
        assert difference.flatten(1).mean(dim=1).max() < 0.03
        assert (masks - own_masks).abs().mean() < 0.01
    assert (
        abs(float(ours.mean()) - float(((0.5 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).mean())) < 1
    )


def test_every_pipeline_is_measured_beside_the_baseline() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    report = bench_data(rounds=1, videos=1, frames=97, height=64, width=80, read=4)
    assert signal.getsignal(signal.SIGCHLD) == before  # PyTorch's loader leaves one that raises wherever it is.
    groups: dict[str, list[Row]] = {}
    for row in report.rows:
        groups.setdefault(row.group, []).append(row)
        assert row.value > 0
        assert len(row.rounds) == 1 or row.group.startswith("beside the decoder alone")
    # Clips begin at 1, 5; 11, 14; 18, 22: all of frames 1 to 37. And at 0, 16, 32, 48, 64, 80.
    pipelines = [
        "fixations as the gaze makes them (37 frames for 6 x 16)",
        "six clips that share no frame (96 frames for 6 x 16)",
    ]
    assert [name for name in groups if name.endswith("16)")] == pipelines
    for name in pipelines:
        assert [row.name for row in groups[name]] == [
            "release style (Pillow)",
            "folders of JPEG files",
            "packed_jpeg",
            "packed_decoded",
            "packed_jpeg_128 (choice: smaller frames)",
            "packed_decoded_128 (choice: smaller frames)",
        ]
        assert groups[name][0].ratio is None
        for row in groups[name][1:]:
            assert row.ratio == pytest.approx(row.value / groups[name][0].value)
    kinds = [name.partition(" (")[0] for name in pipelines]
    for kind in kinds:
        release, *read = groups.pop(f"for a GPU that augments: {kind}")
        assert [row.name for row in read] == ["folders of JPEG files", "packed_jpeg", "packed_decoded"]
        assert release.ratio is None
        for of, name in (("files", "folders of JPEG files"), ("memory", "packed_jpeg")):
            decoder, ours = groups.pop(f"beside the decoder alone, from {of}: {kind}")
            assert (decoder.name, ours.name) == ("each frame decoded and kept", name)
            assert len(ours.rounds) == 5
        for store in ("folders of JPEG files", "packed_decoded"):
            theirs, ours = groups.pop(f"from a worker to the trainer, {store}: {kind}")
            assert (theirs.name, ours.name) == ("PyTorch's loader", "as here")
            assert ours.ratio == pytest.approx(ours.value / theirs.value)
    assert set(groups) - set(pipelines) == {
        "decoding a file",
        "crop, colours, blur, mask",
        "reading a frame of packed_jpeg",
        "reading a frame of packed_decoded",
    }


def test_the_command(monkeypatch: pytest.MonkeyPatch, saccade: Callable[..., tuple[int, str, str]]) -> None:
    asked = []

    def fake(**settings: object) -> Report:
        asked.append(settings)
        return Report("data", {"rounds": 3}, [Row("clips", "plain", 1.0, "frames/s", None, (1.0,))], {"processor": "x"})

    monkeypatch.setattr(data, "bench_data", fake)
    code, out, _ = saccade("bench", "data", "--rounds", "3", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["name"] == "plain"
    code, out, _ = saccade("bench", "data")
    assert out.splitlines()[-1].split() == ["plain", "1"]
    assert asked == [{"rounds": 3}, {"rounds": 7}]
