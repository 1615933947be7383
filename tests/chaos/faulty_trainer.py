"""A trainer to which something happens at a chosen place: `python faulty_trainer.py WHAT PLACE NUMBER RUN_DIR`.

WHAT happens at the NUMBER-th visit of PLACE in this attempt:

- kill: SIGKILL, there (checkpoint: the file half written; renamed, record, export, confusion, classifier-saved: after)
- term: SIGTERM, and where the work of a place would be done anew all the same, that takes a minute from there on
- term-all: SIGTERM to the data workers, then to itself, as SLURM ends a job
- worker-kill, worker-hang: a data worker dies as if for want of memory, or reads for ever
- nan: the weights are not numbers any more
- full: the disk of the run is full from there on
- never, drawn: nothing; the latter, as `full`, with pictures, which take most of the time of a run as small as these
- clock: the machine's clock jumps about, from the start

Every step that is done leaves a byte in RUN_DIR/steps, every SIGTERM its time (monotonic) in RUN_DIR/asked.
"""

import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import saccade.builders
import saccade.checkpoint
import saccade.datasets.clips
import saccade.evaluation.classifier
import saccade.pretrain
import saccade.report
import saccade.runner
import saccade.stages.classifiers
import saccade.stages.pretraining
import saccade.stages.retrieval
import saccade.stages.run
from saccade.journal import Journal

STALL_SEC = 60.0

PLACES: dict[str, tuple[Any, str]] = {
    "read": (saccade.builders, "build_dataset"),
    "sample": (saccade.datasets.clips.VideoClips, "decode"),
    "step": (saccade.pretrain, "training_step"),
    "features": (saccade.stages.run, "extract_features"),
    "clustering": (saccade.builders, "fit"),
    "record": (saccade.stages.pretraining, "draw_clustering"),
    "checkpoint": (saccade.checkpoint, "_save"),
    "renamed": (saccade.stages.pretraining, "save_checkpoint"),
    "line": (Journal, "metrics"),
    "evaluate": (saccade.stages.retrieval, "retrieve"),
    "pictures": (saccade.stages.retrieval, "draw_retrieval"),
    "export": (saccade.stages.pretraining, "save_encoder"),
    "report": (saccade.runner, "write_report"),
    "classifier-step": (saccade.evaluation.classifier, "classifier_step"),
    "classifier-saved": (saccade.stages.classifiers, "save_checkpoint"),
    "classifier-tested": (saccade.stages.classifiers, "outcome"),
    "confusion": (saccade.stages.classifiers, "draw_confusion"),
}
AFTER = {"record", "renamed", "export", "classifier-saved", "confusion"}
"""Where a kill comes when the work is done, but not yet announced."""
AS_A_WHOLE = {"step", "line", "checkpoint", "renamed", "export", "classifier-step", "classifier-saved"}
"""What a request to stop waits for."""


def visited(function: Callable[..., Any], number: int, happens: Callable[[Any], None], after: bool) -> Any:
    """`function`, and what happens at its `number`-th call."""
    calls = itertools.count(1)

    def call(*args: Any, **kwargs: Any) -> Any:
        now = next(calls) == number
        if now and not after:
            happens(args)
        result = function(*args, **kwargs)
        if now and after:
            happens(args)
        return result

    return call


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ask(folder: str, stall_sec: float) -> None:
    Path(folder, "asked").write_text(str(time.monotonic()))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(stall_sec)


def ask_all(folder: str) -> None:
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGTERM)
    time.sleep(0.3)
    ask(folder, 0.0)


def in_worker(trainer: int, happens: Callable[[], None]) -> None:
    if os.getpid() != trainer:
        happens()


def fill(folder: Path) -> None:
    """Take all the room that is left on a disk."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def not_a_number(args: tuple[Any, ...]) -> None:
    for parameter in args[0].encoder.parameters():
        parameter.data.fill_(float("nan"))


def half_written(save: Callable[..., None], number: int) -> Callable[..., None]:
    calls = itertools.count(1)

    def call(state: Any, file: Any) -> None:
        save(state, file)
        if next(calls) == number:
            file.flush()
            os.truncate(file.name, Path(file.name).stat().st_size // 2)
            die()

    return call


def jumping(now: Callable[[], Any], unit: float) -> Callable[[], Any]:
    """A clock that is set to and fro, by up to a month."""
    return lambda: now() + type(now())(random.randint(-30, 30) * 86_400 * unit)


def noting_steps(step: Callable[..., Any], folder: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        result = step(*args)
        with open(Path(folder) / "steps", "ab") as file:
            file.write(b".")
        return result

    return call


def without_pictures() -> None:
    """They take most of the time of a run as small as this; that they may be drawn or not is seen elsewhere."""
    stages = saccade.stages
    for module in (saccade.report, saccade.runner, stages.classifiers, stages.pretraining, stages.retrieval):
        for name in [name for name in vars(module) if name.startswith("draw_")]:
            setattr(module, name, lambda *_, **__: None)


def prepare(what: str, place: str, number: int, folder: str) -> None:
    """Change the trainer so that it happens."""
    saccade.pretrain.training_step = noting_steps(saccade.pretrain.training_step, folder)
    if what in ("never", "drawn"):
        return
    if what == "clock":
        time.time, time.time_ns = jumping(time.time, 1.0), jumping(time.time_ns, 1e9)
        return
    if place == "checkpoint" and what == "kill":
        saccade.checkpoint.torch.save = half_written(saccade.checkpoint.torch.save, number)
        return
    stall_sec, trainer = 0.0 if place in AS_A_WHOLE else STALL_SEC, os.getpid()
    happens: dict[str, Callable[[Any], None]] = {
        "kill": lambda _: die(),
        "term": lambda _: ask(folder, stall_sec),
        "term-all": lambda _: ask_all(folder),
        "worker-kill": lambda _: in_worker(trainer, die),
        "worker-hang": lambda _: in_worker(trainer, lambda: time.sleep(10 * STALL_SEC)),
        "nan": not_a_number,
        "full": lambda _: fill(Path(folder)),
    }
    owner, name = PLACES[place]
    setattr(owner, name, visited(getattr(owner, name), number, happens[what], what == "kill" and place in AFTER))


def main(what: str, place: str, number: str, folder: str) -> int:
    prepare(what, place, int(number), folder)
    return saccade.runner.main([folder])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
elif "LIFE" in globals():  # forked by a test, with its arguments
    life = globals()["LIFE"]
    if life["what"] not in ("drawn", "full"):  # Some libraries have words of their own for a full disk.
        without_pictures()
    multiprocessing.set_start_method("fork", force=True)  # A child of a fork server would start its workers by one.
    log = os.open(life["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.exit(main(life["what"], life["place"], str(life["number"]), life["folder"]))
