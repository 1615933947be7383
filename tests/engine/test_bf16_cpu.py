"""Convolutions in bf16 on processors without AMX: where oneDNN is wrong they are in float32, elsewhere it is right."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

from saccade.engine import bf16_cpu, device
from saccade.engine.device import Machine
from saccade.models.encoder import build_encoder

Triple = tuple[int, int, int]
BF16 = Machine(torch.device("cpu"), "bf16")


def conv(x: Tensor, kernel: Tensor, stride: Triple) -> Tensor:
    return F.conv3d(x, kernel, None, stride, tuple(taps // 2 for taps in kernel.shape[2:]))


@pytest.mark.parametrize(
    ("taps", "size", "small"),
    [
        ((3, 3, 3), (2, 7, 7), True),
        ((3, 3, 3), (3, 7, 7), True),
        ((3, 3, 3), (4, 7, 7), False),
        ((3, 3, 3), (4, 3, 7), True),
        ((3, 1, 1), (4, 1, 1), False),
        ((1, 3, 3), (1, 4, 4), False),
        ((1, 1, 1), (1, 1, 1), False),
        ((7, 1, 1), (7, 9, 9), True),
    ],
)
@pytest.mark.parametrize("lacks_amx", [True, False])
def test_small_maps_stay_in_float32(
    monkeypatch: pytest.MonkeyPatch, taps: Triple, size: Triple, small: bool, lacks_amx: bool
) -> None:
    monkeypatch.setattr(device, "has_bf16_without_amx", lambda: lacks_amx)
    x, kernel = torch.randn(2, 4, *size), torch.randn(3, 4, *taps)
    with BF16.autocast():
        made = conv(x.bfloat16(), kernel, (1, 1, 1))
        assert torch.is_autocast_enabled("cpu")
    assert made.dtype == (torch.float32 if small and lacks_amx else torch.bfloat16)
    if made.dtype == torch.float32:
        assert torch.equal(made, conv(x.bfloat16().float(), kernel, (1, 1, 1)))
    assert not torch.is_autocast_enabled("cpu")


def test_which_processors_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, meant in (
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": True}, False),
        ({"avx2": True}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert bf16_cpu.has_bf16_without_amx.__wrapped__() is meant


def _leave_nan_behind() -> None:
    """Whoever reads memory that nobody has written is to see it."""
    left = [torch.full((length,), torch.nan) for length in (30, 300, 5_000, 100_000, 2_000_000) for _ in range(2)]
    del left


def _worst(run: Callable[[], list[Tensor]], wanted: list[Tensor]) -> float:
    """The largest relative difference of three runs, norms."""
    worst = 0.0
    for _ in range(3):
        _leave_nan_behind()
        for one, other in zip(run(), wanted, strict=True):
            difference = float((one.float() - other).norm() / other.norm().clamp_min(1e-9))
            worst = max(worst, difference) if difference == difference else torch.inf
    return worst


@pytest.mark.skipif(
    not bf16_cpu.has_bf16_without_amx(),
    reason="this processor has AMX, whose kernels are others, or computes nothing in bf16",
)
@pytest.mark.parametrize(
    ("taps", "stride"),
    [
        *[((3, 3, 3), stride) for stride in ((1, 1, 1), (2, 2, 2))],
        *[((1, 3, 3), stride) for stride in ((1, 1, 1), (1, 2, 2))],
        *[((3, 1, 1), stride) for stride in ((1, 1, 1), (2, 1, 1))],
        ((3, 7, 7), (1, 2, 2)),
        ((1, 7, 7), (1, 2, 2)),
        ((1, 1, 1), (2, 2, 2)),
        ((7, 1, 1), (2, 1, 1)),
    ],
)
def test_convolutions_of_all_encoders(taps: Triple, stride: Triple) -> None:
    generator = torch.Generator().manual_seed(0)
    # S3D, whose kernels of seven frames are wrong in float32 too, takes eight frames or more.
    for frames, side in product((8, 9) if taps == (7, 1, 1) else (1, 2, 3, 4, 7, 8), (1, 2, 3, 4, 7, 14)):
        x = torch.randn(2, 16, frames, side, side, generator=generator).bfloat16()
        x = x.contiguous(memory_format=torch.channels_last_3d)
        kernel = (0.1 * torch.randn(32, 16, *taps, generator=generator)).bfloat16()
        given = torch.randn(conv(x, kernel, stride).shape, generator=generator).bfloat16()

        def run(x: Tensor = x, kernel: Tensor = kernel, given: Tensor = given) -> list[Tensor]:
            x, kernel = x.clone().requires_grad_(), kernel.clone().requires_grad_()
            with BF16.autocast():
                made = conv(x, kernel, stride)
            _leave_nan_behind()
            made.backward(given.to(made.dtype))
            assert x.grad is not None
            assert kernel.grad is not None
            return [made.detach(), x.grad, kernel.grad]

        leaves = x.float().requires_grad_(), kernel.float().requires_grad_()
        wanted = conv(*leaves, stride)
        wanted.backward(given.float())
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert _worst(run, [wanted.detach(), *gradients]) < 0.01, (frames, side)


class _Rounded(torch.autograd.Function):
    """Rounds a tensor, and its gradient, to bf16."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.bfloat16().float()


class _Bf16ByHand(TorchFunctionMode):
    """Convolutions in float32 of what bf16 can hold."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.conv3d:
            return func(*args, **(kwargs or {}))
        x, kernel, *rest = args
        return _Rounded.apply(func(_Rounded.apply(x), _Rounded.apply(kernel), *rest))


@pytest.mark.skipif(not device.has_bf16_units(torch.device("cpu")), reason="this processor computes nothing in bf16")
@pytest.mark.parametrize("name", ["r3d", "r2plus1d"])
@pytest.mark.parametrize(("frames", "side"), [(16, 32), (8, 24)])
def test_gradients_of_the_methods_encoders(name: str, frames: int, side: int) -> None:
    """As far from those of float32 as rounding alone brings them."""
    torch.manual_seed(0)
    encoder = build_encoder(name, width=16).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.randn(8, 3, frames, side, side).contiguous(memory_format=torch.channels_last_3d)

    def run(precision: AbstractContextManager[object] | None = None) -> list[Tensor]:
        encoder.zero_grad()
        with precision or BF16.autocast():
            features = encoder(x)
        _leave_nan_behind()
        features.float().square().mean().backward()
        gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
        return [torch.cat([gradient.flatten() for gradient in gradients])]

    wanted = run(nullcontext())
    assert _worst(run, wanted) < 1.2 * _worst(lambda: run(_Bf16ByHand()), wanted)
