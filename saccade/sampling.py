"""What a training step draws at random, on the device that needs it, and the same on every device.

PyTorch's own generators give other numbers on a GPU than on a CPU, and on another GPU; drawn on the host, they would be
sent there in every step. SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
2014) makes the n-th number of a seed out of n by a few operations on 64-bit integers, which are exact everywhere.
"""

import torch
from torch import Tensor

__all__ = ["draw_below", "draw_keys"]

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_HALF = 32


def draw_below(limit: int, shape: tuple[int, ...], *, seed: int, device: torch.device) -> Tensor:
    """Integers of [0, limit), int64 of a shape, drawn with replacement.

    Each has its share of them but for `limit` in 2^32.

    Args:
        limit: At most 2^31.
        shape: Of the result.
        seed: From `rng.derive_seed`.
        device: Where to draw.
    """
    drawn = _words(torch.Size(shape).numel(), seed, device)
    return _shifted(drawn, _HALF).mul_(limit).bitwise_right_shift_(_HALF).view(shape)


def draw_keys(count: int, *, seed: int, device: torch.device) -> Tensor:
    """Numbers to sort by for any order of `count` things, int64 `[count]`, not negative."""
    return _shifted(_words(count, seed, device), 1)


def _words(count: int, seed: int, device: torch.device) -> Tensor:
    """The first 64-bit words of a seed, `[count]`, as signed ones; products are modulo 2^64."""
    z = torch.arange(1, count + 1, device=device).mul_(_signed(_STEP)).add_(_signed(seed))
    z.bitwise_xor_(_shifted(z, 30)).mul_(_signed(_FIRST))
    z.bitwise_xor_(_shifted(z, 27)).mul_(_signed(_SECOND))
    return z.bitwise_xor_(_shifted(z, 31))


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Words without their last bits, zeros before the others, where PyTorch's own shift puts the sign."""
    return (words >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
