"""Confusion matrices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["draw_confusion"]

_COUNTS_UP_TO, _EVERY_NAME_UP_TO = 20, 120
"""Classes up to which cells hold their counts, and up to which each class is named."""


def draw_confusion(path: Path, title: str, counts: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draw how often each class was taken for each; only the classes that were tested have a row.

    Args:
        path: The PNG to write.
        title: What was tested.
        counts: Videos of each class (row) taken for each class (column), `[K, K]`.
        classes: Their names.
    """
    # The object interface: pyplot keeps global state and would pick a backend for windows.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    rows = np.flatnonzero(counts.sum(axis=1))
    columns = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    shown = counts[np.ix_(rows, columns)]
    part = shown / shown.sum(axis=1, keepdims=True)
    cell = 0.45 if len(columns) <= _COUNTS_UP_TO else 0.14
    figure = Figure(figsize=(3 + cell * len(columns), 2.4 + cell * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # The root lets one mistake in forty be seen.
    shade = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(part, cmap="Blues", norm=shade, aspect="equal")
    size = 8 if len(columns) <= _COUNTS_UP_TO else 5
    step = 1 + len(columns) // _EVERY_NAME_UP_TO
    axes.set_xticks(range(0, len(columns), step), [classes[k] for k in columns[::step]], rotation=90, fontsize=size)
    axes.set_yticks(range(0, len(rows), step), [classes[k] for k in rows[::step]], fontsize=size)
    axes.set_xlabel("taken for", fontsize=9)
    axes.set_ylabel("class of the video", fontsize=9)
    axes.set_title(title, fontsize=10)
    if len(columns) <= _COUNTS_UP_TO:
        for row, column in zip(*np.nonzero(shown), strict=True):
            colour = "white" if shade(part[row, column]) > 0.6 else "black"
            axes.text(column, row, str(shown[row, column]), ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("part of the class's videos", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
