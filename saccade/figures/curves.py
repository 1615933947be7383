"""Curves of logged metrics."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["draw_curves"]

Series = tuple[Sequence[int], Sequence[float]]

_NUMBER = re.compile(r"(?<=/)(split)?(\d+)(?=/)")
_PANEL = 3.45, 2.5
"""Width and height, inches."""
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.66, 0.12, 0.46, 0.34
"""Of a panel, around its axes: space for numbers of eight characters, for words below and above."""
_COLOURS = ("#1f5fa8", "#d9822b", "#2e8b57", "#b03a5b", "#7a5ca8", "#6b6b6b")


def draw_curves(
    path: Path, curves: Mapping[str, Series], *, columns: int = 2, events: Mapping[str, Mapping[int, str]] | None = None
) -> None:
    """Draw each metric over the optimiser steps in a panel of its own; clusters/0/... and clusters/1/... share one.

    Args:
        path: The PNG to write.
        curves: Steps and values by metric name.
        columns: Panels in a row.
        events: What happened at a step, to be marked in panels whose name begins with the key.
    """
    # The object interface: pyplot keeps global state and would pick a backend for windows.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, Series]] = {}
    for name, series in curves.items():
        panels.setdefault(_NUMBER.sub(r"\1*", name), {})[name] = series
    width, height = _PANEL[0] * columns, _PANEL[1] * -(-len(panels) // columns)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    for place, (title, lines) in enumerate(panels.items()):
        row, column = divmod(place, columns)
        # By hand: matplotlib takes longer to work a layout out than to draw it, seconds for the curves of a run.
        left, bottom = column * _PANEL[0] + _LEFT, height - (row + 1) * _PANEL[1] + _BOTTOM
        size = (_PANEL[0] - _LEFT - _RIGHT) / width, (_PANEL[1] - _BOTTOM - _TOP) / height
        axes = figure.add_axes((left / width, bottom / height, *size))
        for number, (name, (steps, values)) in enumerate(lines.items()):
            colour, found = _COLOURS[number % len(_COLOURS)], _NUMBER.search(name)
            marker = "." if len(steps) < 40 else None
            axes.plot(steps, values, color=colour, linewidth=1.4, marker=marker, label=found and found[0])
        axes.set_title(title if len(lines) > 1 else next(iter(lines)), fontsize=10)
        for prefix, marks in (events or {}).items():
            for step, words in marks.items() if title.startswith(prefix) else ():
                axes.axvline(step, color="#888888", linewidth=0.9, linestyle="--")
                side = "left" if step <= sum(axes.get_xlim()) / 2 else "right"  # of the words: at the line
                where = axes.get_xaxis_transform()
                axes.text(step, 0.97, f" {words} ", transform=where, ha=side, va="top", fontsize=7, color="#555555")
        if len(lines) > 1:
            axes.legend(fontsize=7, frameon=False)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
