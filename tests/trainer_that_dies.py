"""A trainer that kills itself with SIGKILL at a chosen place: `python trainer_that_dies.py PLACE NUMBER RUN_DIR`.

Places: step (before the NUMBER-th step of this attempt), clustering (with features made, before k-means), record (a
clustering written, not yet announced), checkpoint (the NUMBER-th checkpoint half written), renamed (the NUMBER-th
checkpoint in place, nothing after it), evaluate, export; never (not at all). Of the classifiers: classifier-step
(before the NUMBER-th step of this attempt), classifier-saved (the NUMBER-th checkpoint in place), classifier-tested
(before the NUMBER-th score), confusion (the NUMBER-th table and picture written, not yet announced).
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import saccade.builders
import saccade.checkpoint
import saccade.evaluation.classifier
import saccade.pretrain
import saccade.runner
import saccade.stages.classifiers
import saccade.stages.pretraining
import saccade.stages.retrieval


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function: Callable[..., Any], number: int, *, after: bool = False) -> Callable[..., Any]:
    """`function`, but its `number`-th call is the last thing this process does."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            die()
        result = function(*args, **kwargs)
        if calls == number:
            die()
        return result

    return call


def half_written(save: Callable[..., None], number: int) -> Callable[..., None]:
    calls = 0

    def call(state: Any, file: Any) -> None:
        nonlocal calls
        calls += 1
        save(state, file)
        if calls == number:
            file.flush()
            os.truncate(file.name, Path(file.name).stat().st_size // 2)
            die()

    return call


def main(place: str, number: int, folder: str) -> int:
    pretraining: Any = saccade.stages.pretraining
    classifiers: Any = saccade.stages.classifiers
    retrieval: Any = saccade.stages.retrieval
    if place == "step":
        saccade.pretrain.training_step = dying(saccade.pretrain.training_step, number)
    elif place == "clustering":
        saccade.builders.fit = dying(saccade.builders.fit, number)
    elif place == "record":
        pretraining.draw_clustering = dying(pretraining.draw_clustering, number, after=True)
    elif place == "checkpoint":
        saccade.checkpoint.torch.save = half_written(saccade.checkpoint.torch.save, number)
    elif place == "renamed":
        pretraining.save_checkpoint = dying(pretraining.save_checkpoint, number, after=True)
    elif place == "evaluate":
        retrieval.retrieve = dying(retrieval.retrieve, number)
    elif place == "export":
        pretraining.save_encoder = dying(pretraining.save_encoder, number, after=True)
    elif place == "classifier-step":
        saccade.evaluation.classifier.classifier_step = dying(saccade.evaluation.classifier.classifier_step, number)
    elif place == "classifier-saved":
        classifiers.save_checkpoint = dying(classifiers.save_checkpoint, number, after=True)
    elif place == "classifier-tested":
        classifiers.outcome = dying(classifiers.outcome, number)
    elif place == "confusion":
        classifiers.draw_confusion = dying(classifiers.draw_confusion, number, after=True)
    elif place != "never":
        raise SystemExit(f"no such place: {place}")
    return saccade.runner.main([folder])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
else:  # forked by a test, which hands the arguments over as the name
    chosen, count, run_folder = __name__.split(" ", 2)
    sys.exit(main(chosen, int(count), run_folder))
