"""Schedules against the numbers of method.md."""

import math

import pytest

from saccade.schedules import clusters_after, cosine_rate, keeps_checkpoint, step_rate


@pytest.mark.parametrize(
    ("epoch", "rate"), [(1, 0.1), (90, 0.1), (91, 0.02), (180, 0.02), (181, 0.004), (241, 0.0008), (300, 0.0008)]
)
def test_steps(epoch: int, rate: float) -> None:
    assert step_rate(epoch, base=0.1, decay_epochs=(90, 180, 240), decay_rate=0.2) == pytest.approx(rate)


def test_cosine_falls_from_the_base_towards_nothing() -> None:
    rates = [cosine_rate(epoch, base=0.1, epochs=10) for epoch in range(1, 11)]
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 10)) for e in range(10)])
    assert rates[0] == 0.1
    assert rates[5] == pytest.approx(0.05)


def test_the_published_clusterings() -> None:
    made = [e for e in range(1, 301) if clusters_after(e, epochs=300, warmup_epoch=241, every_epochs=5)]
    assert made == [245, 250, 255, 260, 265, 270, 275, 280, 285, 290, 295]


def test_the_published_checkpoints() -> None:
    kept = [
        e
        for e in range(1, 301)
        if keeps_checkpoint(e, epochs=300, keep_every_epochs=60, final_epochs=60, keep_every_final_epochs=10)
    ]
    assert kept == [60, 120, 180, 240, 250, 260, 270, 280, 290, 300]
