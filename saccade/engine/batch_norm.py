"""Batch norm over the whole batch when each process has a share of it.

Without, each process would normalise its share by that share's own mean and variance, and a run on more processes would
be another run. Names and shapes of weights and buffers do not change.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from saccade.engine import ranks

__all__ = ["JoinedBatchNorm", "joined_batch_norm"]

M = TypeVar("M", bound=nn.Module)


class _Total(torch.autograd.Function):
    """The sum over all processes. Each process's loss depends on it, so the gradient is the sum of theirs too."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return ranks.total(values)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return ranks.total(gradient)


class JoinedBatchNorm(_BatchNorm):
    """Batch norm over the shares of all processes, which are equally large: what torch's SyncBatchNorm does on GPUs.

    `joined_batch_norm` makes one of any batch norm. Statistics are summed in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, ...]` to the same."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        over, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * ranks.size()
        mean: Tensor = _Total.apply(wide.sum(over)) / count  # type: ignore[no-untyped-call]
        centred = wide - mean.view(shape)
        # In a second pass: a mean of squares less a squared mean would lose digits.
        variance: Tensor = _Total.apply(centred.square().sum(over)) / count  # type: ignore[no-untyped-call]
        self._follow(mean, variance * count / (count - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


def joined_batch_norm(module: M, device: torch.device) -> M:
    """Let the batch norms of a module see the batches of all processes; with one process nothing changes.

    Args:
        module: Changed in place, or in its parts; its parameters stay the same objects.
        device: Where it is.
    """
    if ranks.size() == 1:
        return module
    if device.type == "cuda":
        joined: M = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return joined
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            # torch's own takes no tensors on the CPU. Nothing but the arithmetic of `forward` is to change.
            part.__class__ = JoinedBatchNorm
    return module
