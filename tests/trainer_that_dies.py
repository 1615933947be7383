"""A trainer that kills itself with SIGKILL at a chosen place: `python trainer_that_dies.py PLACE NUMBER RUN_DIR`.

Places: step (before the NUMBER-th step of this attempt), clustering (with features made, before k-means), record (a
clustering written, not yet announced), checkpoint (the NUMBER-th checkpoint half written), renamed (the NUMBER-th
checkpoint in place, nothing after it), evaluate, export; never (not at all).
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import saccade.builders
import saccade.checkpoint
import saccade.pretrain
import saccade.runner


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
    runner: Any = saccade.runner
    if place == "step":
        saccade.pretrain.training_step = dying(saccade.pretrain.training_step, number)
    elif place == "clustering":
        saccade.builders.fit = dying(saccade.builders.fit, number)
    elif place == "record":
        runner.draw_clusters = dying(runner.draw_clusters, number, after=True)
    elif place == "checkpoint":
        saccade.checkpoint.torch.save = half_written(saccade.checkpoint.torch.save, number)
    elif place == "renamed":
        runner.save_checkpoint = dying(runner.save_checkpoint, number, after=True)
    elif place == "evaluate":
        runner.retrieve = dying(runner.retrieve, number)
    elif place == "export":
        runner.save_encoder = dying(runner.save_encoder, number, after=True)
    elif place != "never":
        raise SystemExit(f"no such place: {place}")
    return saccade.runner.main([folder])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
else:  # forked by a test, which hands the arguments over as the name
    chosen, count, run_folder = __name__.split(" ", 2)
    sys.exit(main(chosen, int(count), run_folder))
