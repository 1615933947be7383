"""Nearest-neighbour retrieval: of the baselines before training, and of the trained encoder."""

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
from saccade.figures.pictures import draw_neighbours
from saccade.stages.run import Run

__all__ = ["run_baselines", "run_retrieval"]


def run_baselines(run: Run) -> None:
    """What the score is worth: the random encoder, bare pixels, and the weights that the run takes now, if any."""
    wanted = run.spec.evaluation.retrieval.enabled and run.spec.evaluation.retrieval.baselines
    if wanted:
        _retrieval(run, run.data.test, "baseline/random_encoder")
        _retrieval(run, run.data.test, "baseline/pixels", pixels=True)
    run.take_weights()
    if wanted and run.weights is not None and run.spec.pretrain.epochs:
        _retrieval(run, run.data.test, "baseline/given_weights")


def run_retrieval(run: Run) -> None:
    """Score the validation and the test videos, and draw what some of these find."""
    if not run.spec.evaluation.retrieval.enabled:
        return
    if run.data.validation:
        _retrieval(run, run.data.validation, "val")
    found = _retrieval(run, run.data.test, "test")
    path = "figures/neighbours.png"
    draw_neighbours(
        run.folder / path,
        run.data.test,
        run.data.train,
        run.data.classes,
        found.neighbours,
        found.similarity,
    )
    run.journal.artifact(path)


def _retrieval(run: Run, part: tuple[Video, ...], prefix: str, *, pixels: bool = False) -> Retrieval:
    """Score retrieval of `part` among the training videos and log it."""
    settings = run.spec.evaluation.retrieval
    encode = coarse_pixels if pixels else projected_encoder(run.learner.encoder, run.projection)
    chooser = builders.build_even_clips(run.spec, settings.clips)

    def encode_at_precision(clips: Tensor, masks: Tensor | None) -> Tensor:
        with run.machine.autocast():
            return encode(clips, masks)

    run.learner.train(False)
    gallery, queries = (
        video_features(
            run.extract(videos, chooser, encode_at_precision, batch_size=settings.batch_size, desc=f"{prefix}: {name}")
        )
        for videos, name in ((run.data.train, "gallery"), (part, "queries"))
    )
    result = retrieve(queries, gallery, labels_of(part), labels_of(run.data.train), settings.topk)
    run.journal.metrics(result.metrics(prefix), run.learner.step)
    return result
