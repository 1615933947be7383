"""Amounts in words, and tables of them."""

from collections.abc import Sequence

__all__ = ["bytes_text", "columns", "duration"]


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


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table, the first column to the left and the others to the right."""
    first, *others = ([len(cell) for cell in column] for column in zip(*rows, strict=True))
    lines = []
    for name, *cells in rows:
        numbers = [cell.rjust(max(lengths)) for cell, lengths in zip(cells, others, strict=True)]
        lines.append("  ".join([name.ljust(max(first)), *numbers]).rstrip())
    return lines
