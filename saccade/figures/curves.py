"""Curves of logged metrics."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["draw_curves"]

Series = tuple[Sequence[int], Sequence[float]]

_NUMBER = re.compile(r"(?<=/)(split)?(\d+)(?=/)")
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
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.45 * columns, 2.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        for number, (name, (steps, values)) in enumerate(lines.items()):
            colour, found = _COLOURS[number % len(_COLOURS)], _NUMBER.search(name)
            marker = "." if len(steps) < 40 else None
            axes.plot(steps, values, color=colour, linewidth=1.4, marker=marker, label=found and found[0])
        axes.set_title(title if len(lines) > 1 else next(iter(lines)), fontsize=10)
        for prefix, marks in (events or {}).items():
            for step, words in marks.items() if title.startswith(prefix) else ():
                axes.axvline(step, color="#888888", linewidth=0.9, linestyle="--")
                axes.text(
                    step, 0.97, f" {words}", transform=axes.get_xaxis_transform(), va="top", fontsize=7, color="#555555"
                )
        if len(lines) > 1:
            axes.legend(fontsize=7, frameon=False)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
