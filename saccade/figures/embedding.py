"""Maps of features in two dimensions, coloured by what is known of the videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Colouring", "draw_map", "on_plane", "spread"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_FEW = 30
"""Below this many points t-SNE, which keeps neighbours together, has no neighbourhoods to keep."""
_PERPLEXITY, _ITERATIONS = 30.0, 500
_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#393b79"),
    *("#98df8a", "#ff9896", "#c5b0d5", "#843c39", "#006d5b", "#e7ba52", "#7b4173", "#9edae5", "#637939", "#f7b6d2"),
)
"""Of groups with a colour of their own, none of them grey; eyes tell no more apart."""
_OTHERS = "#c8c8c8"


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """One panel of a map: what its points are told apart by."""

    title: str
    labels: Labels
    """Group of each point, `[N]`; -1: of none."""
    names: Sequence[str]
    """Of the groups."""
    rest: str = ""
    """What those of none are."""


def spread(count: int, most: int) -> Labels:
    """At most `most` places of a list of `count`, evenly spread from its first to its last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def on_plane(features: Floats) -> tuple[Floats, str]:
    """Place features `[N, D]` on a plane, `[N, 2]`, and say how; the same features give the same places.

    By t-SNE (van der Maaten & Hinton, 2008, JMLR 9) from principal components, or these alone when there are few.
    """
    if len(features) < _FEW:
        centred = features - features.mean(axis=0)
        left, scale, right = np.linalg.svd(centred, full_matrices=False)
        places = np.zeros((len(features), 2), np.float32)
        # A component's sign is arbitrary: its largest entry is made positive.
        signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
        kept = min(2, len(scale))
        places[:, :kept] = (left * scale * signs)[:, :kept]
        return places, "principal components"
    from sklearn.manifold import TSNE  # 1 s to import
    from threadpoolctl import threadpool_limits

    # One thread: sums over several come in any order, and their last digits grow.
    with threadpool_limits(1):
        method = TSNE(
            2,
            perplexity=min(_PERPLEXITY, (len(features) - 1) / 3),
            init="pca",
            random_state=0,
            max_iter=_ITERATIONS,
            n_jobs=1,
        )
        return np.asarray(method.fit_transform(features), np.float32), "t-SNE"


def draw_map(
    path: Path, title: str, places: Floats, colourings: Sequence[Colouring], marked: npt.NDArray[np.bool_]
) -> None:
    """Draw points in a panel for each colouring; beyond 20 groups the smallest share a grey.

    Args:
        path: The PNG to write.
        title: What the points are.
        places: Where they are, `[N, 2]`.
        colourings: What colours stand for.
        marked: Points that are drawn as triangles, the others as dots, `[N]`.
    """
    # The object interface: pyplot keeps global state and would pick a backend for windows.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 0.3 + 4.8 * len(colourings)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, colouring in enumerate(colourings, start=1):
        axes = figure.add_subplot(len(colourings), 1, number)
        _draw_panel(axes, places, colouring, marked)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_panel(
    axes: "Axes",
    places: Floats,
    colouring: Colouring,
    marked: npt.NDArray[np.bool_],
) -> None:
    labels = colouring.labels
    size = 26 if len(labels) <= 400 else 12
    own, others = _with_colours(np.bincount(labels[labels >= 0], minlength=len(colouring.names)))
    grey = {f"{others.size} others": np.isin(labels, others), colouring.rest: labels < 0}
    grey = {name: members for name, members in grey.items() if members.any()}
    for name, members in grey.items():
        _draw_group(axes, places, members, marked, _OTHERS, size, name)
    for group, colour in zip(own, _COLOURS, strict=False):
        _draw_group(axes, places, labels == group, marked, colour, size, colouring.names[group])
    axes.set_title(colouring.title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.03)
    handles, names = axes.get_legend_handles_labels()
    handles, names = handles[len(grey) :] + handles[: len(grey)], names[len(grey) :] + names[: len(grey)]
    axes.legend(handles, names, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)


def _with_colours(sizes: Labels) -> tuple[Labels, Labels]:
    """Groups that get a colour, in their order, and those that do not; empty ones are in neither."""
    there = np.flatnonzero(sizes)
    if len(there) <= len(_COLOURS):
        return there, there[:0]
    order = there[np.argsort(-sizes[there], kind="stable")]
    return np.sort(order[: len(_COLOURS) - 1]), order[len(_COLOURS) - 1 :]


def _draw_group(
    axes: "Axes",
    places: Floats,
    members: npt.NDArray[np.bool_],
    marked: npt.NDArray[np.bool_],
    colour: str,
    size: int,
    name: str,
) -> None:
    dots, triangles = places[members & ~marked], places[members & marked]
    axes.scatter(dots[:, 0], dots[:, 1], s=size, color=colour, alpha=0.75, linewidths=0, label=name)
    axes.scatter(
        triangles[:, 0],
        triangles[:, 1],
        s=1.6 * size,
        color=colour,
        marker="^",
        linewidths=size / 45,
        edgecolors="black",
    )
