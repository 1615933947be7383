"""Random numbers derived from what they are for, never from a global stream.

`generator(seed, "augmentation", epoch, index)` gives the same numbers in whichever process, order or resumed run it is
called, so a resume needs no stored generator state and a data worker no seed of its own.
"""

import zlib

import numpy as np

__all__ = ["derive_seed", "generator"]


def _sequence(seed: int, purpose: str, *key: int) -> np.random.SeedSequence:
    # crc32, not hash(): Python salts the hash of a string anew in every process.
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *key])


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for (seed, purpose, key...); all numbers non-negative integers."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, *key)))


def derive_seed(seed: int, purpose: str, *key: int) -> int:
    """A 63-bit seed for libraries that want a number (torch, faiss) instead of a generator."""
    return int(_sequence(seed, purpose, *key).generate_state(1, np.uint64)[0] >> np.uint64(1))
