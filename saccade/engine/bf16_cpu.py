"""Convolutions in bf16 on processors that have AVX-512's bf16 instructions and no AMX (AMD Zen 4, Intel Cooper Lake).

There oneDNN (as of PyTorch 2.13) takes a kernel's gradient from memory that nobody has written, or writes beside it,
where a map is not larger than the kernel: over two frames with three taps, as in the last stage of the method's
encoders at 16 frames. A run then ends with NaN or, worse, does not. Its float32 is right
(tests/engine/test_bf16_cpu.py).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["SmallMapsInFloat32", "has_bf16_without_amx"]


@cache
def has_bf16_without_amx() -> bool:
    """Whether this processor is one of these."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16")) and not capabilities.get("amx_bf16")


class SmallMapsInFloat32(TorchFunctionMode):
    """A context in which autocast leaves those convolutions in float32 whose maps are not larger than their kernels."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv3d and _is_small(*args[:2]):
            with torch.autocast("cpu", enabled=False):
                x, kernel, *rest = args
                return func(x.float(), kernel.float(), *rest, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_small(x: Tensor, kernel: Tensor) -> bool:
    return any(taps > 1 and size <= taps for size, taps in zip(x.shape[2:], kernel.shape[2:], strict=True))
