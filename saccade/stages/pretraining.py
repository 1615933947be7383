"""Pre-training with its clusterings, checkpoints and pictures, and the encoder as the file that others use."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from saccade import builders
from saccade.checkpoint import link_checkpoint, save_checkpoint
from saccade.clustering import cluster_metrics, write_clustering
from saccade.datasets.clips import VideoClips, epoch_batches
from saccade.datasets.loader import make_loader
from saccade.datasets.loader_watch import WorkerError
from saccade.engine import ranks
from saccade.engine.device import Machine
from saccade.engine.stop import Stopped
from saccade.models.export import save_encoder
from saccade.pretrain import pretrain
from saccade.prototypes import Prototypes
from saccade.stages.pictures import draw_clustering
from saccade.stages.run import LAST, Run
from saccade.stages.validation import validate

__all__ = [
    "export_encoder",
    "fixation_encoder",
    "record_clustering",
    "run_last_validation",
    "run_pretraining",
    "write_last",
]

Encode = Callable[[Tensor, Tensor | None], Tensor]
"""Features `[M, D]` of clips and their masks."""


def run_pretraining(run: Run) -> None:
    """Train from where the learner is to the end of the timetable."""
    if run.learner.step:  # An earlier attempt may have ended after it had saved this step, and before it kept it.
        _keep(run, run.timetable.epoch(run.learner.step))
    if run.learner.step >= run.timetable.steps:
        return
    views = VideoClips(run.data.train, builders.build_training_views(run.spec))
    recipe = builders.build_recipe(run.spec)
    batches = epoch_batches(
        len(run.data.train),
        run.spec.pretrain.batch_size,
        seed=run.spec.seed,
        first_step=run.learner.step,
        last_step=run.timetable.steps,
    )
    samples = make_loader(
        views,
        (ranks.share(batch, recipe.accumulation_steps) for batch in batches),
        run.spec.engine.workers,
        run.spec.engine.data_patience_sec,
        run.machine,
    )
    run.saved_step = run.learner.step
    _tell_of_compiling(run.machine)
    try:
        pretrain(
            run.learner,
            recipe,
            run.timetable,
            run.stop.while_waiting(samples),
            machine=run.machine,
            cluster=lambda epoch: _cluster(run, epoch),
            validate=lambda: validate(run),
            save=lambda epoch: _save(run, epoch),
            journal=run.journal,
            stop=run.stop,
        )
    except (Stopped, WorkerError) as error:  # between two steps
        # All processes stop at once, but one may be alone with the fault of its worker, and with a part of the memory.
        whole = isinstance(error, Stopped) or not run.learner.memory.split
        if whole and run.learner.step > run.saved_step:
            run.learner.losses.settle()
            _save(run, run.timetable.epoch(run.learner.step))
        raise


def _cluster(run: Run, epoch: int) -> tuple[Prototypes, ...]:
    """Make the prototypes after an epoch, write them down and log them."""
    run.learner.train(False)
    with run.stop.at_once():
        features = run.extract(
            run.data.train,
            builders.build_fixation_clips(run.spec),
            fixation_encoder(run),
            batch_size=run.spec.pretrain.batch_size,
            desc=f"clustering after epoch {epoch}",
            epoch=epoch,
            for_first=True,
        )
        rows = features.reshape(-1, features.shape[-1])
        prototypes = ranks.from_first(lambda: builders.fit(run.spec, rows, run.machine.device))
        if ranks.first():
            record_clustering(run, epoch, prototypes)
    return prototypes


def fixation_encoder(run: Run) -> Encode:
    """Features that are clustered: of a fixation's clip with its mask, projected."""

    def encode(views: Tensor, masks: Tensor | None) -> Tensor:
        with run.machine.autocast():
            features = run.learner.encoder(views, masks, run.spec.saccade.focus_level)
        projected: Tensor = run.learner.projection(features.float())
        return projected

    return encode


def record_clustering(run: Run, epoch: int, prototypes: tuple[Prototypes, ...]) -> Path:
    """Write down and draw what a clustering has found; returns its folder."""
    folder = run.folder / "clusters" / f"epoch_{epoch:04d}"
    write_clustering(folder, prototypes, run.data.train, run.data.classes, run.spec.saccade.focus_num)
    draw_clustering(run, epoch, prototypes, folder)
    run.journal.metrics(cluster_metrics(prototypes, run.learner.prototypes), run.learner.step)
    run.journal.artifact(f"clusters/{folder.name}")
    return folder


def _save(run: Run, epoch: int) -> None:
    """Write the rolling checkpoint, and keep it where the spec says so."""
    write_last(run, epoch)
    _keep(run, epoch)


@ranks.first_only
def _keep(run: Run, epoch: int) -> None:
    if run.timetable.ends_epoch(run.learner.step) and builders.keeps(run.spec, epoch):
        kept = f"checkpoints/epoch_{epoch:04d}.pt"
        link_checkpoint(run.folder / LAST, run.folder / kept)
        run.journal.artifact(kept)


def write_last(run: Run, epoch: int) -> None:
    """Write the rolling checkpoint."""
    learner = run.learner.state_dict()
    run.saved_step = run.learner.step
    if ranks.first():
        state = {
            "learner": learner,
            "dataset": run.data.identity,
            "best": asdict(run.best),
            "mark": run.journal.mark(),
            "epoch": epoch,
        }
        save_checkpoint(run.folder / LAST, state, keep=run.spec.checkpoint.keep_last)


def _tell_of_compiling(machine: Machine) -> None:
    if machine.compiled and ranks.first():
        told = "saccade: the first step is compiled before it is taken, which can take minutes"
        print(told, file=sys.stderr, flush=True)


def run_last_validation(run: Run) -> None:
    """Validate after the last epoch, if the spec validates within the training."""
    if run.spec.evaluation.retrieval.validate_every_epochs is None:
        return
    validate(run)
    if run.timetable.steps:
        # So that a run which goes on with more epochs knows of it.
        write_last(run, run.timetable.epochs)


@ranks.first_only
def export_encoder(run: Run) -> None:
    """Write the encoder for others to load."""
    save_encoder(
        run.folder / "encoder",
        run.learner.encoder,
        run.projection,
        name=run.spec.encoder.name,
        width=run.spec.encoder.width,
        clip_frames=run.spec.clip.frames,
        clip_size=run.spec.clip.size,
    )
    run.journal.artifact("encoder")
