"""Validation within pre-training: held-out videos look for their class among the remaining training videos.

The test videos are not touched, so whatever is chosen by these scores (a checkpoint, a trial of a sweep) has not seen
them. Nothing that is trained changes, and no random number is drawn that training would draw.
"""

from saccade.checkpoint import link_checkpoint
from saccade.engine import ranks
from saccade.stages.retrieval import current_encoder, score_retrieval
from saccade.stages.run import BEST, LAST, Best, Run

__all__ = ["BEST_METRIC", "validate"]

BEST_METRIC = "best/val_retrieval_top1"


def validate(run: Run) -> None:
    """Score the encoder as it stands, log that and the best so far, and keep the checkpoint of the best.

    The rolling checkpoint is of this very step, since one is written before every validation. After a kill the same
    validation comes again, with the same outcome.
    """
    step = run.learner.step
    with run.stop.at_once():
        (found,) = score_retrieval(run, run.data.validation, [current_encoder(run)], desc="validation")
    run.journal.metrics(found.metrics("val"), step)
    if found.hits[1] > run.best.score:
        run.best = Best(step, found.hits[1])
        _keep(run)
    run.journal.metrics({BEST_METRIC: run.best.score}, step)


@ranks.first_only
def _keep(run: Run) -> None:
    if (run.folder / LAST).exists():  # not in a run of no epochs
        link_checkpoint(run.folder / LAST, run.folder / BEST)
        run.journal.artifact(BEST)
