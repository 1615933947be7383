"""From a scanpath to the clips of a video: which fixations, and where the two views of each begin.

Frames are counted from 0. The usable length of a video is one less than its frames, as in the published recipe.
"""

from collections.abc import Callable, Sequence

import numpy as np

from saccade.gaze.scanpath import Fixation

__all__ = ["choose_fixations", "even_starts", "usable_length", "view_starts"]


def usable_length(frames: int) -> int:
    """Frames of a video that clips may use: the last one is never read, as in the release."""
    return frames - 1


def choose_fixations(
    scanpath: Sequence[Fixation],
    *,
    focus_num: int,
    grid_num: int,
    deduplicate: bool,
    length: int,
    clip_frames: int,
    rng: Callable[[], np.random.Generator],
) -> tuple[Fixation, ...]:
    """The `focus_num` fixations of a video: the first of its scanpath, completed by random ones.

    Args:
        scanpath: Fixations in order of time; may be shorter than `focus_num`, or empty.
        focus_num: F, how many to return.
        grid_num: Cells along each side of the grid; random cells are drawn without repetition among all of them.
        deduplicate: Drop those of the first F fixations whose cell an earlier one has.
        length: Usable length of the video, frames.
        clip_frames: T, frames of a clip.
        rng: Gives the source of the random fixations, where any are missing.
    """
    chosen: list[Fixation] = []
    for fixation in scanpath[:focus_num]:
        if not (deduplicate and any(fixation.cell == earlier.cell for earlier in chosen)):
            chosen.append(fixation)
    missing = focus_num - len(chosen)
    if missing:
        source = rng()
        cells = source.choice(grid_num**2, size=missing, replace=False)
        # A video barely longer than a clip leaves no start in [1, length - T): it begins at 1, or where it can.
        starts = source.integers(1, max(length - clip_frames, 2), size=missing)
        chosen += [Fixation(int(c), int(s), int(s) + clip_frames) for c, s in zip(cells, starts, strict=True)]
    return tuple(chosen)


def view_starts(fixation: Fixation, *, length: int, clip_frames: int) -> tuple[int, int]:
    """First frames of the two views of a fixation: its beginning, and half of it later.

    Both views lie within `[0, length)`: the beginning is lowered when the second would run over the end, and in a video
    too short even for that the second view ends with the video.
    """
    offset = (fixation.end - fixation.start + 1) // 2
    start = fixation.start
    if start + offset + clip_frames > length:
        start = max(length - clip_frames - offset, 0)
    return start, min(start + offset, length - clip_frames)


def even_starts(*, length: int, clip_frames: int, clips: int) -> tuple[int, ...]:
    """First frames of `clips` clips spread evenly over a video: centres from T / 2 to length - T / 2."""
    return tuple(int(start) for start in np.round(np.linspace(0, length - clip_frames, clips)))
