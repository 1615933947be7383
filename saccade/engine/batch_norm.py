"""Batch norm over the whole batch when each process has a share of it.

Without, each process would normalise its share by that share's own mean and variance, and a run on more processes would
be another run. Names and shapes of weights and buffers do not change.
"""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from saccade.engine import ranks

__all__ = ["JoinedBatchNorm", "joined_batch_norm"]

M = TypeVar("M", bound=nn.Module)


class _Normalise(torch.autograd.Function):
    """`weight * (x - mean) / sqrt(variance + eps) + bias` by the mean and the variance over all processes.

    One message forward and one backward, since many small messages are what such layers cost.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        over, shape = _axes(x)
        variance, mean = torch.var_mean(x, over, correction=0)
        # Shares are equally large. A mean of squares less a squared mean would lose digits.
        means, variances = ranks.gather(torch.stack([mean, variance])[None]).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        deviation = (variance + eps).sqrt()
        normalised = (x - mean.view(shape)) / deviation.view(shape)
        ctx.save_for_backward(normalised, weight, deviation)
        ctx.mark_non_differentiable(mean, variance)
        return normalised * weight.view(shape) + bias.view(shape), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normalised, weight, deviation = ctx.saved_tensors
        gradient = gradients[0]
        over, shape = _axes(gradient)
        own = torch.stack([gradient.sum(over), (gradient * normalised).sum(over)])
        # x has a part in the means of all processes, whose losses so depend on it.
        plain, along = (ranks.total(own) / (gradient.numel() // len(weight) * ranks.size())).unbind(0)
        inner = gradient - plain.view(shape) - normalised * along.view(shape)
        return inner * (weight / deviation).view(shape), own[1], own[0], None


def _axes(x: Tensor) -> tuple[list[int], list[int]]:
    """All axes but the channels', and the shape that a vector of channels has beside `x`."""
    return [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]


class JoinedBatchNorm(_BatchNorm):
    """Batch norm over the shares of all processes, which are equally large: what torch's SyncBatchNorm does on GPUs.

    `joined_batch_norm` makes one of any batch norm. Computed in float32 at least.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, ...]` to the same."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        out, mean, variance = _Normalise.apply(wide, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        count = x.numel() // x.shape[1] * ranks.size()
        self._follow(mean, variance * count / (count - 1))
        return out.to(x.dtype)  # type: ignore[no-any-return]

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
