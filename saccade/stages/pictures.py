"""Pictures of a run that show its data and what it found."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from saccade import builders
from saccade.datasets.clips import Item, VideoClips
from saccade.datasets.render import render
from saccade.engine import ranks
from saccade.evaluation.retrieval import Retrieval, labels_of
from saccade.figures.confusion import draw_confusion
from saccade.figures.embedding import Colouring, draw_map, on_plane, spread
from saccade.figures.pictures import draw_clusters, draw_masked_clips, draw_neighbours
from saccade.figures.scanpaths import draw_scanpaths
from saccade.gaze.masks import fixation_box
from saccade.metrics import confusion_matrix
from saccade.prototypes import Prototypes
from saccade.stages.run import Run

__all__ = ["draw_clustering", "draw_retrieval", "draw_training_clips"]

_MAP_TRAINING, _MAP_TEST = 1000, 500
"""Videos on the map, at most: t-SNE of more takes longer than is worth it."""

_VIDEOS = 4
"""Training videos that are shown, spread over the list, which is sorted by class."""


@ranks.first_only
def draw_training_clips(run: Run) -> None:
    """Draw where the eye rests in some training videos, and what the encoder is going to see of them."""
    if not run.timetable.steps:
        return
    spec, places = run.spec, spread(len(run.data.train), _VIDEOS)
    videos = [run.data.train[place] for place in places]
    if spec.saccade.source == "scanpath":
        chooser = builders.build_fixation_clips(spec)
        chosen = [
            [(clip.start, clip.cell or 0) for clip in chooser.clips(video, Item(1, int(place)))]
            for video, place in zip(videos, places, strict=True)
        ]
        grid_num, margin_h = spec.saccade.grid_num, spec.saccade.margin_h
        path = "figures/scanpaths.png"
        draw_scanpaths(run.folder / path, videos, chosen, grid_num=grid_num, margin_h=margin_h)
        run.journal.artifact(path)
    dataset = VideoClips(run.data.train, builders.build_training_views(spec))
    samples = [dataset[Item(1, int(place))] for place in places]
    clips, masks = render(samples, size=spec.clip.size, device=torch.device("cpu"))
    path = "figures/training_clips.png"
    draw_masked_clips(run.folder / path, [video.name for video in videos], clips, masks, spec.saccade.focus_num)
    run.journal.artifact(path)


def draw_clustering(run: Run, epoch: int, prototypes: Sequence[Prototypes], folder: Path) -> None:
    """Draw what is in the clusters of each clustering made after an epoch: `montage_<i>.png` in `folder`."""
    saccade, chooser = run.spec.saccade, builders.build_fixation_clips(run.spec)
    places = [
        (clip.start, fixation_box(clip.cell or 0, grid_num=saccade.grid_num, margin_h=saccade.margin_h))
        for index, video in enumerate(run.data.train)
        for clip in chooser.clips(video, Item(epoch, index))
    ]
    for i, clustering in enumerate(prototypes):
        path = folder / f"montage_{i}.png"
        draw_clusters(path, clustering, run.data.train, run.data.classes, saccade.focus_num, places)


@ranks.first_only
def draw_retrieval(run: Run, found: Retrieval) -> None:
    """What the test videos have found: neighbours, mistakes, and all videos on a map."""
    data, figures = run.data, run.folder / "figures"
    neighbours = found.neighbours
    draw_neighbours(figures / "neighbours.png", data.test, data.train, data.classes, neighbours, found.similarity)
    nearest = labels_of(data.train)[neighbours[:, 0]]
    counts = confusion_matrix(labels_of(data.test), nearest, len(data.classes))
    right = np.trace(counts) / counts.sum()
    title = f"Nearest training video, {data.name} split {run.spec.data.split}: top-1 {100 * right:.1f} %"
    draw_confusion(figures / "confusion_retrieval.png", title, counts, data.classes)
    _draw_map(run, found)
    for name in ("neighbours", "confusion_retrieval", "embedding"):
        run.journal.artifact(f"figures/{name}.png")


def _draw_map(run: Run, found: Retrieval) -> None:
    """The videos as retrieval compares them, by class and by the cluster that the last clustering put them in."""
    train, test = spread(len(found.gallery), _MAP_TRAINING), spread(len(found.queries), _MAP_TEST)
    features = np.concatenate([found.gallery[train], found.queries[test]])
    labels = np.concatenate([labels_of(run.data.train)[train], labels_of(run.data.test)[test]])
    colourings = [Colouring(title="by class", labels=labels, names=run.data.classes)]
    if run.learner.prototypes:
        clusters = run.learner.prototypes[0].assignment.reshape(len(run.data.train), -1)[train, 0]
        names = [f"cluster {number}" for number in range(len(run.learner.prototypes[0].centroids))]
        words = f"by cluster of the first fixation, {len(names)} clusters, last clustering"
        labels = np.concatenate([clusters, np.full(len(test), -1)])
        colourings.append(Colouring(title=words, labels=labels, names=names, rest="test videos"))
    places, method = on_plane(features)
    marked = np.arange(len(features)) >= len(train)
    title = f"{len(train)} training videos (dots) and {len(test)} test videos (triangles)"
    title += f"\nas retrieval compares them, on a plane by {method}"
    draw_map(run.folder / "figures" / "embedding.png", title, places, colourings, marked)
