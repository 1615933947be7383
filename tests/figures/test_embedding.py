"""Maps of features: who is near whom, and which colour stands for what."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.figures.embedding import Colouring, draw_map, on_plane, spread


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def near(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of about a colour, as it looks on white at an opacity of 0.75."""
    shown = 0.75 * np.array(colour) + 0.25 * 255
    return int((np.abs(sheet - shown) < 12).all(axis=2).sum())


BLUE, ORANGE, OTHERS = (31, 119, 180), (255, 127, 14), (200, 200, 200)


class TestOnPlane:
    def test_few_points_lie_on_their_principal_components(self) -> None:
        # Along (3, 4, 0) / 5 with a spread of 10, across it along the third axis with one of 1.
        along, across = np.array([-10, -5, 0, 5, 10.0]), np.array([1, -1, 0, -1, 1.0])
        features = along[:, None] * np.array([0.6, 0.8, 0]) + across[:, None] * np.array([0, 0, 1.0])
        places, method = on_plane(features.astype(np.float32))
        assert method == "principal components"
        np.testing.assert_allclose(places, np.stack([along, across], axis=1), atol=1e-5)

    def test_one_point_has_a_place_too(self) -> None:
        np.testing.assert_array_equal(on_plane(np.ones((1, 3), np.float32))[0], [[0, 0]])

    def test_many_points_keep_their_neighbours(self) -> None:
        rng = np.random.default_rng(0)
        centres, group = rng.normal(size=(3, 16)) * 5, np.arange(60) % 3
        features = (centres[group] + rng.normal(size=(60, 16))).astype(np.float32)
        places, method = on_plane(features)
        assert method == "t-SNE"
        assert places.shape == (60, 2)
        distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(60)
        assert (group[distance.argmin(axis=1)] == group).all()
        again, _ = on_plane(features)
        np.testing.assert_array_equal(again, places)


@pytest.mark.parametrize(
    ("count", "most", "places"), [(3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (1, 4, [0])]
)
def test_spread(count: int, most: int, places: list[int]) -> None:
    assert spread(count, most).tolist() == places


class TestDrawMap:
    def test_a_panel_for_each_colouring(self, tmp_path: Path) -> None:
        places = np.random.default_rng(1).uniform(size=(40, 2)).astype(np.float32)
        labels, none = np.arange(40) % 2, np.zeros(40, np.bool_)
        both = Colouring(title="by class", labels=labels, names=("bend", "run"))
        one = Colouring(title="by cluster", labels=np.zeros(40, np.int64), names=("cluster 0", "empty"))
        draw_map(tmp_path / "figures" / "x.png", "title", places, [both, one], none)
        sheet = read(tmp_path / "figures" / "x.png")
        upper, lower = sheet[: len(sheet) // 2], sheet[len(sheet) // 2 :]
        assert near(upper, BLUE) > 500
        assert near(upper, ORANGE) > 500
        # The second group is empty there, and all points are of the first.
        assert near(lower, BLUE) > 1.8 * near(upper, BLUE)
        assert near(lower, ORANGE) == 0

    def test_those_of_no_group_are_grey(self, tmp_path: Path) -> None:
        places = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]], np.float32)
        found = []
        for labels in ([0, 0, 0], [0, -1, 0]):
            colouring = Colouring(title="", labels=np.array(labels), names=("a",), rest="test videos")
            draw_map(tmp_path / "x.png", "", places, [colouring], np.zeros(3, np.bool_))
            found.append((near(read(tmp_path / "x.png"), BLUE), near(read(tmp_path / "x.png"), OTHERS)))
        (all_blue, no_grey), (blue, grey) = found
        # One of three dots, and one more in the legend.
        assert 0.5 * all_blue < blue < 0.9 * all_blue
        assert grey - no_grey > 0.4 * blue

    def test_marked_points_have_an_edge(self, tmp_path: Path) -> None:
        places = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
        colouring = Colouring(title="", labels=np.array([0, 0]), names=("a",))
        for name, marked in (("dots", [False, False]), ("triangle", [False, True])):
            draw_map(tmp_path / f"{name}.png", "", places, [colouring], np.array(marked))
        dots, triangle = (read(tmp_path / f"{name}.png") for name in ("dots", "triangle"))
        rows, columns = np.nonzero((dots != triangle).any(axis=2))
        # The second point only, which lies in the upper right.
        assert rows.max() < 0.2 * len(dots)
        assert columns.min() > 0.5 * dots.shape[1]
        assert (triangle[rows, columns].max(axis=1) < 60).any()

    def test_of_many_groups_the_small_ones_are_grey(self, tmp_path: Path) -> None:
        # Group i has 30 - i members, for i from 0 to 24: the 19 largest have colours, six are grey together.
        labels = np.repeat(np.arange(25), np.arange(30, 5, -1))
        places = np.random.default_rng(2).uniform(size=(len(labels), 2)).astype(np.float32)
        names = [f"class {i}" for i in range(25)]
        for count in (20, 25):
            chosen = labels < count
            colouring = Colouring(title="", labels=labels[chosen], names=names[:count])
            draw_map(tmp_path / f"{count}.png", "", places[chosen], [colouring], np.zeros(chosen.sum(), np.bool_))
        # Greys of letters, and of colours that overlap, are in both.
        assert near(read(tmp_path / "25.png"), OTHERS) > 3 * near(read(tmp_path / "20.png"), OTHERS) > 0
