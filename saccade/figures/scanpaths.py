"""A video's scanpath to look at: fixations in order, each with its cell and its mask, as a sheet or as it moves."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from saccade.datasets.frames import list_frames
from saccade.datasets.gaze_jobs import video_gaze
from saccade.datasets.layout import FRAMES_FOLDER, Video, scanpath_folder
from saccade.datasets.scanpaths import read_parameters
from saccade.errors import DataError
from saccade.figures.tiles import BLUE, Picture, Row, Tile, darkened, write_rows
from saccade.gaze.masks import fixation_box
from saccade.gaze.scanpath import Fixation, read_scanpath

__all__ = ["draw_scanpaths", "show_scanpath"]

_SHEET_PX, _FILM_PX = 150, 192
"""Height of the pictures of a sheet and of an animation."""
_IN_ROW, _IN_OVERVIEW = 6, 8
"""Fixations of a row, and those drawn together in one picture of the first row."""
_TRAIL_FRAMES = 12
"""Frames over which the gaze leaves a trail in an animation."""
_YELLOW, _BLACK, _WHITE = (255, 220, 0), (0, 0, 0), (255, 255, 255)
_FRAMES_PER_SECOND = 25


class _Video:
    """Frames and fixations of a video, and how to draw them."""

    def __init__(
        self,
        video: Video,
        fixations: Sequence[Fixation],
        *,
        grid_num: int,
        margin_h: int,
        places: npt.NDArray[np.float64] | None,
    ) -> None:
        self.name, self.frames, self.fixations = video.name, video.frames, fixations
        self._video = video
        self.grid_num, self._margin_h, self._places = grid_num, margin_h, places

    def picture(self, frame: int, height: int, fixation: Fixation | None = None) -> Image.Image:
        """A frame scaled to `height`, dark outside the mask of the fixation, whose cell is outlined."""
        whole: Picture = self._video.read([frame])[0]
        if fixation is not None:
            whole = darkened(whole, fixation_box(fixation.cell, grid_num=self.grid_num, margin_h=self._margin_h))
        image = Image.fromarray(whole)
        image = image.resize((round(image.width * height / image.height), height), Image.Resampling.BICUBIC)
        if fixation is not None:
            row, column = divmod(fixation.cell, self.grid_num)
            cell_h, cell_w = image.height / self.grid_num, image.width / self.grid_num
            corners = (column * cell_w, row * cell_h, (column + 1) * cell_w - 1, (row + 1) * cell_h - 1)
            ImageDraw.Draw(image).rectangle(corners, outline=_WHITE)
        return image

    def draw_gaze(self, image: Image.Image, first: int, last: int) -> None:
        """Draw the gaze of frames `first` to `last`, which is marked, when it is known."""
        if self._places is None:
            return
        points = [(column * image.width, row * image.height) for row, column in self._places[first : last + 1]]
        draw = ImageDraw.Draw(image)
        draw.line(points, _YELLOW, 2)
        draw.circle(points[-1], 4, fill=_YELLOW, outline=_BLACK)

    def overview(self, first: int, height: int) -> Image.Image:
        """Some fixations from number `first` (from 0) on as numbered circles, over the frame in their middle."""
        shown = self.fixations[first : first + _IN_OVERVIEW]
        image = self.picture((shown[0].start + shown[-1].end - 1) // 2, height)
        points = []
        for fixation in shown:
            row, column = divmod(fixation.cell, self.grid_num)
            points.append(((column + 0.5) * image.width / self.grid_num, (row + 0.5) * image.height / self.grid_num))
        draw = ImageDraw.Draw(image)
        draw.line(points, _YELLOW, 2)
        for number, point in enumerate(points, start=first + 1):
            draw.circle(point, 8, fill=_YELLOW, outline=_BLACK)
            draw.text(point, str(number), _BLACK, ImageFont.load_default(10), anchor="mm")
        return image


def _write_sheet(path: Path, video: _Video) -> None:
    fixations = video.fixations
    words = f"{video.frames} frames\n{len(fixations)} fixations\nin their order"
    overviews = []
    for first in range(0, len(fixations), _IN_OVERVIEW):
        last = min(first + _IN_OVERVIEW, len(fixations))
        overviews.append(Tile(np.asarray(video.overview(first, _SHEET_PX)), f"{first + 1} to {last}"))
    rows = [Row(words, overviews[:_IN_ROW])]
    rows += [Row("", overviews[at : at + _IN_ROW]) for at in range(_IN_ROW, len(overviews), _IN_ROW)]
    for first in range(0, len(fixations), _IN_ROW):
        tiles = []
        for number, fixation in enumerate(fixations[first : first + _IN_ROW], start=first + 1):
            middle = (fixation.start + fixation.end - 1) // 2
            image = video.picture(middle, _SHEET_PX, fixation)
            video.draw_gaze(image, fixation.start, fixation.end - 1)
            tiles.append(Tile(np.asarray(image), f"{number}: frames {fixation.start} to {fixation.end - 1}"))
        rows.append(Row(f"fixations {first + 1} to {first + len(tiles)}", tiles))
    title = f"{video.name}: its scanpath, and each fixation with its cell (white) and mask (dark outside), middle frame"
    write_rows(path, title, rows, side=_SHEET_PX)


def _film(video: _Video) -> Iterator[Image.Image]:
    at = {frame: number for number, row in enumerate(video.fixations, 1) for frame in range(row.start, row.end)}
    font = ImageFont.load_default(14)
    for frame in range(video.frames):
        number = at.get(frame)
        image = video.picture(frame, _FILM_PX, None if number is None else video.fixations[number - 1])
        video.draw_gaze(image, max(frame - _TRAIL_FRAMES, 0), frame)
        doing = "between fixations" if number is None else f"fixation {number}"
        words = f"frame {frame}, {doing}"
        ImageDraw.Draw(image).text((6, 4), words, _WHITE, font, stroke_width=2, stroke_fill=_BLACK)
        yield image


def _write_film(path: Path, video: _Video) -> None:
    first, *others = _film(video)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others, duration=1000 // _FRAMES_PER_SECOND, loop=0)


def draw_scanpaths(
    path: Path, videos: Sequence[Video], chosen: Sequence[Sequence[tuple[int, int]]], *, grid_num: int, margin_h: int
) -> None:
    """Draw scanpaths of several videos, and where the encoder looks in them; a row for each video.

    Args:
        path: The PNG to write.
        videos: With their fixations; those without any get no overview.
        chosen: First frame and cell of each clip of each video.
        grid_num: G of the cells.
        margin_h: Growth of the masks' height, px of the mask plane.
    """
    rows = []
    for video, clips in zip(videos, chosen, strict=True):
        fixations = video.fixations
        frames = _Video(video, fixations, grid_num=grid_num, margin_h=margin_h, places=None)
        tiles = []
        if fixations:
            words = f"fixations 1 to {min(len(fixations), _IN_OVERVIEW)}"
            tiles.append(Tile(np.asarray(frames.overview(0, _SHEET_PX)), words))
        for start, cell in clips:
            picture = frames.picture(start, _SHEET_PX, Fixation(cell, start, start))
            tiles.append(Tile(np.asarray(picture), f"clip from frame {start}", BLUE))
        rows.append(
            Row(f"{video.name}\n{video.frames} frames\n{len(fixations)} fixation{'s' * (len(fixations) != 1)}", tiles)
        )
    title = "Scanpaths of training videos, and the fixations chosen in an epoch: cell (white) and mask (dark outside)"
    write_rows(path, title, rows, side=_SHEET_PX)


_WRITERS = {".png": _write_sheet, ".gif": _write_film}


def show_scanpath(
    dataset: Path, name: str, out: Path, *, grid_num: int = 7, margin_h: int = 12, gaze: bool = False
) -> None:
    """Draw a video's scanpath.

    Args:
        dataset: The dataset's folder, `<root>/<dataset>`.
        name: The video's.
        out: The file to write: a sheet (.png), or all frames one after the other (.gif).
        grid_num: G of the rows.
        margin_h: Growth of the masks' height, px of the mask plane.
        gaze: Compute the gaze anew, as the rows were made, and draw its way.

    Raises:
        DataError: No such video or rows, an unreadable frame, a file that cannot be written.
    """
    write = _WRITERS.get(out.suffix.lower())
    if write is None:
        raise DataError(f"{out}: give a name that ends with .png, for a sheet of pictures, or .gif, for an animation")
    frames, rows = dataset / FRAMES_FOLDER / name, dataset / scanpath_folder(grid_num)
    if not frames.is_dir():
        there = [path.name for path in frames.parent.iterdir()] if frames.parent.is_dir() else []
        near = get_close_matches(name, there, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; {frames.parent} holds {len(there)} videos"
        raise DataError(f"{frames}: no such video{hint}")
    count = len(list_frames(frames))
    fixations = read_scanpath(rows / f"{name}.txt", grid_num, count)
    places = video_gaze(frames, read_parameters(rows)) if gaze else None
    video = _Video(
        Video(name, 0, frames, count, fixations), fixations, grid_num=grid_num, margin_h=margin_h, places=places
    )
    try:
        write(out, video)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}; give another --out") from None
