"""Pre-training: the method, one page. Shapes: B videos, F fixations each, V = 2F clips each, M = B * V.

With several processes each has its share of the batch (`saccade.engine.ranks`), which `share` and `whole` are about.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.datasets.clips import Sample
from saccade.datasets.render import render
from saccade.engine import ranks
from saccade.engine.clock import Clock
from saccade.engine.device import Machine, send
from saccade.engine.stop import StopRequest
from saccade.journal import Journal
from saccade.learner import Learner
from saccade.losses import consistency_loss, prototype_loss, saccade_contrast_loss, updated_slots
from saccade.progress import progress
from saccade.prototypes import Prototypes
from saccade.rng import derive_seed
from saccade.sampling import draw_below, draw_keys
from saccade.schedules import Timetable

__all__ = ["PretrainTimetable", "Recipe", "pretrain", "training_losses"]

_LAST = torch.iinfo(torch.int64).max
"""Sorts behind all others."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Numbers of the losses; fields are explained in `spec.py`."""

    seed: int
    accumulation_steps: int
    clip_size: int
    focus_num: int
    focus_level: int
    num_negatives: int
    temperature: float
    memory_momentum: float
    consistency_weight: float
    consistency_level: int
    consistency_power: float
    consistency_clamp: float
    consistency_distance: str
    prototype_weight: float


@dataclass(frozen=True, kw_only=True)
class PretrainTimetable(Timetable):
    """What happens when in pre-training."""

    projection_lr_ratio: float
    clusters_after: Callable[[int], bool]
    """Whether an epoch is followed by a clustering."""
    validates_after: Callable[[int], bool]
    """Whether an epoch is followed by a validation, the last one's being no part of the training."""

    def clusters_before(self, step: int) -> bool:
        """Whether this step is the first after a clustering."""
        return self.begins_later_epoch(step) and self.clusters_after(self.epoch(step - 1))

    def validates_before(self, step: int) -> bool:
        """Whether this step is the first after a validation."""
        return self.begins_later_epoch(step) and self.validates_after(self.epoch(step - 1))


def pretrain(
    learner: Learner,
    recipe: Recipe,
    timetable: PretrainTimetable,
    batches: Iterable[Sequence[Sample]],
    *,
    machine: Machine,
    cluster: Callable[[int], Sequence[Prototypes]],
    validate: Callable[[], None],
    save: Callable[[int], None],
    journal: Journal,
    stop: StopRequest,
) -> None:
    """Train from `learner.step` to the end of the timetable.

    Args:
        batches: Samples of each remaining step, this process's share of them.
        cluster: Makes and records the prototypes after an epoch.
        validate: Scores the encoder between two epochs, changing nothing that is trained.
        save: Writes a checkpoint after an epoch, or within it.
        journal: Where metrics go.
        stop: Says when to leave early; the step that is under way is finished and saved.
    """
    learner.train()
    clock = Clock()
    with progress(desc="pre-training", unit="step", total=timetable.steps, initial=learner.step) as bar:
        for samples in clock.waiting(batches):
            step = learner.step + 1
            if timetable.validates_before(step):
                validate()
                learner.train()
            if timetable.clusters_before(step):
                learner.set_prototypes(cluster(timetable.epoch(learner.step)))
                learner.train()
            epoch = timetable.epoch(step)
            rate = timetable.rate(epoch)
            learner.set_rates(rate, timetable.projection_lr_ratio)

            clips, masks = render(samples, size=recipe.clip_size, device=learner.device)
            videos = send(torch.tensor([sample.index for sample in samples]), learner.device)
            with machine.stepping():
                metrics = training_step(learner, recipe, clips, masks, videos, machine)

            learner.step = step
            learner.means.add(metrics)
            clock.clips += len(clips) * ranks.size()
            bar.update()
            if timetable.logs(step):
                learner.losses.settle()
                values = learner.means.take()
                bar.set_postfix(epoch=epoch, loss=f"{values['pretrain/loss']:.3f}", refresh=False)
                speed = {f"perf/{name}": value for name, value in clock.take().items()}
                journal.metrics({**values, "optim/learning_rate": rate, "epoch": epoch, **speed}, step)
            leaving = ranks.asked_to_stop(stop)  # A request that comes while saving is for the step after this one.
            if timetable.saves(step) or leaving:
                learner.losses.settle()
                save(epoch)
            if leaving:
                stop.check()


def training_step(
    learner: Learner, recipe: Recipe, clips: Tensor, masks: Tensor | None, videos: Tensor, machine: Machine
) -> dict[str, Tensor]:
    """One optimiser step on a batch, and the memory's update; returns what is logged, means over the whole batch.

    Args:
        clips: Normalised clips, `[M, 3, T, H, W]`: for each video its F first views, then its F second views.
        masks: Their fixation masks, `[M, 1, H, W]`.
        videos: Position of each video in the training list, `[B]`.
    """
    fixations, parts = torch.arange(recipe.focus_num, device=videos.device).repeat(2), recipe.accumulation_steps
    slots = ranks.whole((videos[:, None] * recipe.focus_num + fixations).flatten(), parts)
    learner.optimizer.zero_grad(set_to_none=True)
    logged, features = [], []
    pieces = zip(clips.chunk(parts), [None] * parts if masks is None else masks.chunk(parts), strict=True)
    for part, (some_clips, their_masks) in enumerate(pieces):
        loss, metrics, pooled = training_losses(learner, recipe, some_clips, their_masks, slots, machine, part)
        learner.backward(loss / parts, last=part == parts - 1)
        logged.append(metrics)
        features.append(pooled)
    metrics = ranks.mean(_means(logged))
    # Of a loss that is not finite the host may hear a step later only; what is changed by it must not wait for that.
    losses = {name: value for name, value in metrics.items() if "loss" in name}
    not_finite = learner.losses.watch(learner.step + 1, losses)
    learner.optimizer.found_inf = not_finite  # type: ignore[attr-defined]
    learner.optimizer.step()
    whole = ranks.whole(torch.cat(features), parts)
    rows = learner.memory.read(slots)
    updated = updated_slots(rows, slots, whole, momentum=recipe.memory_momentum)
    learner.memory.write(slots, updated if not_finite is None else torch.where(not_finite > 0, rows, updated))
    return metrics


