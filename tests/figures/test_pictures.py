"""Pictures, pixel by pixel where it matters: which video stands where, in which frame, bright where it should be."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from saccade.datasets.layout import Video
from saccade.figures.curves import draw_curves
from saccade.figures.pictures import draw_clusters, draw_masked_clips, draw_neighbours
from saccade.figures.tiles import BLUE, GREEN, GREY, RED, Row, Tile, write_rows
from saccade.gaze.masks import fixation_box
from saccade.prototypes import Prototypes
from saccade.transforms import normalise

OUTSIDE = 0.35
CLASSES = ("bend", "run")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


class Found:
    """A tile found in a sheet by its frame: its colour, and what is inside the frame."""

    def __init__(self, colour: tuple[int, int, int], top: int, left: int, inside: np.ndarray) -> None:
        self.colour, self.top, self.left, self.inside = colour, top, left, inside

    @property
    def grey(self) -> float:
        """Mean of the middle part."""
        h, w = self.inside.shape[:2]
        return float(self.inside[h // 4 : -h // 4, w // 4 : -w // 4].mean())


def tiles(sheet: np.ndarray) -> list[list[Found]]:
    """Rows of tiles, from top to bottom and left to right."""
    found = []
    for colour in (GREEN, RED, GREY, BLUE):
        same = (sheet == colour).all(axis=2).astype(np.uint8)
        _, _, boxes, _ = cv2.connectedComponentsWithStats(same, connectivity=4)
        for left, top, width, height, _ in boxes[1:]:
            if height == 112 and width >= 60:  # and not a letter
                inside = sheet[top + 3 : top + height - 3, left + 3 : left + width - 3]
                found.append(Found(colour, int(top), int(left), inside))
    tops = sorted({tile.top for tile in found})
    return [sorted((tile for tile in found if tile.top == top), key=lambda tile: tile.left) for top in tops]


def video(root: Path, name: str, label: int, grey: int, frames: int = 9, size: tuple[int, int] = (64, 86)) -> Video:
    """A video that is `grey` in its middle frame, and 1 brighter with every frame after."""
    folder = root / name
    folder.mkdir()
    for number in range(frames):
        picture = np.full((*size, 3), grey + number - frames // 2, np.uint8)
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return Video(name, label, folder, frames, ())


class TestTiles:
    def test_each_picture_stands_in_its_frame(self, tmp_path: Path) -> None:
        colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
        pictures = [np.full((30, 40, 3), colour, np.uint8) for colour in colours]
        rows = [
            Row("first\nof two", [Tile(pictures[0], "a", GREEN), Tile(pictures[1], "b", RED)]),
            Row("second", [Tile(pictures[2], "c")]),
        ]
        write_rows(tmp_path / "figures" / "x.png", "title", rows)
        found = tiles(read(tmp_path / "figures" / "x.png"))
        assert [[tile.colour for tile in row] for row in found] == [[GREEN, RED], [GREY]]
        assert [[tuple(tile.inside[50, 50]) for tile in row] for row in found] == [colours[:2], colours[2:]]
        # Scaled to 112 px of height: 40 * 112 / 30 = 149 of width, 3 of it frame on each side.
        assert found[0][0].inside.shape == (106, 143, 3)
        assert found[0][0].left == found[1][0].left

    def test_the_sheet_holds_its_title_and_widest_row(self, tmp_path: Path) -> None:
        tile = Tile(np.zeros((10, 10, 3), np.uint8), "w" * 60)
        write_rows(tmp_path / "x.png", "t" * 200, [Row("label " * 20, [tile])])
        sheet = read(tmp_path / "x.png")
        assert (sheet[:, -6:] == 255).all()  # nothing runs over the edge
        write_rows(tmp_path / "y.png", "t", [Row("r", [tile]), Row("r", [tile] * 9)])
        sheet = read(tmp_path / "y.png")
        assert [len(row) for row in tiles(sheet)] == [1, 9]
        assert (sheet[:, -6:] == 255).all()
        assert (sheet[-3:] == 255).all()

    def test_words_too_long_for_a_tile_are_cut(self, tmp_path: Path) -> None:
        tile = np.full((50, 50, 3), 255, np.uint8)
        write_rows(tmp_path / "x.png", "", [Row("", [Tile(tile, "HandstandPushups and more", RED)] * 2)])
        first, second = tiles(read(tmp_path / "x.png"))[0]
        between = read(tmp_path / "x.png")[first.top + 113 : first.top + 130, first.left + 112 : second.left]
        assert (between == 255).all()


class TestMaskedClips:
    def test_clips_are_bright_inside_their_masks_only(self, tmp_path: Path) -> None:
        # Two videos of one fixation, two views each: four clips of five frames, grey 60, 80, 100, 120 in the middle
        # frame and black in the others. Masks: left half, right half, all, nothing.
        clips = torch.zeros(4, 3, 5, 48, 48)
        for number, grey in enumerate((60, 80, 100, 120)):
            clips[number, :, 2] = grey / 255
        masks = torch.zeros(4, 1, 48, 48)
        masks[0, :, :, :24], masks[1, :, :, 24:], masks[2] = 1, 1, 1
        draw_masked_clips(tmp_path / "x.png", ["one", "two"], normalise(clips), masks, 1)
        rows = tiles(read(tmp_path / "x.png"))
        assert [len(row) for row in rows] == [2, 2]
        (first, second), (third, fourth) = rows
        middle = first.inside.shape[1] // 2
        for tile, left, right in (
            (first, 60, 60 * OUTSIDE),
            (second, 80 * OUTSIDE, 80),
            (third, 100, 100),
            (fourth, 120 * OUTSIDE, 120 * OUTSIDE),
        ):
            np.testing.assert_allclose(tile.inside[:, : middle - 5], left, atol=1.5)
            np.testing.assert_allclose(tile.inside[:, middle + 5 :], right, atol=1.5)

    def test_a_row_for_each_video_first_views_first(self, tmp_path: Path) -> None:
        greys = torch.arange(1, 13).float() * 20
        clips = (greys / 255).view(12, 1, 1, 1, 1).expand(12, 3, 4, 24, 24)
        draw_masked_clips(tmp_path / "x.png", ["a", "b"], normalise(clips), None, 3)
        rows = tiles(read(tmp_path / "x.png"))
        found = [[tile.grey for tile in row] for row in rows]
        np.testing.assert_allclose(found, greys.view(2, 6).numpy(), atol=1.1)

    def test_colours_are_those_of_the_frame(self, tmp_path: Path) -> None:
        clips = torch.tensor([0.8, 0.4, 0.1]).view(1, 3, 1, 1, 1).expand(2, 3, 4, 24, 24)
        draw_masked_clips(tmp_path / "x.png", ["a"], normalise(clips), None, 1)
        np.testing.assert_allclose(tiles(read(tmp_path / "x.png"))[0][0].inside[50, 50], [204, 102, 25.5], atol=1.1)


class TestNeighbours:
    @pytest.fixture
    def gallery(self, tmp_path: Path) -> list[Video]:
        return [video(tmp_path, f"g{i}", i % 2, 40 + 10 * i) for i in range(6)]

    def test_right_ones_are_green_wrong_ones_red_in_order(self, tmp_path: Path, gallery: list[Video]) -> None:
        queries = [video(tmp_path, "q0", 0, 200), video(tmp_path, "q1", 1, 220)]
        neighbours = np.array([[4, 1, 0, 3], [2, 5, 3, 0]])
        similarity = np.array([[0.9, 0.8, 0.7, 0.6]] * 2, np.float32)
        draw_neighbours(tmp_path / "x.png", queries, gallery, CLASSES, neighbours, similarity, shown=3)
        rows = tiles(read(tmp_path / "x.png"))
        assert [[tile.colour for tile in row] for row in rows] == [[GREY, GREEN, RED, GREEN], [GREY, RED, GREEN, GREEN]]
        greys = [[tile.grey for tile in row] for row in rows]
        np.testing.assert_allclose(greys, [[200, 80, 50, 40], [220, 60, 90, 70]], atol=1.1)

    def test_right_and_wrong_can_be_told_without_colours(self, tmp_path: Path, gallery: list[Video]) -> None:
        queries = [video(tmp_path, "q0", 0, 200)]
        found = np.array([[4, 1]]), np.ones((1, 2), np.float32)
        draw_neighbours(tmp_path / "x.png", queries, gallery, CLASSES, *found)
        ((query, right, wrong),) = tiles(read(tmp_path / "x.png"))
        white = [(tile.inside[:16, -16:] == 255).all(axis=2) for tile in (query, right, wrong)]
        assert not white[0].any()
        # A tick leaves the upper left of the corner free, a cross does not.
        assert white[1].sum() > 20
        assert white[2].sum() > 20
        assert not white[1][:7, :7].any()
        assert white[2][:7, :7].any()

    def test_queries_are_spread_over_the_list(self, tmp_path: Path, gallery: list[Video]) -> None:
        queries = [video(tmp_path, f"q{i}", 0, 100 + 10 * i) for i in range(9)]
        neighbours, similarity = np.zeros((9, 1), np.int64), np.ones((9, 1), np.float32)
        draw_neighbours(tmp_path / "x.png", queries, gallery, CLASSES, neighbours, similarity, rows=3)
        rows = tiles(read(tmp_path / "x.png"))
        np.testing.assert_allclose([row[0].grey for row in rows], [100, 140, 180], atol=1.1)
        assert {len(row) for row in rows} == {2}  # only as many neighbours as were retrieved


class TestClusters:
    def test_the_densest_with_their_nearest_members_dark_outside_the_box(self, tmp_path: Path) -> None:
        # Three videos of two fixations: slots 0 to 5. Cluster 0 holds 0, 3, 4; cluster 1 holds 1, 5; cluster 2 slot 2.
        prototypes = Prototypes(
            assignment=np.array([0, 1, 2, 0, 0, 1]),
            distance=np.array([0.3, 0.2, 0.0, 0.1, 0.2, 0.1], np.float32),
            centroids=np.zeros((3, 4), np.float32),
            density=np.array([0.2, 0.1, 0.05], np.float32),
            density_mean=1.0,
            objective=1.0,
        )
        videos = [video(tmp_path, f"v{i}", i % 2, grey, size=(128, 171)) for i, grey in enumerate((60, 120, 180))]
        # Every fixation begins at a frame of its own; frame n is n - 4 brighter than the middle one.
        boxes = [fixation_box(cell, grid_num=7, margin_h=0) for cell in (0, 6, 24, 42, 48, 24)]
        starts = [0, 1, 2, 3, 4, 5]
        draw_clusters(
            tmp_path / "x.png", prototypes, videos, CLASSES, 2, list(zip(starts, boxes, strict=True)), rows=5, shown=2
        )
        rows = tiles(read(tmp_path / "x.png"))
        # Cluster 1 is denser than cluster 0; cluster 2 has one member only. At most two members are shown.
        expected = [[5, 1], [3, 4]]
        assert [len(row) for row in rows] == [2, 2]
        # Two of the three members of cluster 0 are of class 0, of which slot 3 is not.
        assert [[tile.colour for tile in row] for row in rows] == [[BLUE, BLUE], [GREY, BLUE]]
        for row, slots in zip(rows, expected, strict=True):
            for tile, slot in zip(row, slots, strict=True):
                grey, box = (60, 120, 180)[slot // 2] + starts[slot] - 4, boxes[slot]
                whole = np.full((128, 171), int(grey * OUTSIDE), np.float32)
                whole[box.top : box.bottom, box.left : box.right] = grey
                height, width = 112, round(171 * 112 / 128)
                wanted = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)[3:-3, 3:-3]
                near = np.abs(tile.inside.mean(axis=2) - wanted) < 2.5
                assert near.mean() > 0.95  # all but the edges of the box

    def test_of_many_the_densest_half_and_a_spread_of_the_rest(self, tmp_path: Path) -> None:
        # Cluster i has two members, both of the video of grey 40 + 15 i; the densest is the last one.
        videos = [video(tmp_path, f"v{i}", 0, 40 + 15 * i) for i in range(12)]
        prototypes = Prototypes(
            assignment=np.repeat(np.arange(12), 2),
            distance=np.zeros(24, np.float32),
            centroids=np.zeros((12, 4), np.float32),
            density=np.arange(12, 0, -1).astype(np.float32),
            density_mean=1.0,
            objective=0.0,
        )
        place = (4, fixation_box(24, grid_num=7, margin_h=128))  # the middle frame, and all of it in the box
        draw_clusters(tmp_path / "x.png", prototypes, videos, CLASSES, 2, [place] * 24, rows=6)
        found = [(row[0].grey - 40) / 15 for row in tiles(read(tmp_path / "x.png"))]
        # Ranks 0, 1, 2, and of 3 to 11 the first, the middle one and the last.
        np.testing.assert_allclose(found, [11, 10, 9, 8, 4, 0], atol=0.1)

    def test_clusters_of_one_member_are_drawn_when_there_are_no_others(self, tmp_path: Path) -> None:
        prototypes = Prototypes(
            assignment=np.array([1, 0]),
            distance=np.zeros(2, np.float32),
            centroids=np.zeros((3, 4), np.float32),
            density=np.ones(3, np.float32),
            density_mean=1.0,
            objective=0.0,
        )
        videos = [video(tmp_path, f"v{i}", i, 100) for i in range(2)]
        box = fixation_box(24, grid_num=7, margin_h=0)
        draw_clusters(tmp_path / "x.png", prototypes, videos, CLASSES, 1, [(0, box)] * 2)
        assert [[tile.colour for tile in row] for row in tiles(read(tmp_path / "x.png"))] == [[BLUE]]


class TestCurves:
    def test_a_panel_for_each_metric(self, tmp_path: Path) -> None:
        curves = {f"pretrain/{i}": (list(range(50)), [i + step / 7 for step in range(50)]) for i in range(4)}
        draw_curves(tmp_path / "figures" / "one.png", dict([*curves.items()][:1]), columns=2)
        draw_curves(tmp_path / "figures" / "four.png", curves, columns=2)
        one, four = (read(tmp_path / "figures" / f"{name}.png") for name in ("one", "four"))
        assert four.shape[:2] == (2 * one.shape[0], one.shape[1])
        blue = (np.abs(four.astype(int) - (0x1F, 0x5F, 0xA8)) < 40).all(axis=2)
        h, w = blue.shape
        quarters = [
            blue[: h // 2, : w // 2],
            blue[: h // 2, w // 2 :],
            blue[h // 2 :, : w // 2],
            blue[h // 2 :, w // 2 :],
        ]
        for quarter in quarters:
            # A line that rises from the lower left to the upper right corner of its panel.
            ys, xs = np.nonzero(quarter)
            assert len(ys) > 200
            assert np.corrcoef(xs, ys)[0, 1] < -0.99

    def test_what_differs_in_a_number_only_shares_a_panel(self, tmp_path: Path) -> None:
        steps = list(range(50))
        curves = {f"clusters/{i}/objective": (steps, [float(i)] * 50) for i in (0, 1)}
        draw_curves(tmp_path / "one.png", {"clusters/0/objective": curves["clusters/0/objective"]}, columns=1)
        draw_curves(tmp_path / "two.png", curves, columns=1)
        one, two = (read(tmp_path / f"{name}.png") for name in ("one", "two"))
        assert one.shape == two.shape
        for colour, sheets in (((0x1F, 0x5F, 0xA8), (one, two)), ((0xD9, 0x82, 0x2B), (two,))):
            for sheet in (one, two):
                drawn = (np.abs(sheet.astype(int) - colour) < 30).all(axis=2).sum() > 200
                assert drawn == any(sheet is other for other in sheets)

    def test_events_are_marked_where_they_belong(self, tmp_path: Path) -> None:
        curves = {name: ([0, 100], [1.0, 2.0]) for name in ("pretrain/loss", "optim/learning_rate")}
        for name, events in (("with", {"pretrain/": {50: "prototypes"}}), ("without", {})):
            draw_curves(tmp_path / f"{name}.png", curves, columns=2, events=events)
        differs = (read(tmp_path / "with.png") != read(tmp_path / "without.png")).any(axis=2)
        middle = differs.shape[1] // 2
        assert not differs[:, middle:].any()
        # Half-way along the axis of the left panel, as high as the panel.
        column = differs.sum(axis=0).argmax()
        assert 0.45 * middle < column < 0.65 * middle
        assert differs[:, column].sum() > 0.25 * len(differs)

    def test_the_same_values_give_the_same_file(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            draw_curves(tmp_path / f"{name}.png", {"x": ([1, 2], [1.0, float("nan")]), "y": ([1, 2], [2.0, 3.0])})
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
