"""What the encoder sees, what it finds and what it groups."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.datasets.layout import Video
from saccade.figures.tiles import BLUE, GREEN, GREY, OUTSIDE, RED, Picture, Row, Tile, darkened, write_rows
from saccade.gaze.masks import Box
from saccade.prototypes import Prototypes
from saccade.transforms import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["draw_clusters", "draw_masked_clips", "draw_neighbours"]


def draw_masked_clips(path: Path, names: Sequence[str], clips: Tensor, masks: Tensor | None, focus_num: int) -> None:
    """Draw what the encoder is given: the middle frame of each clip, dark outside its mask; a row for each video.

    Args:
        names: Names of B videos.
        clips: Their normalised clips, `[B * 2F, 3, T, S, S]`.
        masks: Their masks, `[B * 2F, 1, S, S]`, or None.
        focus_num: F.
    """
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    middle = clips[:, :, clips.shape[2] // 2].cpu() * std + mean
    if masks is not None:
        middle = middle * (OUTSIDE + (1 - OUTSIDE) * masks.cpu())
    pictures = (middle.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
    rows = []
    for b, name in enumerate(names):
        tiles = [
            Tile(pictures[b * 2 * focus_num + v], f"fixation {v % focus_num + 1}, view {v // focus_num + 1}")
            for v in range(2 * focus_num)
        ]
        rows.append(Row(name, tiles))
    write_rows(path, "Training clips as the encoder sees them (middle frame, dark outside the fixation's mask)", rows)


def _middle_frame(video: Video, at: int | None = None) -> Picture:
    return np.asarray(video.read([video.frames // 2 if at is None else at])[0], np.uint8)


def draw_neighbours(
    path: Path,
    queries: Sequence[Video],
    gallery: Sequence[Video],
    classes: Sequence[str],
    neighbours: npt.NDArray[np.int64],
    similarity: npt.NDArray[np.float32],
    *,
    rows: int = 8,
    shown: int = 5,
) -> None:
    """Draw queries spread over the test list, each with its nearest training videos, right ones green, wrong ones red.

    Args:
        neighbours: Positions in the gallery, nearest first, `[Q, k]`.
        similarity: Their cosines, `[Q, k]`.
        rows: How many queries.
        shown: How many neighbours of each.
    """
    drawn = []
    for q in np.unique(np.linspace(0, len(queries) - 1, min(rows, len(queries))).astype(int)):
        query = queries[q]
        tiles = [Tile(_middle_frame(query), "query", GREY)]
        right = [gallery[n].label == query.label for n in neighbours[q]]
        for n, cosine, same in list(zip(neighbours[q], similarity[q], right, strict=True))[:shown]:
            found = gallery[n]
            tiles.append(Tile(_middle_frame(found), f"{cosine:.2f} {classes[found.label]}", GREEN if same else RED))
        first = f"first hit at {right.index(True) + 1}" if any(right) else f"no hit in {len(right)}"
        drawn.append(Row(f"{classes[query.label]}\n{query.name}\n{first}", tiles))
    write_rows(
        path, "Test videos and their nearest training videos (cosine, class): right ones green, wrong ones red", drawn
    )


def draw_clusters(
    path: Path,
    prototypes: Prototypes,
    videos: Sequence[Video],
    classes: Sequence[str],
    focus_num: int,
    places: Sequence[tuple[int, Box]],
    *,
    rows: int = 20,
    shown: int = 6,
) -> None:
    """Draw clusters, the densest first, a row each: the members nearest to the centroid, dark outside their fixation.

    All clusters of at least two members; of more than `rows` the densest half, and others spread over the rest.

    Args:
        focus_num: F; member i is fixation `i % F` of video `i // F`.
        places: First frame and box of every fixation, N * F of them.
        rows: How many clusters.
        shown: How many members of each.
    """
    members = np.bincount(prototypes.assignment, minlength=len(prototypes.centroids))
    order = np.argsort(prototypes.density, kind="stable")
    order = order[members[order] > 1] if (members > 1).any() else order[members[order] > 0][:1]
    drawn = []
    for rank in _ranks(len(order), rows):
        cluster = int(order[rank])
        inside = np.flatnonzero(prototypes.assignment == cluster)
        nearest = inside[np.argsort(prototypes.distance[inside], kind="stable")]
        counts = np.bincount([videos[int(slot) // focus_num].label for slot in inside])
        commonest = int(counts.argmax())
        tiles = []
        for slot in nearest[:shown]:
            video, (start, box) = videos[slot // focus_num], places[slot]
            words = f"{prototypes.distance[slot]:.2f} {classes[video.label]}"
            picture = darkened(_middle_frame(video, start), box)
            tiles.append(Tile(picture, words, BLUE if video.label == commonest else GREY))
        label = f"{rank + 1}. cluster {cluster}\n{len(inside)} fixations"
        label += f"\n{counts[commonest] / len(inside):.0%} {classes[commonest]}"
        label += f"\ndensity {prototypes.density[cluster]:.3f}"
        drawn.append(Row(label, tiles))
    which = "All clusters" if len(drawn) == len(order) else f"{len(drawn)} of {len(order)} clusters"
    note = "the smaller its density, the tighter a cluster; blue: its commonest class"
    write_rows(path, f"{which}, tightest first: members nearest to the centroid (distance, class); {note}", drawn)


def _ranks(count: int, rows: int) -> list[int]:
    """Which of `count` ranked things to show in `rows`: the first half of the rows, and a spread of the rest."""
    if count <= rows:
        return list(range(count))
    first = rows // 2
    return [*range(first), *(int(rank) for rank in np.linspace(first, count - 1, rows - first).round())]
