"""Curves of logged metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["draw_curves"]

Series = tuple[Sequence[int], Sequence[float]]


def draw_curves(path: Path, curves: Mapping[str, Series], *, columns: int = 3) -> None:
    """Draw each metric over the optimiser steps in a panel of its own.

    Args:
        path: The PNG to write.
        curves: Steps and values by metric name.
        columns: Panels in a row.
    """
    # The object interface: pyplot keeps global state and would pick a backend for windows.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, (steps, values)) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.plot(steps, values, color="#1f5fa8", linewidth=1.4, marker="." if len(steps) < 40 else None)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
