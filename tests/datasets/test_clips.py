"""Clips of videos: which frames, in which order, how often decoded, against method.md."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.datasets import frames as frames_module
from saccade.datasets.clips import EvenClips, Item, RandomClip, VideoClips
from saccade.gaze.scanpath import Fixation
from saccade.transforms import Crop, View

from .made_clips import FULL, ROWS, first_views, greys, training_views, video, write_video


class TestWhichClips:
    def test_first_views_come_before_second_views(self) -> None:
        # Usable length 39, T = 8. Fixation 1 lasts 10: half of 11 later is 5. Fixation 2: half of 9 is 4, and
        # 30 + 4 + 8 runs over 39, so it begins at 39 - 8 - 4 = 27. Fixation 3 is one frame: both views are the same.
        clips = training_views().clips(video(), Item(1, 0))
        assert clips == [(0, 10), (27, 3), (12, 48), (5, 10), (31, 3), (12, 48)]

    def test_clustering_takes_the_first_view_of_each_fixation(self) -> None:
        item = Item(1, 0)
        assert first_views().clips(video(), item) == training_views().clips(video(), item)[:3]

    def test_a_cell_that_comes_again_is_replaced_by_a_random_one(self) -> None:
        rows = (Fixation(10, 0, 10), Fixation(10, 12, 20), Fixation(3, 20, 30), Fixation(7, 0, 4))
        clips = training_views().clips(video(rows=rows), Item(1, 0))
        # Method: the first F rows are taken, then duplicates dropped; the fourth row is not used.
        assert [clips[0], clips[1]] == [(0, 10), (20, 3)]
        assert 1 <= clips[2].start < 39 - 8

    def test_random_fixations_stay_within_an_epoch_and_change_with_it(self) -> None:
        short = video(rows=())
        epochs = [training_views().clips(short, Item(epoch, 4)) for epoch in range(1, 30)]
        for epoch, clips in enumerate(epochs, start=1):
            assert clips == training_views().clips(short, Item(epoch, 4))
            assert clips[:3] == first_views().clips(short, Item(epoch, 4))
            assert len({clip.cell for clip in clips[:3]}) == 3
            for first, second in zip(clips[:3], clips[3:], strict=True):
                # Rows of (start, start + T): the second view is half of 9 later, so the first lies before 39 - 12.
                assert second.start == first.start + 4
                assert 1 <= first.start <= 39 - 8 - 4
                assert second.cell == first.cell
        assert len({tuple(clips) for clips in epochs}) == len(epochs)
        assert training_views().clips(short, Item(1, 4)) != training_views().clips(short, Item(1, 5))
        assert training_views(seed=6).clips(short, Item(1, 4)) != training_views(seed=5).clips(short, Item(1, 4))

    def test_evaluation_clips_are_spread_evenly(self) -> None:
        chooser = EvenClips(clip_frames=4, num_clips=4, crop=16)
        # Usable length 19: starts from 0 to 15.
        assert [clip.start for clip in chooser.clips(video(frames=20), Item(0, 0))] == [0, 5, 10, 15]
        assert all(clip.cell is None for clip in chooser.clips(video(frames=20), Item(0, 0)))
        # A video of T + 1 frames has one clip only.
        assert [clip.start for clip in chooser.clips(video(frames=5), Item(0, 0))] == [0, 0, 0, 0]

    def test_each_clip_is_seen_in_a_way_of_its_own_while_evaluation_looks_at_the_centre(self) -> None:
        views = training_views(FULL).views(Item(1, 0), 6, 128, 171)
        assert len(set(views)) == 6
        assert views == training_views(FULL).views(Item(1, 0), 6, 128, 171)
        assert views != training_views(FULL).views(Item(2, 0), 6, 128, 171)
        assert views != training_views(FULL).views(Item(1, 1), 6, 128, 171)
        assert views != training_views(FULL, seed=6).views(Item(1, 0), 6, 128, 171)
        centre = View(Crop(14, 35, 100, 100))
        assert first_views(crop=100).views(Item(1, 0), 3, 128, 171) == (centre,) * 3
        even = EvenClips(clip_frames=8, num_clips=2, crop=100)
        assert even.views(Item(0, 0), 2, 128, 171) == (centre,) * 2
        # A frame smaller than the crop is used as a whole.
        assert even.views(Item(0, 0), 1, 60, 80) == (View(Crop(0, 10, 60, 60)),)

    def test_a_classifier_is_trained_on_clips_from_anywhere_in_the_video(self) -> None:
        chooser = RandomClip(seed=5, clip_frames=8, augmentation=FULL)
        # Usable length 19: starts from 0 to 11.
        starts: Counter[int] = Counter()
        for epoch in range(1, 601):
            (clip,) = chooser.clips(video(frames=20), Item(epoch, 3))
            assert clip.cell is None
            assert [clip] == chooser.clips(video(frames=20), Item(epoch, 3))
            starts[clip.start] += 1
        assert set(starts) == set(range(12))
        # 50 each: four standard deviations are 27.
        assert all(23 <= count <= 77 for count in starts.values())
        assert chooser.clips(video(frames=9), Item(1, 3)) == [(0, None)]
        views = {chooser.views(Item(epoch, 3), 1, 128, 171) for epoch in range(1, 30)}
        assert len(views) == 29

    def test_the_releases_jitter_of_test_clips(self) -> None:
        even = EvenClips(clip_frames=8, num_clips=400, crop=100, seed=5, jitter_probability=0.3)
        views = even.views(Item(0, 1), 400, 128, 171)
        assert views == even.views(Item(0, 1), 400, 128, 171)
        assert views != even.views(Item(0, 2), 400, 128, 171)
        assert {view.crop for view in views} == {Crop(14, 35, 100, 100)}
        jitters = [view.jitter for view in views if view.jitter is not None]
        assert 84 <= len(jitters) <= 156  # 120, and four standard deviations
        factors = np.array([jitter.factors for jitter in jitters])
        assert (np.abs(factors - [1, 1, 1, 0]) <= [0.2, 0.2, 0.2, 0.1]).all()
        assert (np.abs(factors - [1, 1, 1, 0]).max(axis=0) > [0.17, 0.17, 0.17, 0.085]).all()
        assert {view.blur_sigma_px for view in views} == {None}
        assert not any(view.flip for view in views)


class TestDecoding:
    def test_clips_show_their_frames(self, tmp_path: Path) -> None:
        sample = VideoClips([write_video(tmp_path / "v", 40, rows=ROWS)], training_views())[Item(1, 0)]
        starts = [0, 27, 12, 5, 31, 12]
        assert greys(sample) == [list(range(start, start + 8)) for start in starts]
        assert sample.frames.dtype == torch.uint8
        assert sample.frames.shape[1:] == (3, 16, 20)
        assert sample.masks is not None
        assert sample.masks.shape == (6, 128, 171)
        assert len(sample.views) == 6

    def test_each_distinct_frame_is_decoded_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded: Counter[str] = Counter()
        decode = frames_module.decode_frame

        def counting(data: bytes, place: Path, *buffer: np.ndarray) -> np.ndarray:
            decoded[Path(place).name] += 1
            return decode(data, place, *buffer)

        monkeypatch.setattr(frames_module, "decode_frame", counting)
        sample = VideoClips([write_video(tmp_path / "v", 40, rows=ROWS)], training_views())[Item(1, 0)]
        wanted = {*range(0, 8), *range(27, 35), *range(12, 20), *range(5, 13), *range(31, 39)}
        assert decoded == {f"{number:04d}.jpg": 1 for number in wanted}
        assert len(sample.frames) == len(wanted)

    def test_the_last_frame_is_never_read(self, tmp_path: Path) -> None:
        found = write_video(tmp_path / "v", 12, rows=(Fixation(0, 3, 11), Fixation(1, 9, 11), Fixation(2, 11, 12)))
        (found.frame_dir / "0011.jpg").write_bytes(b"broken")
        sample = VideoClips([found], training_views())[Item(1, 0)]
        assert max(max(clip) for clip in greys(sample)) <= 10

    def test_masks_are_those_of_the_cells(self, tmp_path: Path) -> None:
        sample = VideoClips([write_video(tmp_path / "v", 40, rows=ROWS)], training_views())[Item(1, 0)]
        assert sample.masks is not None
        for mask, cell in zip(sample.masks.numpy(), [10, 3, 48, 10, 3, 48], strict=True):
            row, column = divmod(cell, 7)
            # 128 // 7 = 18, 171 // 7 = 24; half sizes 32 + 6 and 42 + 8, since 12 * 171 / 128 rounds to 16.
            expected = np.zeros((128, 171), np.uint8)
            centre_h, centre_w = row * 18 + 9, column * 24 + 12
            expected[max(centre_h - 38, 0) : centre_h + 38, max(centre_w - 50, 0) : centre_w + 50] = 1
            np.testing.assert_array_equal(mask, expected)

    def test_evaluation_has_no_masks(self, tmp_path: Path) -> None:
        chooser = EvenClips(clip_frames=4, num_clips=4, crop=16)
        sample = VideoClips([write_video(tmp_path / "v", 20)], chooser)[Item(0, 0)]
        assert sample.masks is None
        assert greys(sample) == [list(range(start, start + 4)) for start in (0, 5, 10, 15)]
