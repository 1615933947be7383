"""A classifier on an encoder: the training and the test that linear probe and fine-tuning share.

Shapes: B videos in a step, M tested videos of V clips each, C channels of a feature, K classes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.datasets.clips import Item, epoch_batches
from saccade.datasets.layout import Video
from saccade.engine import ranks
from saccade.engine.backward import Backward
from saccade.engine.clock import Clock
from saccade.engine.stop import StopRequest
from saccade.errors import RunError
from saccade.journal import Journal
from saccade.learner import Means
from saccade.metrics import hit_at_k
from saccade.models.heads import ClassifierHead
from saccade.progress import progress
from saccade.rng import derive_seed
from saccade.schedules import Timetable

__all__ = ["Classifier", "ClassifierTimetable", "MakeOptimizer", "Outcome", "Source", "outcome", "train_classifier"]

TOP = 5
"""Beside top-1, scores count a hit among this many classes, where there are more of them."""

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""From groups of parameters, each with its `lr_ratio`, to an optimiser of them."""


class Source(Protocol):
    """Where a classifier has its features from."""

    def batches(self, items: Iterable[list[Item]]) -> Iterable[Sequence[Any]]:
        """What `features` wants, for the items of each step."""
        ...

    def features(self, batch: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Features `[B, C]` of one clip of each video, and the videos' positions in the training list, `[B]`."""
        ...

    def even(self, part: str, videos: Sequence[Video]) -> Tensor:
        """Features of the evenly spread clips of videos, `[M, V, C]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClassifierTimetable(Timetable):
    """What happens when in the training of a classifier."""

    batch_size: int
    test_every_epochs: int | None

    def tests_before(self, step: int) -> bool:
        """Whether this step is the first after a test; the one after the last epoch is not counted."""
        every = self.test_every_epochs
        return every is not None and self.begins_later_epoch(step) and self.epoch(step - 1) % every == 0


class Classifier:
    """What is trained, and how far it is, on one device.

    Args:
        head: From features to logits.
        encoder: Where training changes it: its weights, or its batch norms' statistics.
        optimizer: Of both; `lr_ratio` of a group is its part of the learning rate.
    """

    def __init__(self, head: ClassifierHead, encoder: nn.Module | None, optimizer: torch.optim.Optimizer) -> None:
        self.head, self.encoder, self.optimizer = head, encoder, optimizer
        self.backward = Backward(self._modules().values())
        self.means = Means()
        self.step = 0
        """Optimiser steps that are done."""
        self.best: dict[str, float] = {}
        """Scores of the tested epoch with the best top-1."""

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"head": self.head}
        return modules if self.encoder is None else {**modules, "encoder": self.encoder}

    def train(self, mode: bool = True) -> None:
        """Put all that is trained in training or evaluation mode."""
        for module in self._modules().values():
            module.train(mode)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_ratio"]

    def note(self, scores: dict[str, float]) -> None:
        """Keep the best scores of all epochs."""
        if scores["top1"] > self.best.get("top1", -1):
            self.best = scores

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "step": self.step,
            "networks": {name: module.state_dict() for name, module in self._modules().items()},
            "optimizer": self.optimizer.state_dict(),
            "means": self.means.state_dict(),
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        for name, module in self._modules().items():
            module.load_state_dict(state["networks"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.means.load_state_dict(state["means"], self.head.linear.weight.device)
        self.step, self.best = state["step"], state["best"]


def train_classifier(
    classifier: Classifier,
    source: Source,
    labels: Tensor,
    timetable: ClassifierTimetable,
    *,
    name: str,
    seed: int,
    test: Callable[[], object],
    save: Callable[[], None],
    journal: Journal,
    stop: StopRequest,
) -> None:
    """Train from `classifier.step` to the end of the timetable.

    Args:
        source: Gives the features.
        labels: Class of each training video, `[N]`, on the classifier's device.
        name: What the metrics and the progress bar say.
        seed: Of the videos' order and of dropout.
        test: Scores the classifier between two epochs; it may leave it in evaluation mode.
        save: Writes a checkpoint.
        journal: Where metrics go.
        stop: Says when to leave early; the step that is under way is finished and saved.
    """
    first, last = classifier.step, timetable.steps
    if first >= last:
        return
    items = epoch_batches(len(labels), timetable.batch_size, seed=seed, first_step=first, last_step=last)
    clock = Clock()
    classifier.train()
    with progress(desc=name, unit="step", total=last, initial=first) as bar:
        for batch in clock.waiting(stop.while_waiting(source.batches(map(ranks.share, items)))):
            step = classifier.step + 1
            epoch = timetable.epoch(step)
            if timetable.tests_before(step):
                test()
                classifier.train()
            rate = timetable.rate(epoch)
            classifier.set_rate(rate)

            features, videos = source.features(batch)
            draws = torch.Generator().manual_seed(derive_seed(seed, "dropout", step))
            metrics = classifier_step(classifier, features, labels[videos], draws)

            classifier.step = step
            classifier.means.add(metrics)
            clock.clips += len(videos) * ranks.size()
            bar.update()
            if timetable.logs(step):
                values = {**classifier.means.take(), "learning_rate": rate, "epoch": epoch}
                bar.set_postfix(epoch=epoch, loss=f"{values['loss']:.3f}", refresh=False)
                speed = {f"perf/{name}/{key}": value for key, value in clock.take().items()}
                journal.metrics({**{f"{name}/{key}": value for key, value in values.items()}, **speed}, step)
            leaving = ranks.asked_to_stop(stop)  # A request that comes while saving is for the step after this one.
            if timetable.saves(step) or leaving:
                save()
            if leaving:
                stop.check()


def classifier_step(
    classifier: Classifier, features: Tensor, labels: Tensor, draws: torch.Generator
) -> dict[str, Tensor]:
    """One optimiser step on the features `[B, C]` of videos of classes `labels` `[B]`; returns what is logged.

    With several processes each has its share of the step's videos.
    """
    logits = classifier.head(features, draws)
    loss = F.cross_entropy(logits, labels)
    metrics = ranks.mean({"loss": loss, "accuracy": (logits.argmax(1) == labels).double().mean()})
    if not torch.isfinite(metrics["loss"]):
        raise RunError(
            f"step {classifier.step + 1} of the classifier: the loss is not finite; the last checkpoint is from "
            "before. Try a lower learning_rate of it, or engine.precision=fp32"
        )
    classifier.optimizer.zero_grad(set_to_none=True)
    classifier.backward(loss)
    classifier.optimizer.step()
    return metrics


@dataclass(frozen=True)
class Outcome:
    """Result of a test."""

    scores: dict[str, float]
    """Part of the videos whose class is the first, or among the first k: `top1`, `top5`, in [0, 1]."""
    ranked: npt.NDArray[np.int64]
    """Classes of each video from the likeliest on, `[M, K]`."""


def outcome(clip_logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], trained_classes: int) -> Outcome:
    """Score videos by the mean of their clips' logits.

    Args:
        clip_logits: `[M, V, K]`.
        labels: Classes, `[M]`.
        trained_classes: How many of the K classes have training videos.
    """
    ranked = np.argsort(-clip_logits.mean(axis=1, dtype=np.float64), axis=1, kind="stable").astype(np.int64)
    # Among as many guesses as there are classes to guess, one is always right.
    ks = [1, TOP] if trained_classes > TOP else [1]
    return Outcome({f"top{k}": value for k, value in hit_at_k(ranked, labels, ks).items()}, ranked)
