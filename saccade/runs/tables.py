"""Tables and numbers as text for the terminal."""

import math
from collections.abc import Sequence

__all__ = ["columns", "difference", "is_hit_rate", "label", "number", "score"]


def columns(
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    rule: bool = True,
    indent: str = "",
    widest: int = 60,
) -> str:
    """Rows of cells in columns, the header first.

    Args:
        rows: All of one length.
        right: Columns that are set to the right, as numbers are.
        rule: Underline the header.
        indent: Before every line.
        widest: Longer cells are cut, so that one long path does not push all else off the screen.
    """
    cells = [[cell if len(cell) <= widest else cell[: widest - 3] + "..." for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(parts)).rstrip())
    if rule:
        lines.insert(1, indent + "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def label(place: int) -> str:
    """What the run or group at a place, from 0, is called in a comparison: A, B, C, ..."""
    return chr(ord("A") + place) if place < 26 else f"A{place}"


def number(value: float, digits: int = 4) -> str:
    """A metric's value: so many significant digits, whole numbers as they are."""
    if math.isfinite(value) and value == round(value) and abs(value) < 1e6:
        return str(round(value))
    return f"{value:.{digits}g}"


def score(name: str, value: float) -> str:
    """A metric's value in the unit that its name asks for: those between 0 and 1 that count hits in per cent."""
    return f"{100 * value:.1f} %" if is_hit_rate(name) else number(value)


def difference(name: str, value: float) -> str:
    """A difference of a metric's values, with its sign; of hit rates in points, that is hundredths."""
    if not math.isfinite(value):
        return str(value)
    return f"{100 * value:+.1f}" if is_hit_rate(name) else f"{value:+.3g}"


def is_hit_rate(name: str) -> bool:
    """Whether a metric is a part of videos."""
    return "_top" in name.rpartition("/")[2]
