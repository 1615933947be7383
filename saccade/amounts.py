"""Amounts in words, and tables of them."""

import unicodedata
from collections.abc import Collection, Sequence

__all__ = ["bytes_text", "columns", "counted", "duration"]


def bytes_text(count: float) -> str:
    """As KiB, MiB, GiB or TiB."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1024:.3g} KiB"


def duration(seconds: float) -> str:
    """In the unit in which it is more than two."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def counted(count: float, noun: str) -> str:
    """`1 core`, `2 cores`, `1.5 cores`."""
    return f"{count:g} {noun}" if count == 1 else f"{count:g} {noun}s"


def columns(
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] | None = None,
    rule: bool = False,
    indent: str = "",
    widest: int | None = None,
) -> list[str]:
    """Lines of a table, the header first.

    Args:
        rows: All of one length.
        right: Columns that are set to the right, as numbers are; None: all but the first.
        rule: Underline the header.
        indent: Before every line.
        widest: Longer cells are cut, so that one long path does not push all else off the screen.
    """
    cells = [[_cut(cell, widest) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    to_the_right = range(1, len(widths)) if right is None else right
    lines = []
    for row in cells:
        parts = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - _width(cell))
            parts.append(gap + cell if place in to_the_right else cell + gap)
        lines.append((indent + "  ".join(parts)).rstrip())
    if rule:
        lines.insert(1, indent + "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


def _width(cell: str) -> int:
    """Columns of a terminal: two for an emoji or a Chinese character, none for an accent of its own."""
    if cell.isascii():
        return len(cell)
    return sum(
        0 if unicodedata.category(each) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in cell
    )


def _cut(cell: str, widest: int | None) -> str:
    return cell if widest is None or len(cell) <= widest else cell[: widest - 3] + "..."
