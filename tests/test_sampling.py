"""What a step draws: SplitMix64's words, evenly, wherever they are drawn."""

from itertools import islice

import numpy as np
import pytest
import torch

from saccade.rng import derive_seed
from saccade.sampling import draw_below, draw_keys

from .split_mix import split_mix

CPU = torch.device("cpu")
SEEDS = [0, 1, 632, 2**62 + 12345, 2**63 - 1]


def test_the_slow_version_gives_the_published_words() -> None:
    """Of the reference implementation by Sebastiano Vigna, with the seed that Rosetta Code shows."""
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert list(islice(split_mix(1234567), 5)) == words


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [1, 2, 7, 28_611, 10_000_000, 2**31])
def test_integers_are_upper_halves_of_the_words(seed: int, limit: int) -> None:
    drawn = draw_below(limit, (7, 11), seed=seed, device=CPU)
    assert drawn.dtype == torch.int64
    wanted = [(word >> 32) * limit >> 32 for word in islice(split_mix(seed), 77)]
    assert drawn.flatten().tolist() == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_are_the_words_without_their_last_bit(seed: int) -> None:
    assert draw_keys(50, seed=seed, device=CPU).tolist() == [word >> 1 for word in islice(split_mix(seed), 50)]


def test_each_integer_has_its_share() -> None:
    limit, rows = 1000, 2000
    drawn = draw_below(limit, (rows, 1024), seed=derive_seed(632, "negatives", 5), device=CPU)
    assert (int(drawn.min()), int(drawn.max())) == (0, limit - 1)
    expected = drawn.numel() / limit
    counts = torch.bincount(drawn.flatten(), minlength=limit).double()
    # Chi-squared of 999 degrees of freedom: its mean and five standard deviations.
    assert abs(float(((counts - expected) ** 2 / expected).sum()) - 999) < 5 * np.sqrt(2 * 999)
    # Nor does one integer tell of the next: a step of a row has as many rises as falls.
    rises = (drawn[:, 1:] > drawn[:, :-1]).double().mean()
    assert abs(float(rises) - 0.5) < 0.002


def test_steps_draw_for_themselves() -> None:
    drawn = [draw_below(10**6, (500,), seed=derive_seed(632, "negatives", step), device=CPU) for step in range(50)]
    together = torch.cat(drawn)
    # Of 25,000 among a million, 24,690 are expected to differ from all others.
    assert abs(len(together.unique()) - 24_690) < 100


def test_an_order_is_any() -> None:
    counts = np.zeros((5, 5))
    for step in range(2000):
        order = draw_keys(5, seed=derive_seed(632, "prototypes", step, 0), device=CPU).argsort().tolist()
        counts[order, range(5)] += 1
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)
