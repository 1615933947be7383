"""What the stages of a run share: its spec, its folder, its videos, what is trained, and where it goes on."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade import builders
from saccade.checkpoint import (
    HINT,
    DamagedError,
    earlier_checkpoints,
    link_checkpoint,
    load_checkpoint,
    set_aside,
)
from saccade.datasets.clips import ClipChooser, VideoClips
from saccade.datasets.layout import Dataset, Video
from saccade.engine import ranks
from saccade.engine.device import pick_machine
from saccade.engine.stop import StopRequest
from saccade.errors import CheckpointError, SpecError
from saccade.features import extract_features
from saccade.initial_weights import initial_weights_file, read_record
from saccade.journal import Journal
from saccade.models.export import load_weights
from saccade.models.heads import Projection
from saccade.run_dir import BEST, EVALUATION, LAST
from saccade.spec import Spec
from saccade.spec_checks import impossible_shares

__all__ = ["BEST", "EVALUATION", "LAST", "Best", "Run", "Saved", "check_digest", "load_saved"]

_KEYS = {
    LAST: {"mark", "learner", "dataset"},
    EVALUATION: {"mark", "step", "datasets", "scores", "stage", "classifier"},
}


@dataclass(frozen=True)
class Best:
    """The best validation so far."""

    step: int
    """Optimiser steps that were done; -1 before the first validation."""
    score: float
    """Top-1 of the retrieval, in [0, 1]."""


class Run:
    """One experiment: what all of its stages need.

    Args:
        spec: What to do.
        folder: The run's folder.
        journal: Where what happens is noted.
        stop: Says when to leave early.
    """

    def __init__(self, spec: Spec, folder: Path, journal: Journal, stop: StopRequest) -> None:
        self.spec, self.folder, self.journal, self.stop = spec, folder, journal, stop
        engine = spec.engine
        self.machine = pick_machine(
            engine.device,
            engine.precision,
            engine.threads or own_cores(),
            convolutions=engine.convolutions,
            compiled=engine.compile,
            decode=engine.decode,
        )
        _check_processes(spec, self.machine.device)
        self.data = builders.build_dataset(spec)
        self.timetable = builders.build_timetable(spec, len(self.data.train))
        self.learner = builders.build_learner(spec, len(self.data.train), self.machine)
        self.weights = read_record(folder) if spec.encoder.weights else None
        """What is known of the weights that the run starts from; None: random ones."""
        self.best = Best(step=-1, score=-1.0)
        self.saved_step = 0
        """Steps of pre-training that are in the rolling checkpoint."""

    def take_weights(self) -> None:
        """Put the weights that the run starts from in place of the random ones."""
        if self.weights is not None:
            load_weights(initial_weights_file(self.folder), self.learner.encoder, self.learner.projection)

    @property
    def projection(self) -> Projection | None:
        """Where features are compared: None when nothing was or will be trained for that, and they are taken as is."""
        untrained = self.weights is not None and not self.weights["projection"] and not self.spec.pretrain.epochs
        return None if untrained else self.learner.projection

    def begin(self, stage: str) -> None:
        """Say what the run does from now on."""
        self.journal.stage(stage)
        if ranks.first():
            print(f"saccade: {stage}", file=sys.stderr, flush=True)

    @property
    def device(self) -> str:
        """What computes, for people."""
        count, one = ranks.size(), self.machine.description
        return one if count == 1 else f"{count} processes, each on {one}"

    def extract(
        self,
        videos: Sequence[Video],
        chooser: ClipChooser,
        encode: Callable[[Tensor, Tensor | None], Tensor],
        *,
        batch_size: int,
        desc: str,
        epoch: int = 0,
        normalised: bool = True,
        for_first: bool = False,
    ) -> npt.NDArray[np.float32]:
        """`extract_features` with what is the same for all of a run's passes."""
        return extract_features(
            VideoClips(videos, chooser),
            encode,
            clip_size=self.spec.clip.size,
            batch_size=batch_size,
            workers=self.spec.engine.workers,
            patience_sec=self.spec.engine.data_patience_sec,
            machine=self.machine,
            stop=self.stop,
            desc=desc,
            epoch=epoch,
            normalised=normalised,
            for_first=for_first,
        )


