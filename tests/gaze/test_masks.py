"""Fixation masks against numbers worked out by hand from method.md."""

import numpy as np
import pytest

from saccade.gaze.masks import Box, fixation_box, fixation_mask

# G = 7: cells of 18 x 24 px. margin_h 12: margin_w = round(16.03) = 16, half sizes 32 + 6 = 38 and 42 + 8 = 50.
CASES = [
    (0, 12, Box(0, 9 + 38, 0, 12 + 50)),
    (6, 12, Box(0, 47, 6 * 24 + 12 - 50, 171)),
    (24, 12, Box(3 * 18 + 9 - 38, 63 + 38, 3 * 24 + 12 - 50, 84 + 50)),
    (48, 12, Box(6 * 18 + 9 - 38, 128, 106, 171)),
    (24, 0, Box(63 - 32, 63 + 32, 84 - 42, 84 + 42)),
    (24, 24, Box(63 - 44, 63 + 44, 84 - 58, 84 + 58)),  # margin_w = round(32.06) = 32
    (24, 5, Box(63 - 34, 63 + 34, 84 - 45, 84 + 45)),  # margin_w = round(6.68) = 7
]


@pytest.mark.parametrize(("cell", "margin_h", "box"), CASES)
def test_box_by_hand(cell: int, margin_h: int, box: Box) -> None:
    assert fixation_box(cell, grid_num=7, margin_h=margin_h) == box


@pytest.mark.parametrize("grid_num", [1, 4, 7, 10])
def test_mask_is_one_inside_and_zero_outside(grid_num: int) -> None:
    for cell in range(grid_num**2):
        top, bottom, left, right = fixation_box(cell, grid_num=grid_num, margin_h=12)
        mask = fixation_mask(cell, grid_num=grid_num, margin_h=12)
        assert mask.shape == (128, 171)
        rows, columns = np.indices(mask.shape)
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        np.testing.assert_array_equal(mask, inside.astype(np.uint8))
        assert mask.any()
