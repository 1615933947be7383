"""SplitMix64 as its authors write it, a word at a time."""

from collections.abc import Iterator

__all__ = ["split_mix"]

MODULUS = 1 << 64


def split_mix(state: int) -> Iterator[int]:
    """Words of 64 bits without end."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % MODULUS
        word = state
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % MODULUS
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % MODULUS
        yield word ^ (word >> 31)
