"""Random numbers derived from what they are for, never from a global stream.

`generator(seed, "augmentation", epoch, index)` gives the same numbers in whichever process, order or resumed run it is
called, so a resume needs no stored generator state and a data worker no seed of its own. Keys of one purpose have one
length: to NumPy a number that is missing at the end is a zero.
"""

import zlib
from collections.abc import Iterator

import numpy as np

__all__ = ["Draws", "derive_seed", "generator"]

_WORDS = 96
"""That a `Draws` fetches at a time: a sample's six views take 66 to 91."""
_HALF = 1 << 32


def _sequence(seed: int, purpose: str, *key: int) -> np.random.SeedSequence:
    # crc32, not hash(): Python salts the hash of a string anew in every process.
    numbers = [seed, zlib.crc32(purpose.encode()), *key]
    if max(numbers) >> 32:
        return np.random.SeedSequence(numbers)
    # The same sequence, for which NumPy need not take each number apart into words of 32 bits.
    return np.random.SeedSequence(np.array(numbers, np.uint32))


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for (seed, purpose, key...); all numbers non-negative integers."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, *key)))


def derive_seed(seed: int, purpose: str, *key: int) -> int:
    """A 63-bit seed for libraries that want a number (torch, faiss) instead of a generator."""
    return int(_sequence(seed, purpose, *key).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Draws:
    """What `generator` gives with the same arguments, to the bit, where numbers are drawn one by one.

    Between two videos the processor's caches are full of frames, and NumPy's calls, which are of many parts, take half
    a hundredth of a sample's time more. Words come from its PCG64, whose stream NumPy promises not to change; of them
    are made, as NumPy makes them: doubles of the upper 53 bits, integers by Lemire's multiplication of half words
    ("Fast Random Integer Generation in an Interval", 2019), orders by Fisher and Yates, whose places are lowest bits,
    drawn again when too large.
    """

    def __init__(self, seed: int, purpose: str, *key: int) -> None:
        self._word = _words(np.random.PCG64(_sequence(seed, purpose, *key))).__next__
        self._upper: int | None = None

    def random(self) -> float:
        """A number of [0, 1)."""
        return (self._word() >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """A number of [low, high)."""
        return low + (high - low) * self.random()

    def below(self, limit: int) -> int:
        """An integer of [0, limit), for a limit of 1 to 2^32 - 1; of 1 nothing is drawn."""
        if limit == 1:
            return 0
        product = self._half() * limit
        if product % _HALF < limit:  # Else no integer can have got more than its share.
            unfair = _HALF % limit
            while product % _HALF < unfair:
                product = self._half() * limit
        return product >> 32

    def order(self, count: int) -> tuple[int, ...]:
        """The integers below `count` in any order."""
        found = list(range(count))
        for last in range(count - 1, 0, -1):
            bits = (1 << last.bit_length()) - 1
            other = self._half() & bits
            while other > last:
                other = self._half() & bits
            found[last], found[other] = found[other], found[last]
        return tuple(found)

    def _half(self) -> int:
        """Half a word, the lower one first."""
        if self._upper is not None:
            half, self._upper = self._upper, None
            return half
        word = self._word()
        self._upper = word >> 32
        return word % _HALF


def _words(bits: np.random.PCG64) -> Iterator[int]:
    while True:
        yield from bits.random_raw(_WORDS).tolist()
