"""Fixation masks: a box around a cell of the gaze grid, 1 inside and 0 outside.

Boxes live on a plane of 128 x 171 px (height x width), the published frame size, whatever the size of the real frames;
masks are resized to the frame and then follow the geometry of their clip (`saccade.transforms`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PLANE_HEIGHT", "PLANE_WIDTH", "Box", "fixation_box", "fixation_mask"]

PLANE_HEIGHT, PLANE_WIDTH = 128, 171


class Box(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of the mask plane, px."""

    top: int
    bottom: int
    left: int
    right: int


def fixation_box(cell: int, *, grid_num: int, margin_h: int) -> Box:
    """The box that a fixation on `cell` (row * grid_num + column) looks at.

    Args:
        cell: Cell of the grid, 0 to grid_num ** 2 - 1.
        grid_num: Cells along each side of the grid.
        margin_h: Growth of the box's height, px of the plane; the width grows in proportion.
    """
    row, column = divmod(cell, grid_num)
    step_h, step_w = PLANE_HEIGHT // grid_num, PLANE_WIDTH // grid_num
    centre_h, centre_w = row * step_h + step_h // 2, column * step_w + step_w // 2
    margin_w = round(margin_h * PLANE_WIDTH / PLANE_HEIGHT)
    half_h, half_w = PLANE_HEIGHT // 4 + margin_h // 2, PLANE_WIDTH // 4 + margin_w // 2
    return Box(
        max(centre_h - half_h, 0),
        min(centre_h + half_h, PLANE_HEIGHT),
        max(centre_w - half_w, 0),
        min(centre_w + half_w, PLANE_WIDTH),
    )


def fixation_mask(cell: int, *, grid_num: int, margin_h: int) -> npt.NDArray[np.uint8]:
    """The mask of a fixation, `[128, 171]`, 1 inside its box and 0 outside."""
    box = fixation_box(cell, grid_num=grid_num, margin_h=margin_h)
    mask = np.zeros((PLANE_HEIGHT, PLANE_WIDTH), np.uint8)
    mask[box.top : box.bottom, box.left : box.right] = 1
    return mask
