"""Random numbers by what they are for: NumPy's own, and the same in every process."""

import itertools
import zlib

import numpy as np
import pytest

from saccade.rng import Draws, derive_seed, generator

LIMITS = (1, 2, 3, 7, 229, 65_537, 2**31, 2**31 + 1, 3 * 2**30, 2**32 - 1)
"""Of integers: those just above 2^31 throw nearly half of the drawn ones away."""


def numpys(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator without any of our shortcuts."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *key])
    return np.random.Generator(np.random.PCG64(sequence))


@pytest.mark.parametrize("key", [(), (0,), (3, 7), (1, 2**32 - 1), (2**32, 5), (2**70, 0, 1)])
@pytest.mark.parametrize("seed", [0, 632, 2**32 - 1, 2**32, 2**64 + 9])
def test_generators_are_numpys_of_seed_purpose_and_key(seed: int, key: tuple[int, ...]) -> None:
    assert generator(seed, "order", *key).random(5).tolist() == numpys(seed, "order", *key).random(5).tolist()
    words = np.random.SeedSequence([seed, zlib.crc32(b"order"), *key]).generate_state(1, np.uint64)
    assert derive_seed(seed, "order", *key) == int(words[0]) // 2


def test_purposes_and_keys_make_other_numbers() -> None:
    keys = itertools.product(range(3), range(3))
    made = [derive_seed(632, purpose, *key) for key in keys for purpose in ("fixations", "augmentation")]
    assert len(set(made)) == len(made)


class TestDraws:
    def test_numbers_in_any_order_are_numpys(self) -> None:
        kinds = itertools.cycle(["random", "below", "order", "below", "uniform", "order", "below"])
        limits, counts = itertools.cycle(LIMITS), itertools.cycle(range(7))
        for key in range(40):
            draws, numpy = Draws(632, "test", key), numpys(632, "test", key)
            for kind in itertools.islice(kinds, 150):
                if kind == "random":
                    assert draws.random() == numpy.random()
                elif kind == "uniform":
                    assert draws.uniform(-0.3, 2.5) == numpy.uniform(-0.3, 2.5)
                elif kind == "below":
                    limit = next(limits)
                    assert draws.below(limit) == numpy.integers(limit)
                else:
                    count = next(counts)
                    assert draws.order(count) == tuple(numpy.permutation(count))

    def test_integers_that_would_come_more_often_are_drawn_again(self) -> None:
        # Of 2^31 + 1 nearly every second half word is refused: a fair share shows that some were.
        draws = Draws(632, "test")
        drawn = np.array([draws.below(2**31 + 1) for _ in range(4000)])
        counts, _ = np.histogram(drawn, bins=4, range=(0, 2**31 + 1))
        assert counts.min() > 900
