from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from saccade.datasets.layout import Video
from saccade.datasets.scanpaths import compute_scanpaths
from saccade.errors import DataError
from saccade.figures.scanpaths import draw_scanpaths, show_scanpath
from saccade.gaze.scanpath import Fixation

FRAMES, HEIGHT, WIDTH = 20, 128, 171
ROWS = "24 0 7\n0 7 12\n24 13 20\n"
GREY = 160


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A grey video with three fixations, between which lies frame 12."""
    folder = tmp_path / "data" / "mine"
    (folder / "jpegs_256" / "ann_walk").mkdir(parents=True)
    (folder / "scan_idx_7").mkdir()
    for frame in range(FRAMES):
        cv2.imwrite(str(folder / "jpegs_256" / "ann_walk" / f"{frame:03d}.jpg"), np.full((HEIGHT, WIDTH, 3), GREY))
    (folder / "scan_idx_7" / "ann_walk.txt").write_text(ROWS)
    return folder


def _pixels(image: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(image.convert("RGB")).astype(int)


def _film(path: Path) -> list[npt.NDArray[np.int64]]:
    with Image.open(path) as film:
        frames = []
        for number in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(number)
            frames.append(_pixels(film))
    return frames


def test_a_film_shows_every_frame_with_cell_and_mask(dataset: Path, tmp_path: Path) -> None:
    show_scanpath(dataset, "ann_walk", tmp_path / "film.gif")
    frames = _film(tmp_path / "film.gif")
    assert len(frames) == FRAMES
    assert frames[0].shape == (192, 256, 3)
    # Cell 24 is the middle one. Its mask, margin_h 12, has rows 63 - 38 to 63 + 38 of 128; its cell rows 3/7 to 4/7.
    scale = 192 / 128
    column = 128
    assert abs(frames[0][int((63 - 38) * scale) + 3, column] - GREY).max() < 12  # within the mask
    assert abs(frames[0][int((63 - 38) * scale) - 4, column] - 0.35 * GREY).max() < 12  # above it
    assert abs(frames[0][round(192 * 3 / 7), column] - 255).max() < 12  # the cell's upper border
    assert abs(frames[7][60, 220] - 0.35 * GREY).max() < 12  # cell 0 is far from there
    assert abs(frames[12][60:180] - GREY).max() < 12  # no fixation, nothing dark


def test_a_sheet_has_a_tile_for_each_fixation(dataset: Path, tmp_path: Path) -> None:
    show_scanpath(dataset, "ann_walk", tmp_path / "deep" / "sheet.png")
    with Image.open(tmp_path / "deep" / "sheet.png") as image:
        sheet = _pixels(image)
    assert sheet.shape[0] == 3 * 13 + 2 * (150 + 2 * 13 + 6)  # the overview and one row
    lit = abs(sheet - GREY).max(axis=2) < 6
    dark = abs(sheet - 0.35 * GREY).max(axis=2) < 6
    overview, fixations = lit[: 39 + 182 - 20], lit[39 + 182 :]
    assert overview.sum() > 0.8 * 150 * 200
    # Lit parts: two whole boxes of 76 x 102 and the corner of one, on tiles of 150 px where the plane has 128.
    box, corner = 76 * 102, (9 + 38) * (12 + 50)
    assert fixations.sum() / (150 / 128) ** 2 == pytest.approx(2 * box + corner, rel=0.15)
    assert dark.sum() > 150 * 200


def test_the_gaze_is_drawn_when_asked_for(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its rows were not made here, so their gaze is not known; leave out --gaze"):
        show_scanpath(dataset, "ann_walk", tmp_path / "film.gif", gaze=True)
    compute_scanpaths(dataset, device="cpu", workers=1, overwrite=True)
    yellow = []
    for gaze in (False, True):
        show_scanpath(dataset, "ann_walk", tmp_path / "film.gif", gaze=gaze)
        last = _film(tmp_path / "film.gif")[-1]
        yellow.append(((last[..., 0] > 200) & (last[..., 1] > 180) & (last[..., 2] < 90)).sum())
    assert yellow[0] == 0
    assert yellow[1] > 30


def test_a_video_without_fixations(dataset: Path, tmp_path: Path) -> None:
    (dataset / "scan_idx_7" / "ann_walk.txt").write_text("")
    show_scanpath(dataset, "ann_walk", tmp_path / "film.gif")
    assert len(_film(tmp_path / "film.gif")) >= 1
    show_scanpath(dataset, "ann_walk", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("video", "out", "grid", "what"),
    [
        ("ann_wlak", "a.png", 7, r"ann_wlak: no such video; did you mean ann_walk\?"),
        ("zzz", "a.png", 7, "no such video; .* holds 1 videos"),
        ("ann_walk", "a.bmp", 7, r"ends with \.png, for a sheet of pictures, or \.gif"),
        ("ann_walk", "a.png", 4, r"scan_idx_4/ann_walk\.txt: no such scanpath file"),
        ("ann_walk", "file/a.png", 7, r"file/a\.png: cannot be written"),
    ],
)
def test_mistakes(dataset: Path, tmp_path: Path, video: str, out: str, grid: int, what: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=what):
        show_scanpath(dataset, video, tmp_path / out, grid_num=grid)


def test_a_row_for_each_video_with_an_overview_and_the_chosen_clips(dataset: Path, tmp_path: Path) -> None:
    frames = dataset / "jpegs_256" / "ann_walk"
    fixations = (Fixation(24, 0, 7), Fixation(0, 7, 12), Fixation(24, 13, 20))
    videos = [Video("ann_walk", 0, frames, FRAMES, fixations), Video("eve_run", 0, frames, FRAMES, ())]
    chosen = [[(2, 24), (14, 0)], [(3, 48)]]
    draw_scanpaths(tmp_path / "x.png", videos, chosen, grid_num=7, margin_h=12)
    with Image.open(tmp_path / "x.png") as image:
        sheet = _pixels(image)
    yellow = (np.abs(sheet - (255, 220, 0)) < 8).all(axis=2)
    dark = (np.abs(sheet - round(0.35 * GREY)) < 3).all(axis=2)
    half = len(sheet) // 2
    # The gaze is drawn where there is one; 200 px of a tile, from 150 on, and a gap of 6.
    assert yellow[:half, 150:350].sum() > 100
    assert not yellow[half:].any()
    assert not yellow[:, 356:].any()
    # Overviews are not darkened, clips are: the first video's two, and the second's one in the first place.
    tiles = [
        [dark[rows, left : left + 200].sum() > 5000 for left in (150, 356, 562)]
        for rows in (slice(half), slice(half, None))
    ]
    assert tiles == [[False, True, True], [True, False, False]]