def own_cores() -> int | None:
    """Cores for each of several processes on this machine; None: there is one, which is free to take all."""
    return max(1, len(os.sched_getaffinity(0)) // ranks.local_size()) if ranks.size() > 1 else None


def _check_processes(spec: Spec, device: torch.device) -> None:
    for path, fault in impossible_shares(spec, ranks.size()):  # Machines count too, of which the spec knows nothing.
        raise SpecError(f"{path}: {fault}")
    if device.type == "cuda" and ranks.local_size() > torch.cuda.device_count():
        raise SpecError(
            f"engine.processes: {ranks.local_size()} need as many GPUs, and PyTorch sees {torch.cuda.device_count()}; "
            "lower it, or look at CUDA_VISIBLE_DEVICES"
        )


@dataclass(frozen=True)
class Saved:
    """Where an earlier attempt has left a run."""

    pretraining: dict[str, Any] | None
    """Contents of the rolling checkpoint; None: the run begins."""
    evaluation: dict[str, Any] | None
    """Contents of that of the evaluation; None: it begins."""

    @property
    def mark(self) -> int | None:
        """Length of the journal at that moment."""
        latest = self.evaluation or self.pretraining
        return None if latest is None else latest["mark"]


def load_saved(folder: Path) -> Saved:
    """Read the checkpoints of a run's folder; where one is damaged, the one before takes its place.

    Raises:
        CheckpointError: That of pre-training is damaged, and there is none before.
    """
    pretraining = _load(folder / LAST, _KEYS[LAST])
    try:
        evaluation = _load(folder / EVALUATION, _KEYS[EVALUATION])
    except DamagedError as error:
        aside = set_aside(folder / EVALUATION)
        (folder / EVALUATION).unlink()
        _warn(error, f"evaluating anew from the end of pre-training (it is kept as {aside.name})")
        evaluation = None
    if evaluation is not None and evaluation["step"] != (pretraining["learner"]["step"] if pretraining else 0):
        # Of a pre-training whose checkpoint was removed to start over, or has gone back to an earlier one.
        for path in (folder / EVALUATION, *earlier_checkpoints(folder / EVALUATION)):
            path.unlink()
        evaluation = None
    return Saved(pretraining, evaluation)


def _load(path: Path, keys: set[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return _load_one(path, keys)
    except DamagedError as error:
        damage = error
    epochs = sorted(path.parent.glob("epoch_*.pt"), reverse=True) if path.name == Path(LAST).name else []
    for earlier in (*earlier_checkpoints(path), *epochs):
        with suppress(DamagedError):
            state = _load_one(earlier, keys)
            aside = set_aside(path)
            link_checkpoint(earlier, path)
            _warn(damage, f"going on from the one before, {earlier.name} (it is kept as {aside.name})")
            return state
    raise damage


def _warn(damage: DamagedError, remedy: str) -> None:
    print(f"saccade: {str(damage).removesuffix(HINT)}; {remedy}", file=sys.stderr, flush=True)


def _load_one(path: Path, keys: set[str]) -> dict[str, Any]:
    state = load_checkpoint(path)
    if not keys <= state.keys():
        raise CheckpointError(f"{path}: not a checkpoint of this kind of run; remove it to start over")
    return state


def check_digest(path: Path, digest: str, data: Dataset) -> None:
    """Refuse to go on with other videos: what was learnt of a video belongs to it by its position in the list.

    Args:
        path: The checkpoint.
        digest: Of the dataset that it was made on, `Dataset.identity`.
        data: The dataset as it is now.

    Raises:
        CheckpointError: They differ.
    """
    if digest != data.identity:
        raise CheckpointError(
            f"{path}: was trained on dataset digest {digest}, but {data.name} has {data.identity} now; restore the "
            "videos, or start a new run"
        )
