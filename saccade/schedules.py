"""What happens when: pure functions of the epoch, counted from 1, and of the steps that are done."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Timetable", "clusters_after", "cosine_rate", "keeps_checkpoint", "step_rate"]


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """What happens when in a training. Steps count those that are done, epochs are counted from 1."""

    epochs: int
    steps_per_epoch: int
    rate: Callable[[int], float]
    """Learning rate of an epoch."""
    log_every_steps: int
    saves_after_epoch: Callable[[int], bool]
    save_every_steps: int | None

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.epochs * self.steps_per_epoch

    def epoch(self, step: int) -> int:
        """The epoch that the `step`-th step belongs to."""
        return (step - 1) // self.steps_per_epoch + 1

    def ends_epoch(self, step: int) -> bool:
        """Whether this was the last step of its epoch."""
        return step % self.steps_per_epoch == 0

    def begins_later_epoch(self, step: int) -> bool:
        """Whether this step is the first of an epoch, but not of the training.

        What happens between two epochs happens before such a step: after the checkpoint of the earlier epoch, so that
        who is stopped in it loses no training.
        """
        return step > 1 and self.ends_epoch(step - 1)

    def logs(self, step: int) -> bool:
        """Whether metrics are logged after this step."""
        return step % self.log_every_steps == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after this step."""
        if self.save_every_steps is not None and step % self.save_every_steps == 0:
            return True
        return self.ends_epoch(step) and self.saves_after_epoch(self.epoch(step))


def step_rate(epoch: int, *, base: float, decay_epochs: Sequence[int], decay_rate: float) -> float:
    """Learning rate of an epoch: `base`, times `decay_rate` for every decay epoch that is over."""
    return base * decay_rate ** sum(epoch > decay for decay in decay_epochs)


def cosine_rate(epoch: int, *, base: float, epochs: int) -> float:
    """Learning rate of an epoch on half a cosine from `base` in the first epoch towards 0 after the last [0].

    [0] SGDR, Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts.
    """
    return base * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def clusters_after(epoch: int, *, epochs: int, warmup_epoch: int, every_epochs: int) -> bool:
    """Whether prototypes are made after this epoch: from the warm-up on, at each multiple, never after the last."""
    return warmup_epoch <= epoch < epochs and epoch % every_epochs == 0


def keeps_checkpoint(
    epoch: int, *, epochs: int, keep_every_epochs: int, final_epochs: int, keep_every_final_epochs: int
) -> bool:
    """Whether the checkpoint of this epoch is kept: now and then, more often towards the end, and the last."""
    final = epoch > epochs - final_epochs
    return epoch == epochs or epoch % keep_every_epochs == 0 or (final and epoch % keep_every_final_epochs == 0)
