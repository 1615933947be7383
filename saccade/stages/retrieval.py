"""Nearest-neighbour retrieval: of the baselines before training, and of the trained encoder."""

from collections.abc import Callable, Mapping

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
from saccade.stages.pictures import draw_retrieval
from saccade.stages.run import Run

__all__ = ["current_encoder", "run_baselines", "run_retrieval", "score_retrieval"]

Encode = Callable[[Tensor, Tensor | None], Tensor]
"""Features `[M, D]` of clips, and of masks that retrieval has none of."""


def run_baselines(run: Run) -> None:
    """What the score is worth: the random encoder, bare pixels, and the weights that the run takes now, if any."""
    wanted = run.spec.evaluation.retrieval.enabled and run.spec.evaluation.retrieval.baselines
    if wanted:
        encoders = {"baseline/random_encoder": current_encoder(run), "baseline/pixels": coarse_pixels}
        score_retrieval(run, run.data.test, encoders, desc="baselines")
    run.take_weights()
    if wanted and run.weights is not None and run.spec.pretrain.epochs:
        score_retrieval(run, run.data.test, {"baseline/given_weights": current_encoder(run)}, desc="given weights")


def run_retrieval(run: Run) -> None:
    """Score the validation and the test videos, and draw what some of these find."""
    if not run.spec.evaluation.retrieval.enabled:
        return
    if run.data.validation and run.spec.evaluation.retrieval.validate_every_epochs is None:
        score_retrieval(run, run.data.validation, {"val": current_encoder(run)}, desc="validation")
    (found,) = score_retrieval(run, run.data.test, {"test": current_encoder(run)}, desc="test")
    draw_retrieval(run, found)


def current_encoder(run: Run) -> Encode:
    """Features that retrieval compares, of the encoder as it stands."""
    return projected_encoder(run.learner.encoder, run.projection)


def score_retrieval(run: Run, part: tuple[Video, ...], encoders: Mapping[str, Encode], *, desc: str) -> list[Retrieval]:
    """Score retrieval of `part` among the training videos with each encoder, and log it by the encoder's name.

    All encoders see a clip when it is read, for reading takes longer than encoding.
    """
    settings = run.spec.evaluation.retrieval
    chooser = builders.build_even_clips(run.spec, settings.clips)
    widths: list[int] = []

    def encode(clips: Tensor, masks: Tensor | None) -> Tensor:
        with run.machine.autocast():
            features = [encoder(clips, masks).float() for encoder in encoders.values()]
        widths[:] = (each.shape[1] for each in features)
        return torch.cat(features, dim=1)

    run.learner.train(False)
    gallery, queries = (
        run.extract(videos, chooser, encode, batch_size=settings.batch_size, desc=f"{desc}: {name}")
        for videos, name in ((run.data.train, "gallery"), (part, "queries"))
    )
    ends = np.cumsum(widths)[:-1]
    results = []
    for prefix, ours, theirs in zip(encoders, np.split(gallery, ends, -1), np.split(queries, ends, -1), strict=True):
        result = retrieve(
            video_features(theirs), video_features(ours), labels_of(part), labels_of(run.data.train), settings.topk
        )
        run.journal.metrics(result.metrics(prefix), run.learner.step)
        results.append(result)
    return results
