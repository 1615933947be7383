"""What workers hand over through shared memory is what they made, whoever still holds it and however large it is."""

import os
import pickle
from functools import partial
from pathlib import Path

import pytest

from saccade.datasets import slots as module
from saccade.datasets.clips import Item, Sample, VideoClips
from saccade.datasets.loader import make_loader
from saccade.datasets.slots import Slots
from saccade.gaze.scanpath import Fixation

from .made_clips import FULL, ROWS, assert_same_sample, training_views, write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> VideoClips:
    """A small video, one of nine times as many pixels, and one whose first frame is broken."""
    root = tmp_path_factory.mktemp("videos")
    late = [Fixation(3, 5, 12), Fixation(9, 8, 14)]
    videos = [
        write_video(root / "small", 33, 24, 32, ROWS[:2]),
        write_video(root / "large", 33, 72, 96, ROWS[:2], first=50),
        write_video(root / "broken", 33, 24, 32, late, first=100),
    ]
    next(iter(sorted(videos[2].frame_dir.iterdir()))).write_bytes(b"broken")
    return VideoClips(videos, training_views(FULL))


def test_memory_is_used_again(clips: VideoClips) -> None:
    items = [[Item(epoch, 0)] for epoch in range(1, 31)]
    seen: set[int] = set()
    for item, (sample,) in zip(items, make_loader(clips, items, workers=1), strict=True):
        assert_same_sample(sample, clips[item[0]])
        seen.add(sample.frames.data_ptr())
    # Ahead by two, one that is put together, and one that is looked at.
    assert len(seen) <= 4


def test_what_is_still_held_is_not_written_over(clips: VideoClips) -> None:
    items = [[Item(epoch, 0), Item(epoch, 1)] for epoch in range(1, 15)]
    held = list(make_loader(clips, items, workers=2))
    for batch, samples in zip(items, held, strict=True):
        for item, sample in zip(batch, samples, strict=True):
            assert_same_sample(sample, clips[item])


@pytest.mark.parametrize("first", [0, 2])
def test_samples_of_all_sizes(clips: VideoClips, first: int) -> None:
    """Larger ones than there is room for; and those of a loader that could not see how large frames are."""
    items = [[Item(1, video)] for video in (first, 1, 0, 1, 1, 0)]
    for item, (sample,) in zip(items, make_loader(clips, items, workers=1), strict=True):
        assert_same_sample(sample, clips[item[0]])


def test_a_slot_is_free_when_nothing_of_its_sample_is_left(clips: VideoClips) -> None:
    decode = partial(clips.decode, Item(1, 0))
    with Slots(workers=2, each=1, slot_bytes=clips.bytes_at_most(Item(1, 0))) as slots:

        def hand_over(worker: int) -> tuple[Sample, bool]:
            before = list(slots._taken)
            sample = pickle.loads(pickle.dumps(slots.make(worker, decode)))
            assert_same_sample(sample, clips[Item(1, 0)])
            return sample, list(slots._taken) != before

        sample, in_slot = hand_over(1)
        assert in_slot
        assert list(slots._taken) == [0, 1]
        assert hand_over(1)[1] is False  # It has no other.
        assert list(slots._taken) == [0, 1]
        clip, masks = sample.frames[3], sample.masks
        del sample, masks
        assert list(slots._taken) == [0, 1]
        del clip
        assert list(slots._taken) == [0, 0]
        assert hand_over(0)[1] is True
        # It was dropped at once.
        assert list(slots._taken) == [0, 0]


def test_a_process_that_was_forked_meanwhile_frees_nothing(clips: VideoClips) -> None:
    with Slots(workers=1, each=1, slot_bytes=clips.bytes_at_most(Item(1, 0))) as slots:
        samples = [pickle.loads(pickle.dumps(slots.make(0, partial(clips.decode, Item(1, 0)))))]
        child = os.fork()
        if not child:
            samples.clear()
            os._exit(0)
        os.waitpid(child, 0)
        assert list(slots._taken) == [1]
        samples.clear()
        assert list(slots._taken) == [0]


def test_without_shared_memory_all_is_copied(clips: VideoClips, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(length: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module, "_shared", none)
    items = [[Item(epoch, 0)] for epoch in range(1, 5)]
    for item, (sample,) in zip(items, make_loader(clips, items, workers=1), strict=True):
        assert_same_sample(sample, clips[item[0]])


def test_a_slot_takes_no_memory_before_it_is_used(tmp_path: Path) -> None:
    """Else as much would have to be there as the largest samples would need."""
    before = _shared_kib()
    with Slots(workers=4, each=8, slot_bytes=1 << 26) as slots:
        assert len(slots._memory) == 1 << 31
        assert _shared_kib() - before < 1024
        slots._memory[: 1 << 22] = 1
        assert (1 << 12) <= _shared_kib() - before < (1 << 12) + 1024


def _shared_kib() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssShmem:")]
    return int(line.split()[1])
