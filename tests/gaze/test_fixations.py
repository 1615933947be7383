"""Which clips a video gives, against hand-worked cases and the rules of method.md."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.gaze.fixations import choose_fixations, even_starts, usable_length, view_starts
from saccade.gaze.scanpath import Fixation


def choose(rows: list[Fixation], seed: int = 0, **changes: object) -> tuple[Fixation, ...]:
    settings = {"focus_num": 3, "grid_num": 7, "deduplicate": True, "length": 100, "clip_frames": 16, **changes}
    return choose_fixations(rows, rng=lambda: np.random.default_rng(seed), **settings)  # type: ignore[arg-type]


ROWS = [Fixation(10, 0, 8), Fixation(11, 8, 20), Fixation(10, 20, 33), Fixation(40, 33, 50)]


def test_the_first_rows_are_taken() -> None:
    assert choose(ROWS, deduplicate=False) == tuple(ROWS[:3])


def test_a_cell_that_was_taken_is_dropped_and_replaced_by_a_random_one() -> None:
    chosen = choose(ROWS)
    assert chosen[:2] == (ROWS[0], ROWS[1])
    assert len(chosen) == 3
    assert chosen[2].end == chosen[2].start + 16  # not ROWS[3]: only the first F rows count


def test_random_fixations_cover_what_the_method_says_and_no_more() -> None:
    starts, cells = set(), set()
    for seed in range(3000):
        chosen = choose([], seed, length=20)
        assert len({f.cell for f in chosen}) == 3  # drawn without repetition
        starts |= {f.start for f in chosen}
        cells |= {f.cell for f in chosen}
    assert starts == {1, 2, 3}  # [1, length - T)
    assert cells == set(range(49))


def test_views_by_hand() -> None:
    # offset (30 - 10 + 1) // 2 = 10
    assert view_starts(Fixation(0, 10, 30), length=100, clip_frames=16) == (10, 20)
    # 80 + 10 + 16 > 100: lowered to 100 - 16 - 10
    assert view_starts(Fixation(0, 80, 100), length=100, clip_frames=16) == (74, 84)
    # 10 + 10 + 16 = 36 fits exactly in 36, not in 35
    assert view_starts(Fixation(0, 10, 30), length=36, clip_frames=16) == (10, 20)
    assert view_starts(Fixation(0, 10, 30), length=35, clip_frames=16) == (9, 19)
    # never below 0; then the second view ends with the video
    assert view_starts(Fixation(0, 0, 20), length=20, clip_frames=16) == (0, 4)


@given(st.integers(16, 60), st.integers(0, 70), st.integers(0, 70))
def test_views_stay_within_the_video(length: int, start: int, duration: int) -> None:
    for view in view_starts(Fixation(0, start, start + duration), length=length, clip_frames=16):
        assert 0 <= view <= length - 16


def test_even_clips_go_from_one_end_to_the_other() -> None:
    # Centres from T / 2 to length - T / 2: starts 0, 21, 42, 63, 84 for 100 usable frames
    assert even_starts(length=100, clip_frames=16, clips=5) == (0, 21, 42, 63, 84)
    assert even_starts(length=16, clip_frames=16, clips=3) == (0, 0, 0)


def test_the_last_frame_is_never_read() -> None:
    assert usable_length(17) == 16


@pytest.mark.parametrize("length", [16, 17, 18])
def test_a_video_barely_long_enough_still_gives_clips(length: int) -> None:
    for fixation in choose([], length=length):
        assert all(0 <= s <= length - 16 for s in view_starts(fixation, length=length, clip_frames=16))
