"""Nearest-neighbour retrieval: of the trained encoder, beside what its score is worth."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from saccade import builders
from saccade.datasets.layout import Video
from saccade.evaluation.retrieval import (
    Retrieval,
    coarse_pixels,
    labels_of,
    projected_encoder,
    retrieve,
    video_features,
)
from saccade.initial_weights import initial_weights_file
from saccade.models.export import load_weights
from saccade.stages.pictures import draw_retrieval
from saccade.stages.run import Run

__all__ = ["current_encoder", "run_retrieval", "score_retrieval"]

Encode = Callable[[Tensor, Tensor | None], Tensor]
"""Features `[M, D]` of clips, and of masks that retrieval has none of."""


def run_retrieval(run: Run) -> None:
    """Score the validation and the test videos, beside the baselines, and draw what some of these find."""
    if not run.spec.evaluation.retrieval.enabled:
        return
    step, current = run.learner.step, current_encoder(run)
    if run.data.validation and run.spec.evaluation.retrieval.validate_every_epochs is None:
        (found,) = score_retrieval(run, run.data.validation, [current], desc="validation")
        run.journal.metrics(found.metrics("val"), step)
    baselines = _baselines(run) if run.spec.evaluation.retrieval.baselines else {}
    found, *others = score_retrieval(run, run.data.test, [current, *baselines.values()], desc="test")
    run.journal.metrics(found.metrics("test"), step)
    for name, other in zip(baselines, others, strict=True):
        run.journal.metrics(other.metrics(f"baseline/{name}"), 0)  # what it would have been before the first step
    draw_retrieval(run, found)


def _baselines(run: Run) -> dict[str, Encode]:
    """What the score is worth: bare pixels, the random encoder, and the weights that training started from, if any."""
    found = {"pixels": coarse_pixels, "random_encoder": _initial_encoder(run, given=False)}
    if run.weights is not None and run.spec.pretrain.epochs:
        found["given_weights"] = _initial_encoder(run, given=True)
    return found


def _initial_encoder(run: Run, *, given: bool) -> Encode:
    """The encoder as it was before the first step, built anew: with random weights, or those that the run was given."""
    encoder, projection, _ = builders.build_networks(run.spec, run.machine)
    if given:
        load_weights(initial_weights_file(run.folder), encoder, projection)
    return projected_encoder(encoder.eval(), projection.eval() if run.projection is not None else None)


def current_encoder(run: Run) -> Encode:
    """Features that retrieval compares, of the encoder as it stands."""
    return projected_encoder(run.learner.encoder, run.projection)


def score_retrieval(run: Run, part: tuple[Video, ...], encoders: Sequence[Encode], *, desc: str) -> list[Retrieval]:
    """Score retrieval of `part` among the training videos with each encoder.

    All encoders see a clip when it is read, for reading takes longer than encoding.
    """
    settings = run.spec.evaluation.retrieval
    chooser = builders.build_even_clips(run.spec, settings.clips)
    widths: list[int] = []

    def encode(clips: Tensor, masks: Tensor | None) -> Tensor:
        with run.machine.autocast():
            features = [encoder(clips, masks).float() for encoder in encoders]
        widths[:] = (each.shape[1] for each in features)
        return torch.cat(features, dim=1)

    run.learner.train(False)
    gallery, queries = (
        run.extract(videos, chooser, encode, batch_size=settings.batch_size, desc=f"{desc}: {name}")
        for videos, name in ((run.data.train, "gallery"), (part, "queries"))
    )
    ends = np.cumsum(widths)[:-1]
    sought, known = labels_of(part), labels_of(run.data.train)
    return [
        retrieve(video_features(theirs), video_features(ours), sought, known, settings.topk)
        for ours, theirs in zip(np.split(gallery, ends, -1), np.split(queries, ends, -1), strict=True)
    ]
