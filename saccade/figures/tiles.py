"""Rows of labelled small pictures, the form of all our photographs."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from saccade.gaze.masks import PLANE_HEIGHT, PLANE_WIDTH, Box

__all__ = ["BLUE", "GREEN", "GREY", "OUTSIDE", "RED", "Picture", "Row", "Tile", "darkened", "write_rows"]

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

BLUE, GREEN, RED, GREY = (30, 90, 180), (0, 140, 60), (200, 30, 30), (120, 120, 120)
_MARKS = {
    GREEN: [(0.0, 0.55), (0.38, 0.95), (1.0, 0.1)],  # a tick
    RED: [(0.1, 0.1), (0.9, 0.9), (0.5, 0.5), (0.9, 0.1), (0.1, 0.9)],  # a cross
}
"""Lines for those who do not see the difference between the colours."""
OUTSIDE = 0.35
"""Brightness of what lies outside a fixation."""

_GAP, _BORDER, _TEXT, _LABEL, _BADGE = 6, 3, 13, 150, 16
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


class Tile(NamedTuple):
    """A picture `[H, W, 3]`, the words under it and the colour of its frame."""

    picture: Picture
    words: str = ""
    colour: Colour = GREY


class Row(NamedTuple):
    """Tiles with words to their left, a line break between lines."""

    label: str
    tiles: Sequence[Tile]


def darkened(picture: Picture, box: Box) -> Picture:
    """The picture `[H, W, 3]`, dark outside a box of the mask plane."""
    height, width = picture.shape[:2]
    rows = slice(box.top * height // PLANE_HEIGHT, box.bottom * height // PLANE_HEIGHT)
    columns = slice(box.left * width // PLANE_WIDTH, box.right * width // PLANE_WIDTH)
    dark = (picture * OUTSIDE).astype(np.uint8)
    dark[rows, columns] = picture[rows, columns]
    return dark


def write_rows(path: Path, title: str, rows: Sequence[Row], *, side: int = 112) -> None:
    """Draw rows of tiles, each scaled to a height of `side` px, and write them as a PNG."""
    font = ImageFont.load_default(_TEXT)
    pictures = [[_scaled(tile.picture, side) for tile in row.tiles] for row in rows]
    width = _LABEL + max(sum(p.width + _GAP for p in line) for line in pictures) + _GAP
    line_height = side + 2 * _TEXT + _GAP
    sheet = Image.new(
        "RGB", (max(width, int(font.getlength(title)) + 2 * _GAP), 3 * _TEXT + line_height * len(rows)), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, _INK, font)
    for r, (row, line) in enumerate(zip(rows, pictures, strict=True)):
        top, left = 2 * _TEXT + _GAP + r * line_height, _LABEL
        for n, text in enumerate(row.label.split("\n")):
            draw.text((_GAP, top + n * (_TEXT + 3)), _fitting(text, font, _LABEL - 2 * _GAP), _INK, font)
        for tile, picture in zip(row.tiles, line, strict=True):
            sheet.paste(picture, (left, top))
            box = (left, top, left + picture.width - 1, top + side - 1)
            draw.rectangle(box, outline=tile.colour, width=_BORDER)
            _mark(draw, tile.colour, left + picture.width - _BORDER, top + _BORDER)
            draw.text((left, top + side + 2), _fitting(tile.words, font, picture.width), tile.colour, font)
            left += picture.width + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, compress_level=3)  # Twice as fast as the default, for 6 % more bytes.


def _mark(draw: ImageDraw.ImageDraw, colour: Colour, right: int, top: int) -> None:
    """Say right or wrong in a tile's upper right corner."""
    if colour not in _MARKS:
        return
    left, size = right - _BADGE, _BADGE - 8
    draw.rectangle((left, top, right, top + _BADGE), fill=colour)
    points = [(left + 4 + size * x, top + 4 + size * y) for x, y in _MARKS[colour]]
    draw.line(points, _PAPER, 2, joint="curve")


def _scaled(picture: Picture, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return image.resize((max(1, round(image.width * side / image.height)), side), Image.Resampling.BICUBIC)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