def training_losses(
    learner: Learner,
    recipe: Recipe,
    clips: Tensor,
    masks: Tensor | None,
    slots: Tensor,
    machine: Machine,
    part: int = 0,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The sum of the three losses of a part of a batch.

    Args:
        clips: Of this process in this part, `[R, 3, T, H, W]`.
        masks: Their fixation masks, `[R, 1, H, W]`.
        slots: Memory slots of the whole batch's clips, `[M]`.
        part: Number of the part.

    Returns:
        The loss, each term by its metric's name, and the pooled features `[R, C]`.
    """
    own_slots = ranks.own_rows(slots, part, recipe.accumulation_steps)
    with machine.autocast():
        features, maps = learner.encoder.forward_levels(
            clips, masks, mask_level=recipe.focus_level, level=recipe.consistency_level
        )
    features = features.float()
    projected = learner.projection(features)

    rows, own, negatives = _memory_rows(learner, recipe, slots, part)
    projected_memory = learner.projection(learner.memory.rows if rows is None else learner.memory.read(rows))
    contrast, probability = saccade_contrast_loss(
        projected, projected_memory, own, negatives, temperature=recipe.temperature
    )
    loss = contrast
    metrics = {"pretrain/loss_saccade": contrast, "pretrain/positive_probability": probability}

    if learner.propagation is not None:
        projected_maps, values = learner.propagation(maps.float())
        consistency = consistency_loss(
            *_join_views(projected_maps, recipe.focus_num),
            *_join_views(values, recipe.focus_num),
            power=recipe.consistency_power,
            clamp=recipe.consistency_clamp,
            distance=recipe.consistency_distance,
        )
        loss = loss + recipe.consistency_weight * consistency
        metrics["pretrain/loss_consistency"] = consistency

    if learner.targets:
        scores = [
            prototype_loss(projected, centroids, density, assignment[own_slots], _candidates(learner, recipe, i, slots))
            for i, (assignment, centroids, density) in enumerate(learner.targets)
        ]
        prototype = torch.stack([score[0] for score in scores]).mean()
        loss = loss + recipe.prototype_weight * prototype
        metrics["pretrain/loss_prototype"] = prototype
        metrics["pretrain/prototype_accuracy"] = torch.stack([score[1] for score in scores]).mean()
    return loss, {"pretrain/loss": loss, **metrics}, features.detach()


def _memory_rows(
    learner: Learner, recipe: Recipe, slots: Tensor, part: int = 0
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Draw the negatives of a batch; memory rows in use (None: all), and where own slots and negatives are among them.

    They are drawn for the whole batch, so that a clip has the same whichever process it is in.
    """
    seed = derive_seed(recipe.seed, "negatives", learner.step)
    drawn = draw_below(len(learner.memory), (len(slots), recipe.num_negatives), seed=seed, device=slots.device)
    own, drawn = (ranks.own_rows(each, part, recipe.accumulation_steps) for each in (slots, drawn))
    # Nearly every row is drawn: projecting all beats finding out which.
    if len(learner.memory) <= drawn.numel() and not learner.memory.split:
        return None, own, drawn
    wanted = torch.cat([own[:, None], drawn], dim=1)
    if wanted.is_cuda:  # Finding the repeated ones takes a wait for their number, and of so large a memory few are.
        rows, places = wanted.flatten(), torch.arange(wanted.numel(), device=wanted.device).view_as(wanted)
    else:
        rows, places = torch.unique(wanted, return_inverse=True)
    return rows, places[:, 0], places[:, 1:]


def _candidates(learner: Learner, recipe: Recipe, clustering: int, slots: Tensor) -> Tensor:
    """Prototypes in the loss, booleans `[P]`: the whole batch's own, and up to `num_negatives` of the others, drawn."""
    assignment, centroids, _ = learner.targets[clustering]
    own = assignment[slots]
    seed = derive_seed(recipe.seed, "prototypes", learner.step, clustering)
    order = draw_keys(len(centroids), seed=seed, device=slots.device).index_fill_(0, own, _LAST)
    candidates = torch.zeros(len(centroids), dtype=torch.bool, device=slots.device)
    return candidates.index_fill_(0, order.argsort()[: recipe.num_negatives], True).index_fill_(0, own, True)


def _join_views(maps: Tensor, focus_num: int) -> tuple[Tensor, Tensor]:
    """Maps of clips `[M, C, t, h, w]` to those of first and second views along time: `[B, C, F * t * h * w]` each."""
    _, c, *thw = maps.shape
    views = maps.reshape(-1, 2, focus_num, c, *thw).transpose(2, 3).flatten(3)
    return views[:, 0], views[:, 1]


def _means(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(parts) == 1:
        return parts[0]
    return {name: torch.stack([each[name].detach() for each in parts]).mean() for name in parts[0]}
