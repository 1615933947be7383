"""What happens when: pure functions of the epoch, counted from 1."""

import math
from collections.abc import Sequence

__all__ = ["clusters_after", "cosine_rate", "keeps_checkpoint", "step_rate"]


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
