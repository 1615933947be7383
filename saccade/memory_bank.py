"""The memory bank: a feature of every fixation, whole in each process of a run or split over all of them."""

import torch
from torch import Tensor

from saccade.engine import ranks

__all__ = ["MemoryBank"]

_BLOCK = 1 << 14
"""Slots that are drawn at a time."""


class MemoryBank:
    """Rows `[S, C]`, one for each slot: uniform in +-1 / sqrt(C / 3) at first, with a length of about 1.

    Drawn on the CPU in blocks, so that they are the same on every device and in all processes, and never there twice.

    Args:
        slots: S, one for each fixation of each video.
        dim: C, channels of the encoder's features.
        generator: Of the first rows.
        device: Where they lie.
        split: Whether each process keeps only its part. It then fetches what it reads from the others, so that all have
            to read at once.
    """

    def __init__(
        self,
        slots: int,
        dim: int,
        generator: torch.Generator,
        device: torch.device | None = None,
        *,
        split: bool = False,
    ) -> None:
        self.split = split and ranks.size() > 1
        self._slots = slots
        # The last processes may have fewer slots than rows.
        self._each = -(-slots // ranks.size()) if self.split else slots
        self._first = ranks.rank() * self._each if self.split else 0
        self.rows = torch.zeros(self._each, dim, device=device)
        """Those of this process, in the order of its slots."""
        bound = (dim / 3) ** -0.5
        for start in range(0, slots, _BLOCK):
            block = torch.empty(min(_BLOCK, slots - start), dim).uniform_(-bound, bound, generator=generator)
            self._keep(block, start)

    def __len__(self) -> int:
        """S."""
        return self._slots

    @property
    def shape(self) -> tuple[int, int]:
        """(S, C)."""
        return self._slots, self.rows.shape[1]

    def read(self, slots: Tensor) -> Tensor:
        """Rows `[R, C]` of the slots `[R]`; each process may ask for others."""
        if not self.split:
            return self.rows[slots]
        owner = slots // self._each
        order = owner.argsort(stable=True)
        counts = owner.bincount(minlength=ranks.size()).tolist()
        wanted, from_each = ranks.exchange(slots[order], counts)
        answers, _ = ranks.exchange(self.rows[wanted - self._first], from_each)
        return torch.empty_like(answers).index_copy_(0, order, answers)

    def write(self, slots: Tensor, rows: Tensor) -> None:
        """Put rows `[R, C]` into the slots `[R]`, the same in all processes; equal slots have equal rows."""
        if self.split:
            own = slots // self._each == ranks.rank()
            slots, rows = slots[own] - self._first, rows[own]
        self.rows[slots] = rows

    def whole(self) -> Tensor:
        """All rows `[S, C]`, for a checkpoint; a split bank's on the CPU of the first process. All processes ask."""
        return ranks.gather_to_first(self.rows)[: self._slots] if self.split else self.rows

    def restore(self, rows: Tensor) -> None:
        """Take all rows `[S, C]`, as `whole` gave them."""
        self._keep(rows, 0)

    def _keep(self, rows: Tensor, start: int) -> None:
        """Of rows whose slots begin at `start`, put those of this process in their places."""
        begin, end = max(start, self._first), min(start + len(rows), self._first + self._each)
        if begin < end:
            self.rows[begin - self._first : end - self._first] = rows[begin - start : end - start]
