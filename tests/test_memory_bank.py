"""The memory bank of one process; tests/distributed has those that are split."""

import math

import pytest
import torch

from saccade import memory_bank
from saccade.memory_bank import MemoryBank


def test_rows_are_uniform_and_about_one_long() -> None:
    bank = MemoryBank(2000, 512, torch.Generator().manual_seed(0))
    bound = 1 / math.sqrt(512 / 3)
    assert (len(bank), bank.shape, bank.split) == (2000, (2000, 512), False)
    assert bank.rows.abs().max() <= bound
    # A uniform variable in +-b: mean 0, variance b^2 / 3 = 1 / 512, so squared lengths are 1 on average.
    assert bank.rows.mean().abs() < 1e-3
    assert bank.rows.pow(2).sum(dim=1).mean() == pytest.approx(1.0, abs=0.01)
    assert (bank.rows > 0.9 * bound).float().mean() == pytest.approx(0.05, abs=0.002)


def test_rows_are_the_same_in_whatever_blocks_they_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MemoryBank(1000, 24, torch.Generator().manual_seed(5)).rows
    monkeypatch.setattr(memory_bank, "_BLOCK", 64)
    assert torch.equal(whole, MemoryBank(1000, 24, torch.Generator().manual_seed(5), torch.device("cpu")).rows)
    bound = 1 / math.sqrt(24 / 3)
    at_once = torch.empty(1000, 24).uniform_(-bound, bound, generator=torch.Generator().manual_seed(5))
    assert torch.equal(whole, at_once)


def test_what_is_written_is_read_and_one_process_has_nothing_to_split() -> None:
    bank = MemoryBank(6, 2, torch.Generator().manual_seed(1), split=True)
    assert not bank.split
    before, slots = bank.rows.clone(), torch.tensor([4, 1, 4])
    bank.write(slots, torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
    assert bank.read(slots).tolist() == [[1, 2], [3, 4], [1, 2]]
    assert torch.equal(bank.read(torch.tensor([0, 2, 3, 5])), before[[0, 2, 3, 5]])
    assert bank.whole() is bank.rows
    bank.restore(before)
    assert torch.equal(bank.whole(), before)


def test_a_bank_of_nothing() -> None:
    assert MemoryBank(0, 512, torch.Generator()).whole().shape == (0, 512)
