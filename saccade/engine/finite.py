"""Losses that are not finite: found before anything is changed by them, without waiting for a GPU in every step."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.errors import RunError

__all__ = ["LossWatch"]

_AHEAD = 1
"""Steps that a GPU may still be at when the next one is prepared."""


@dataclass(frozen=True)
class _Seen:
    step: int
    names: tuple[str, ...]
    values: Tensor
    copied: "torch.cuda.Event | None"


class LossWatch:
    """Stops a training whose loss is not finite, with the step and the terms.

    On a CPU at once. On a GPU the values travel while the next step is prepared, and the host looks at them then; in
    the meantime the answer of `watch`, which stays on the device, keeps optimiser and memory from changing anything.

    Args:
        total: Name of the terms' sum.
    """

    def __init__(self, total: str) -> None:
        self.total = total
        self._seen: deque[_Seen] = deque()

    def watch(self, step: int, losses: Mapping[str, Tensor]) -> Tensor | None:
        """Look at the losses of a step, before they change anything.

        Args:
            step: Number of the step.
            losses: The terms and their sum, scalars on one device.

        Returns:
            On a GPU 1.0 where the sum is not finite, else 0.0, as a scalar there: the `found_inf` of fused optimisers.

        Raises:
            RunError: The loss of this step, or on a GPU of one before, is not finite.
        """
        values = torch.stack([value.detach().float() for value in losses.values()])
        copied = None
        if values.is_cuda:
            host = torch.empty(values.shape, pin_memory=True)
            host.copy_(values, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            found = (~torch.isfinite(losses[self.total].detach())).float()
        self._seen.append(_Seen(step, tuple(losses), host if copied else values, copied))
        self._look(_AHEAD if copied else 0)
        return found if copied else None

    def settle(self) -> None:
        """Wait for all steps that were watched: before anything is written down.

        Raises:
            RunError: The loss of one of them is not finite.
        """
        self._look(0)

    def _look(self, pending: int) -> None:
        while len(self._seen) > pending:
            seen = self._seen.popleft()
            if seen.copied is not None:
                seen.copied.synchronize()
            values = dict(zip(seen.names, seen.values.tolist(), strict=True))
            if not math.isfinite(values[self.total]):
                terms = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
                raise RunError(
                    f"step {seen.step}: the loss is not finite ({terms}); the last checkpoint is from before. "
                    "Try a lower pretrain.learning_rate, or engine.precision=fp32"
                )
