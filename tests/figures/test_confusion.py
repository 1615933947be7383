"""The confusion matrix's picture: colours found in it again."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import colormaps

from saccade.figures.confusion import draw_confusion


def places(path: Path, part: float) -> list[tuple[float, float]]:
    """Centres (x, y) of the areas with the colour of `part`, from the left; small ones, of letters, are left out."""
    picture = cv2.imread(str(path)).astype(int)
    colour = (np.array(colormaps["Blues"](part**0.5)[2::-1]) * 255).round().astype(int)
    alike = (np.abs(picture - colour).max(axis=2) <= 2).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(alike)
    found = [
        (float(x), float(y))
        for (x, y), area in zip(centres[1:], stats[1:, cv2.CC_STAT_AREA], strict=True)
        if area > 400
    ]
    return sorted(found)


def test_rows_are_classes_and_columns_what_they_are_taken_for(tmp_path: Path) -> None:
    # Four videos of class 0, all taken for class 1; four of class 2, one of them taken for class 0.
    counts = np.array([[0, 4, 0], [0, 0, 0], [1, 0, 3]])
    draw_confusion(tmp_path / "figures" / "c.png", "title", counts, ["a", "b", "c"])
    whole, quarter, most = (places(tmp_path / "figures" / "c.png", part) for part in (1.0, 0.25, 0.75))
    # The colour bar has each colour too, in a line thinner than a cell.
    assert len(whole) == len(quarter) == len(most) == 1
    (x1, y0), (x0, y2), (x2, again) = whole[0], quarter[0], most[0]
    assert x0 < x1 < x2
    assert y0 < y2
    assert again == pytest.approx(y2, abs=4)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=6)
    assert y2 - y0 == pytest.approx(x1 - x0, abs=6)  # class 1, which was not tested, has no row


def test_many_classes_fit(tmp_path: Path) -> None:
    draw_confusion(
        tmp_path / "c.png", "101 classes", np.eye(101, dtype=np.int64) * 30, [f"Class{k}" for k in range(101)]
    )
    height, width, _ = cv2.imread(str(tmp_path / "c.png")).shape
    assert 1000 < height < width < 2600
