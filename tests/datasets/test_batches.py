"""Clips in batches: what workers load, in which order epochs see videos, what the device makes of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from saccade.datasets.clips import (
    ClipChooser,
    EvenClips,
    Item,
    Sample,
    TrainingViews,
    VideoClips,
    epoch_batches,
)
from saccade.datasets.layout import Video
from saccade.datasets.loader import make_loader
from saccade.datasets.render import _render_on_gpu, render
from saccade.errors import DataError
from saccade.gaze.masks import fixation_box
from saccade.gaze.scanpath import Fixation
from saccade.transforms import IMAGENET_MEAN, IMAGENET_STD, apply_view, normalise

from .made_clips import FULL, GEOMETRY, ROWS, assert_same_sample, training_views, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Video, ...]:
    """Five videos: of different lengths and sizes, some without enough fixations."""
    root = tmp_path_factory.mktemp("videos")
    shapes = [(20, 24, 32), (14, 32, 24), (33, 24, 24), (12, 40, 30), (26, 24, 32)]
    rows = [ROWS[:2], (), (Fixation(10, 0, 10),), (), (Fixation(1, 0, 9), Fixation(1, 9, 12))]
    made = []
    for number, ((frames, height, width), fixations) in enumerate(zip(shapes, rows, strict=True)):
        fitting = [Fixation(f.cell, min(f.start, frames - 1), min(f.end, frames)) for f in fixations]
        made.append(write_video(root / f"v{number}", frames, height, width, fitting, first=10 * number))
    return tuple(made)


class TestLoading:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_sample_depends_on_nothing_but_its_item(self, videos: tuple[Video, ...], workers: int) -> None:
        dataset = VideoClips(videos, training_views(FULL))
        batches = [[Item(2, 4), Item(2, 1)], [Item(2, 0), Item(2, 3)], [Item(3, 2)], [Item(2, 1)]]
        np.random.seed(workers)  # Global streams must not matter.
        torch.manual_seed(workers)
        before = torch.get_rng_state()
        loaded = list(make_loader(dataset, batches, workers))
        assert [[sample.index for sample in batch] for batch in loaded] == [[4, 1], [0, 3], [2], [1]]
        for batch, items in zip(loaded, batches, strict=True):
            for sample, item in zip(batch, items, strict=True):
                assert_same_sample(sample, VideoClips(videos, training_views(FULL))[item])
        assert_same_sample(loaded[0][1], loaded[3][0])
        assert torch.equal(before, torch.get_rng_state())

    def test_batches_may_come_from_a_generator(self, videos: tuple[Video, ...]) -> None:
        dataset = VideoClips(videos, EvenClips(clip_frames=4, num_clips=1, crop=16))
        batches = epoch_batches(5, 2, seed=0, first_step=1, last_step=4)
        expected = list(epoch_batches(5, 2, seed=0, first_step=1, last_step=4))
        loaded = list(make_loader(dataset, batches, 0))
        assert [[s.index for s in batch] for batch in loaded] == [[i.video for i in batch] for batch in expected]

    @pytest.mark.parametrize(("workers", "begun"), [(0, 1), (1, 2), (2, 2)])
    def test_workers_are_ahead_by_a_batch_between_them(
        self, videos: tuple[Video, ...], workers: int, begun: int
    ) -> None:
        """Whatever their number: frames of more batches would fill the memory."""
        asked = []

        def batches() -> Iterator[list[Item]]:
            for number in range(20):
                asked.append(number)
                yield [Item(0, index) for index in (0, 1, 2, 3, 4, 0)]

        dataset = VideoClips(videos, EvenClips(clip_frames=4, num_clips=1, crop=16))
        loaded = make_loader(dataset, batches(), workers)
        next(loaded)
        assert len(asked) == begun
        next(loaded)
        assert len(asked) == begun + 1

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_broken_frame_is_one_line_whoever_reads_it(self, tmp_path: Path, workers: int) -> None:
        broken = write_video(tmp_path / "v", 12)
        path = broken.frame_dir / "0002.jpg"
        path.write_bytes(path.read_bytes()[:100])
        dataset = VideoClips([broken], EvenClips(clip_frames=4, num_clips=2, crop=16))
        with pytest.raises(DataError) as caught:
            list(make_loader(dataset, [[Item(0, 0)]], workers))
        assert str(caught.value) == (
            f"{path}: this frame is cut off or no JPEG (100 bytes); write it again, or put the video in data.exclude"
        )

    def test_frames_that_went_missing_since_the_start_are_named(self, tmp_path: Path) -> None:
        found = write_video(tmp_path / "v", 12)
        for number in range(8, 12):
            (found.frame_dir / f"{number:04d}.jpg").unlink()
        dataset = VideoClips([found], EvenClips(clip_frames=4, num_clips=2, crop=16))
        with pytest.raises(DataError, match=r"v: holds 8 frames, but had 12 when the run began") as caught:
            list(make_loader(dataset, [[Item(0, 0)]], 0))
        assert "\n" not in str(caught.value)


def test_a_gpu_is_given_the_frames_as_they_are(videos: tuple[Video, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[list[Sample], dict[str, object]]] = []
    monkeypatch.setattr("saccade.datasets.render._render_on_gpu", lambda samples, **rest: given.append((samples, rest)))
    samples, gpu = [VideoClips(videos, training_views(FULL))[Item(2, 0)]], torch.device("cuda")
    render(samples, size=20, device=gpu)
    assert given == [(samples, {"size": 20, "device": gpu, "normalised": True})]


def test_what_a_gpu_fetches_lies_in_pinned_memory(videos: tuple[Video, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    for chooser in (training_views(FULL), EvenClips(clip_frames=4, num_clips=1, crop=16)):
        plain = VideoClips(videos, chooser)[Item(2, 0)]
        sample = plain.pin_memory()
        assert_same_sample(sample, plain)
        large = [part for part in (sample.frames, sample.masks) if part is not None]
        assert [id(part) for part in large] == [id(part) for part in reversed(pinned)]
        pinned.clear()


def test_memory_that_runs_out_is_one_line(videos: tuple[Video, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(video: Video, *_: object) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(Video, "read", read)
    with pytest.raises(DataError, match=r"^v1: there is no memory for its frames; lower engine\.workers or"):
        list(make_loader(VideoClips(videos, training_views(FULL)), [[Item(0, 1)]], workers=0))


def test_more_workers_than_cores_are_not_warned_of(
    videos: tuple[Video, ...], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    dataset = VideoClips(videos, training_views(FULL))
    assert [len(samples) for samples in make_loader(dataset, [[Item(2, 4), Item(2, 1)]], workers=2)] == [2]
    assert not recwarn.list
    DataLoader([1], num_workers=2)
    assert "will create 2 worker processes" in str(recwarn.pop(UserWarning).message)


def test_no_batches_start_no_worker(videos: tuple[Video, ...]) -> None:
    assert list(make_loader(VideoClips(videos, training_views(FULL)), [], workers=2)) == []


def numbers(batches: Iterator[list[Item]]) -> list[list[int]]:
    return [[item.video for item in batch] for batch in batches]


class TestEpochBatches:
    def test_every_epoch_sees_each_video_at_most_once_in_full_batches(self) -> None:
        batches = list(epoch_batches(11, 3, seed=1, first_step=0, last_step=9))
        assert len(batches) == 9
        for epoch in (1, 2, 3):
            items = [item for batch in batches[3 * epoch - 3 : 3 * epoch] for item in batch]
            assert [item.epoch for item in items] == [epoch] * 9
            assert len({item.video for item in items}) == 9
            assert all(0 <= item.video < 11 for item in items)

    def test_no_video_is_left_out_for_good(self) -> None:
        left = [
            set(range(11))
            - {
                item.video
                for batch in list(epoch_batches(11, 3, seed=1, first_step=3 * e, last_step=3 * e + 3))
                for item in batch
            }
            for e in range(20)
        ]
        assert all(len(each) == 2 for each in left)
        assert set.intersection(*left) == set()
        assert set.union(*left) == set(range(11))

    def test_a_batch_that_fits_exactly_uses_all(self) -> None:
        (batch,) = epoch_batches(4, 4, seed=0, first_step=0, last_step=1)
        assert sorted(item.video for item in batch) == [0, 1, 2, 3]

    def test_resumed_anywhere_it_goes_on_alike(self) -> None:
        whole = list(epoch_batches(11, 3, seed=1, first_step=0, last_step=10))
        for step in range(11):
            assert list(epoch_batches(11, 3, seed=1, first_step=step, last_step=10)) == whole[step:]

    def test_nothing_is_left_after_the_end(self) -> None:
        assert list(epoch_batches(11, 3, seed=1, first_step=0, last_step=0)) == []

    def test_orders_differ_by_epoch_and_seed(self) -> None:
        orders = {
            (seed, epoch): tuple(
                map(tuple, numbers(epoch_batches(12, 3, seed=seed, first_step=4 * (epoch - 1), last_step=4 * epoch)))
            )
            for seed in range(4)
            for epoch in range(1, 5)
        }
        # 16 different orders: `seed * epoch` would give seed 0 one order for ever, and (1, 2) that of (2, 1).
        assert len(set(orders.values())) == len(orders)


class TestRender:
    def test_values_order_and_shapes(self, tmp_path: Path) -> None:
        made = [write_video(tmp_path / "a", 40, rows=ROWS), write_video(tmp_path / "b", 40, rows=ROWS[2:], first=100)]
        dataset = VideoClips(made, training_views(focus=2))
        clips, masks = render([dataset[Item(1, 1)], dataset[Item(1, 0)]], size=16, device=torch.device("cpu"))
        assert clips.shape == (8, 3, 8, 16, 16)
        assert clips.dtype == torch.float32
        assert clips.is_contiguous(memory_format=torch.channels_last_3d)
        assert masks is not None
        assert masks.shape == (8, 1, 16, 16)
        # Video b: fixations (48, 12, 12) and (7, 20, 30), half of 11 is 5. Video a: (10, 0, 10) and (3, 30, 38).
        starts = [12, 20, 12, 25, 0, 27, 5, 31]
        for clip, start, grey in zip(clips, starts, [100] * 4 + [0] * 4, strict=True):
            for t in range(8):
                for channel in range(3):
                    value = (grey + 3 * (start + t)) / 255
                    expected = (value - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
                    np.testing.assert_allclose(clip[channel, t].numpy(), expected, atol=1.01 / 255 / 0.22)

    def test_the_cpu_gives_what_the_plain_path_gives(self, videos: tuple[Video, ...]) -> None:
        dataset = VideoClips(videos, training_views(FULL))
        samples = [dataset[Item(2, 0)], dataset[Item(2, 2)]]
        clips, masks = render(samples, size=20, device=torch.device("cpu"))
        assert masks is not None
        views = [(sample, v) for sample in samples for v in range(6)]
        for clip, mask, (sample, v) in zip(clips, masks, views, strict=True):
            assert sample.masks is not None
            frames = sample.frames[sample.spans[v]]
            plain, plain_mask = apply_view(frames, sample.masks[v : v + 1], sample.views[v], size=20)
            assert plain_mask is not None
            torch.testing.assert_close(clip, normalise(plain), atol=1e-4, rtol=0)
            torch.testing.assert_close(mask, plain_mask, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("chooser", [training_views(FULL), EvenClips(clip_frames=8, num_clips=2, crop=16)])
    @pytest.mark.parametrize("normalised", [True, False])
    def test_a_gpu_renders_what_the_cpu_does(
        self, videos: tuple[Video, ...], chooser: ClipChooser, normalised: bool
    ) -> None:
        dataset, cpu = VideoClips(videos, chooser), torch.device("cpu")
        samples = [dataset[Item(2, 0)], dataset[Item(2, 2)]]
        clips, masks = render(samples, size=20, device=cpu, normalised=normalised)
        ours, its = _render_on_gpu(samples, size=20, device=cpu, normalised=normalised)
        assert ours.is_contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(ours, clips, atol=1e-4, rtol=0)
        assert (masks is None) == (its is None) == isinstance(chooser, EvenClips)
        if its is not None:
            torch.testing.assert_close(its, masks, atol=1e-4, rtol=0)

    def test_without_cells_there_are_no_masks(self, tmp_path: Path) -> None:
        dataset = VideoClips([write_video(tmp_path / "a", 20)], EvenClips(clip_frames=4, num_clips=3, crop=16))
        clips, masks = render([dataset[Item(0, 0)]], size=24, device=torch.device("cpu"))
        assert clips.shape == (3, 3, 4, 24, 24)
        assert masks is None

    def test_videos_of_different_sizes_share_a_batch(self, videos: tuple[Video, ...]) -> None:
        dataset = VideoClips(videos, training_views(FULL))
        clips, masks = render([dataset[Item(1, i)] for i in range(5)], size=20, device=torch.device("cpu"))
        assert clips.shape == (30, 3, 8, 20, 20)
        assert masks is not None
        assert masks.shape == (30, 1, 20, 20)

    def test_a_video_is_rendered_alike_in_any_batch(self, videos: tuple[Video, ...]) -> None:
        dataset = VideoClips(videos, training_views(FULL))
        together, masks = render([dataset[Item(1, i)] for i in (3, 0, 2)], size=20, device=torch.device("cpu"))
        alone, own = render([dataset[Item(1, 0)]], size=20, device=torch.device("cpu"))
        assert masks is not None
        assert own is not None
        assert torch.equal(together[6:12], alone)
        assert torch.equal(masks[6:12], own)

    def test_each_mask_lies_on_what_its_clip_fixates(self, tmp_path: Path) -> None:
        # While cell c is fixated the frames show c's box, white on black: a clip then looks like its own mask, in
        # whichever way it is cropped, resized and mirrored.
        folder = tmp_path / "v"
        folder.mkdir()
        rows = [Fixation(0, 0, 8), Fixation(24, 10, 18), Fixation(41, 20, 28)]
        for number in range(31):
            box = fixation_box(rows[min(number // 10, 2)].cell, grid_num=7, margin_h=0)
            picture = np.zeros((128, 171, 3), np.uint8)
            picture[box.top : box.bottom, box.left : box.right] = 255
            cv2.imwrite(str(folder / f"{number:04d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
        chooser = TrainingViews(
            seed=3, clip_frames=4, focus_num=3, grid_num=7, deduplicate=True, margin_h=0, augmentation=GEOMETRY
        )
        dataset = VideoClips([Video("v", 0, folder, 31, tuple(rows))], chooser)
        flips = set()
        for epoch in range(4):
            sample = dataset[Item(epoch, 0)]
            flips |= {view.flip for view in sample.views}
            clips, masks = render([sample], size=40, device=torch.device("cpu"))
            assert masks is not None
            shown = clips[:, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0] > 0.5
            inside = masks > 0.5
            for t in range(4):
                assert (shown[:, t] == inside[:, 0]).float().mean(dim=(1, 2)).min() > 0.97
        assert flips == {True, False}


def test_clips_that_are_not_normalised_are_plain(tmp_path: Path) -> None:
    dataset = VideoClips([write_video(tmp_path / "a", 20)], EvenClips(clip_frames=4, num_clips=3, crop=16))
    device = torch.device("cpu")
    plain, none = render([dataset[Item(1, 0)]], size=8, device=device, normalised=False)
    assert none is None
    # Starts 0, 8 and 15 of frames that are 3 n / 255 bright.
    wanted = torch.tensor([[3 * (start + t) / 255 for t in range(4)] for start in (0, 8, 15)])
    torch.testing.assert_close(plain, wanted[:, None, :, None, None].expand(3, 3, 4, 8, 8), atol=1.5 / 255, rtol=0)
    normalised, _ = render([dataset[Item(1, 0)]], size=8, device=device)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(normalised * std + mean, plain, atol=1e-6, rtol=0)
