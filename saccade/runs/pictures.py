"""Pictures of several runs at once: curves over each other, seeds as mean and band."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from saccade.errors import SaccadeError
from saccade.figures.curves import Series
from saccade.runs.seeds import Group, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_groups", "draw_overlay"]

# Okabe and Ito's colours, which people see as different who do not see all colours; then dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_COLUMNS, _FEW_POINTS = 3, 40


def draw_overlay(path: Path, runs: Mapping[str, Mapping[str, Series]], metrics: Sequence[str]) -> None:
    """Draw a panel for each metric with a line for each run.

    Args:
        path: The PNG to write.
        runs: Curves of each run by its label.
        metrics: Which to draw.

    Raises:
        SaccadeError: The picture cannot be written.
    """
    figure, panels = _panels(metrics)
    for metric, axes in panels.items():
        for place, curves in enumerate(runs.values()):
            steps, values = curves.get(metric, ((), ()))
            marker = "." if len(steps) < _FEW_POINTS else None
            axes.plot(steps, values, color=_colour(place), linestyle=_dash(place), linewidth=1.4, marker=marker)
    _finish(figure, list(runs), path)


def draw_groups(path: Path, groups: Sequence[Group], scores: Sequence[str], metrics: Sequence[str]) -> None:
    """Draw scores as a point for each seed with mean and 95 % interval, and curves as mean and 95 % band over seeds.

    Args:
        path: The PNG to write.
        groups: Runs that are equal but for the seed.
        scores: Metrics of which the last value counts.
        metrics: Metrics to draw as curves, at the steps that all runs of a group have.

    Raises:
        SaccadeError: The picture cannot be written.
    """
    figure, panels = _panels([*scores, *metrics])
    for metric, axes in panels.items():
        if metric in scores:
            _draw_score(axes, groups, metric)
            continue
        for place, group in enumerate(groups):
            curves = [
                dict(zip(*run.curves[metric], strict=True)) for run in group.runs.values() if metric in run.curves
            ]
            steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
            found = [summarise([curve[step] for curve in curves]) for step in steps]
            axes.plot(steps, [each.mean for each in found], color=_colour(place), linestyle=_dash(place), linewidth=1.4)
            if len(curves) > 1:
                low, high = [each.low for each in found], [each.high for each in found]
                axes.fill_between(steps, low, high, color=_colour(place), alpha=0.18, linewidth=0)
    _finish(figure, [f"{group.label}: {group.name}, {len(group.runs)} seeds" for group in groups], path)


def _draw_score(axes: "Axes", groups: Sequence[Group], metric: str) -> None:
    for place, group in enumerate(groups):
        values = [value for value in group.values(metric).values() if math.isfinite(value)]
        if not values:
            continue
        found = summarise(values)
        axes.plot([place] * len(values), values, "o", color=_colour(place), alpha=0.55, markersize=5)
        reach = [[found.mean - found.low], [found.high - found.mean]] if found.n > 1 else None
        axes.errorbar([place + 0.18], [found.mean], yerr=reach, fmt="_", color=_colour(place), capsize=4, markersize=12)
    axes.set_xticks(range(len(groups)), [group.label for group in groups])
    axes.set_xlim(-0.5, len(groups) - 0.3)
    axes.set_xlabel("group; bar: mean and 95 % interval", fontsize=8)


def _panels(metrics: Sequence[str]) -> "tuple[Figure, dict[str, Axes]]":
    # The object interface: pyplot keeps global state and would pick a backend for windows.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.0 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {}
    for place, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(metric, fontsize=10)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        panels[metric] = axes
    return figure, panels


def _finish(figure: "Figure", labels: Sequence[str], path: Path) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_colour(place), linestyle=_dash(place), linewidth=2) for place, _ in enumerate(labels)
    ]
    figure.legend(handles, labels, loc="outside upper left", ncols=min(2, len(labels)), fontsize=8, frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no picture's
        raise SaccadeError(f"{path}: the picture cannot be written ({error}); give another file with --out") from None


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _dash(place: int) -> Literal["-", "--", ":", "-."]:
    return _DASHES[place // len(_COLOURS) % len(_DASHES)]
