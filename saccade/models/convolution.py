"""The convolution of the published encoders: PyTorch's, or this package's own where that is asked for and faster."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from saccade.models import conv_cpu

__all__ = ["Conv3d", "use_own_convolutions"]

_LEAST_CHANNELS = 16
"""Channels, coming in and going out, from which the own convolutions are the faster ones (measured)."""


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` padded by half its kernel, without bias.

    Attributes:
        own: Use `saccade.models.conv_cpu` for float32 on a CPU, whose results differ in rounding; no part of the state.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]
    ) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False)
        self.own = False

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in, T, H, W]` to `[N, out, T', H', W']`."""
        if self.own and self._suits(x):
            y: Tensor = _Own.apply(x, self.weight, self.stride)  # type: ignore[no-untyped-call]
            return y
        return super().forward(x)

    def _suits(self, x: Tensor) -> bool:
        # Neither a stand-in for counting or exporting, nor to be computed in another precision.
        return (
            type(x) is Tensor
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and min(self.in_channels, self.out_channels) >= _LEAST_CHANNELS
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


class _Own(torch.autograd.Function):
    """`conv_cpu` with its gradients; the input's is left out where nobody asks for it."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, stride: tuple[int, int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride  # type: ignore[attr-defined]
        return conv_cpu.convolve(x, weight, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted, stride = ctx.needs_input_grad, ctx.stride  # type: ignore[attr-defined]
        _, _, *size = x.shape
        _, _, *taps = weight.shape
        dx = conv_cpu.input_gradient(dy, weight, stride, tuple(size)) if wanted[0] else None
        dw = conv_cpu.kernel_gradient(x, dy, tuple(taps), stride) if wanted[1] else None
        return dx, dw, None


def use_own_convolutions(module: nn.Module) -> None:
    """Let a module's `Conv3d` use this package's convolutions, on machines for which `conv_cpu.available`."""
    for part in module.modules():
        if isinstance(part, Conv3d):
            part.own = True
