"""Samples whose frames a GPU decodes: from the files to the trainer, with libjpeg-turbo in the GPU's place."""

from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.datasets.clips import Item, Sample, VideoClips
from saccade.datasets.layout import Video
from saccade.datasets.loader import make_loader
from saccade.datasets.packed import PackedStore, open_store
from saccade.engine import nvjpeg
from saccade.engine.device import Machine
from saccade.errors import DataError, SpecError
from saccade.gaze.scanpath import Fixation
from saccade.spec_reader import parse_spec
from saccade.transforms_gpu import apply_views, table_of

from ..nvjpeg_stand_in import on_cpu
from .made_clips import FULL, training_views
from .packing import JPEG, packed

GPU = Machine(torch.device("cuda"), "fp32", nvjpeg=True)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's loader pins what it has loaded, as where there is a GPU, which decodes."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    monkeypatch.setattr(nvjpeg, "_decoded", on_cpu)


@pytest.fixture(params=["frames", "packed_jpeg"])
def videos(request: pytest.FixtureRequest, dataset: Path) -> VideoClips:
    store = None
    if request.param == "packed_jpeg":
        packed(dataset, JPEG)
        store = open_store(dataset / "packed_jpeg")
    return clips_of(dataset, store)


def clips_of(dataset: Path, store: PackedStore | None = None) -> VideoClips:
    """Of the dataset's videos of 12 frames."""
    rows = (Fixation(10, 0, 4), Fixation(3, 3, 6))
    folder = dataset / (store.settings.name if store else "jpegs_256")
    videos = [Video(name, 0, folder / name, 12, rows, store) for name in ("v0", "v1")]
    return VideoClips(videos, training_views(FULL, frames=4))


def assert_decoded(sample: Sample, wanted: Sample) -> None:
    assert sample.ends is None
    assert (sample.index, sample.views, sample.spans) == (wanted.index, wanted.views, wanted.spans)
    assert torch.equal(sample.frames, wanted.frames)
    assert sample.masks is not None
    assert torch.equal(sample.masks, wanted.masks)


def test_files_are_those_on_disk(videos: VideoClips) -> None:
    item = Item(1, 0)
    found, video = videos.decode(item, files=True), videos.videos[0]
    starts = [clip.start for clip in videos.chooser.clips(video, item)]
    folder = video.frame_dir.parent.parent / "jpegs_256" / video.frame_dir.name
    names = sorted(path.name for path in folder.iterdir())
    wanted = [names[at] for at in sorted({start + frame for start in starts for frame in range(4)})]
    assert found.ends is not None
    files = np.split(found.frames, found.ends[:-1])
    assert [file.tobytes() for file in files] == [(folder / name).read_bytes() for name in wanted]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("pretended")
def test_samples_are_those_that_the_cpu_decodes(videos: VideoClips, workers: int) -> None:
    batches = [[Item(epoch, 0), Item(epoch, 1)] for epoch in range(1, 6)]
    for items, samples in zip(batches, make_loader(videos, batches, workers, machine=GPU), strict=True):
        for item, sample in zip(items, samples, strict=True):
            assert_decoded(sample, videos[item])


@pytest.mark.usefixtures("pretended")
def test_what_the_gpu_cannot_decode_the_cpu_does(
    videos: VideoClips, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(files: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("Failed to decode batch: 4")

    monkeypatch.setattr(nvjpeg, "_decoded", fail)
    for workers in (0, 1):
        batches = [[Item(1, 0)], [Item(1, 1)]]
        for (item,), (sample,) in zip(batches, make_loader(videos, batches, workers, machine=GPU), strict=True):
            assert_decoded(sample, videos[item])
        told = capfd.readouterr().err.splitlines()
        assert told == [f"saccade: {videos.videos[0].name}: nvJPEG cannot decode a frame; the CPU does, as with others"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("pretended")
def test_damage_is_named(dataset: Path, workers: int) -> None:
    path = sorted((dataset / "jpegs_256" / "v0").iterdir())[3]
    videos = clips_of(dataset)
    whole = path.read_bytes()
    for damaged, said in (
        (whole[:-40], "is cut off or no JPEG"),
        (whole[:300] + b"\xff\xd9", "cannot be decoded"),
        (b"", "is empty"),
    ):
        path.write_bytes(damaged)
        needing = [[Item(epoch, 0)] for epoch in range(1, 40)]  # Some clip of so many has this frame.
        with pytest.raises(DataError, match=rf"^{path}: this frame {said}.*$"):
            list(make_loader(videos, needing, workers, machine=GPU))


def test_frames_lie_as_a_gpu_gives_them(videos: VideoClips) -> None:
    """Colour after colour, not pixel after pixel; the transforms are to see no difference."""
    sample = videos[Item(1, 0)]
    planes = sample.frames.contiguous()
    assert planes.stride() != sample.frames.stride()
    table = table_of(sample.views, 24)
    one, other = (
        apply_views([[frames[span] for span in sample.spans]], None, table, size=24)[0]
        for frames in (sample.frames, planes)
    )
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_slot_is_asked_for_what_files_take(videos: VideoClips) -> None:
    asked: list[tuple[int, ...]] = []

    def empty(shape: tuple[int, ...]) -> np.ndarray:
        asked.append(shape)
        return np.empty(shape, np.uint8)

    found = videos.decode(Item(1, 0), empty, files=True)
    assert asked[0] == (found.ends[-1],)  # type: ignore[index]
    assert asked[0][0] < videos.bytes_at_most(Item(1, 0))


def test_pixels_are_not_files() -> None:
    settings = ["engine.decode=nvjpeg", "data.store=packed_decoded_128"]
    with pytest.raises(
        SpecError, match=r"engine\.decode=nvjpeg: nvjpeg decodes JPEG files, and .* packed_decoded_128 holds"
    ):
        parse_spec("name: x", "x.yaml", settings)
    parse_spec("name: x", "x.yaml", ["engine.decode=nvjpeg", "data.store=packed_jpeg"])
