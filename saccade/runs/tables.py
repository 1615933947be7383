"""Tables and numbers as text for the terminal."""

import math
from collections.abc import Collection, Sequence

from saccade.amounts import columns

__all__ = ["difference", "is_hit_rate", "label", "number", "score", "table_text"]


def table_text(
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    rule: bool = True,
    indent: str = "",
    widest: int = 60,
) -> str:
    """Rows of cells in columns, mostly words, with the header underlined; arguments as `columns` has them."""
    return "\n".join(columns(rows, right=right, rule=rule, indent=indent, widest=widest))


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
