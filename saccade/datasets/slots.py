"""Samples from data workers to the trainer, in memory that they share and use again and again.

PyTorch's loader would put each sample into new shared memory: its frames are copied there, and the kernel maps each of
its pages anew, in the worker and in the trainer. That takes half as long as decoding them (docs/performance.md).
"""

import math
import mmap
import os
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from saccade.datasets.clips import Decoded, Sample
from saccade.datasets.frames import Empty, new_array
from saccade.transforms import View

__all__ = ["Parcel", "Slots"]

Bytes = npt.NDArray[np.uint8]

_ALIGNMENT = 64
_NOT_RESERVED = 0x4000
"""MAP_NORESERVE of Linux on x86 and ARM, for which Python has no name: a slot takes memory where it is written to, and
is made as large as any sample may be."""
_numbers = count()
_open: dict[int, "Slots"] = {}
"""Slots by their numbers, in the process that has made them and in those it has forked."""


class Slots:
    """Room for the samples of workers that are forked later; a context in which they may be used.

    A worker makes each sample in a slot of its own that is free; where there is none, or the sample is too large, it is
    made in the worker's memory and copied. A slot is free again when the trainer has no tensor of its sample left.

    Args:
        workers: How many there will be.
        each: Slots of one worker.
        slot_bytes: Of each slot.
    """

    def __init__(self, workers: int, each: int, slot_bytes: int) -> None:
        self._each, self._slot_bytes = each, -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        length = workers * each * self._slot_bytes
        try:
            self._memory = np.frombuffer(_shared(length), np.uint8)
            self._taken = np.frombuffer(_shared(workers * each), np.uint8)
        except OSError:  # As much address space is not to be had; all is copied then.
            self._memory, self._taken = np.empty(0, np.uint8), np.empty(0, np.uint8)
        self._number = next(_numbers)

    def __enter__(self) -> "Slots":
        _open[self._number] = self
        return self

    def __exit__(self, *_: object) -> None:
        del _open[self._number]

    def make(self, worker: int, decode: Callable[[Empty], Decoded]) -> "Parcel":
        """In a worker: a sample, on its way.

        Args:
            worker: Number of this worker.
            decode: Makes it, in memory that it asks for.
        """
        own = range(worker * self._each, (worker + 1) * self._each)
        free = next((slot for slot in own if slot < len(self._taken) and not self._taken[slot]), None)
        first, room = (0, 0) if free is None else (free * self._slot_bytes, self._slot_bytes)
        place = _Place(self._memory[first : first + room])
        decoded = decode(place.empty)
        if free is not None:
            self._taken[free] = 1
        return Parcel(self._number, free, decoded, place)

    def receive(self, slot: int) -> Bytes:
        """In the trainer: a slot that a worker has filled, which is the worker's again when no array of it is left."""
        # Views of it keep this array, made anew for each sample, and not the one that is kept here.
        filled = np.frombuffer(self._memory.data, np.uint8, self._slot_bytes, slot * self._slot_bytes)
        weakref.finalize(filled, _give_back, self._taken, slot, os.getpid()).atexit = False
        return filled


def _shared(length: int) -> mmap.mmap:
    """Memory of this process and of those that it forks: zeros, which take no room before they are written to."""
    return mmap.mmap(-1, max(length, 1), flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NOT_RESERVED)


def _give_back(taken: Bytes, slot: int, process: int) -> None:
    if os.getpid() == process:  # A worker that was forked meanwhile has inherited the array, and may drop it.
        taken[slot] = 0


class _Place:
    """A slot that is being filled."""

    def __init__(self, slot: Bytes) -> None:
        self._slot, self._used = slot, 0
        self._given: list[tuple[Bytes, int]] = []

    def empty(self, shape: tuple[int, ...]) -> Bytes:
        """Room for an array, in the slot if it has enough."""
        start = -(-self._used // _ALIGNMENT) * _ALIGNMENT
        end = start + math.prod(shape)
        if end > len(self._slot):
            return new_array(shape)
        array = self._slot[start:end].reshape(shape)
        self._used = end
        self._given.append((array, start))
        return array

    def stored(self, array: Bytes) -> "_Stored | Bytes":
        """Where an array is in the slot, or the array itself if it is elsewhere."""
        return next((_Stored(start, given.shape) for given, start in self._given if given is array), array)


class _Stored(NamedTuple):
    """Where an array is in a slot."""

    start: int
    shape: tuple[int, ...]


class Parcel:
    """A sample on its way from a worker: unpickled, it is the sample."""

    def __init__(self, slots: int, slot: int | None, decoded: Decoded, place: _Place) -> None:
        parts = [place.stored(array) for array in (decoded.frames, decoded.masks) if array is not None]
        self._content = (slots, slot, decoded.index, decoded.views, decoded.spans, parts, decoded.ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, self._content


def _unpacked(
    slots: int,
    slot: int | None,
    index: int,
    views: tuple[View, ...],
    spans: tuple[slice, ...],
    parts: list[_Stored | Bytes],
    ends: tuple[int, ...] | None,
) -> Sample:
    filled = np.empty(0, np.uint8) if slot is None else _open[slots].receive(slot)
    frames, *masks = (
        filled[part.start : part.start + math.prod(part.shape)].reshape(part.shape)
        if isinstance(part, _Stored)
        else part
        for part in parts
    )
    return Decoded(index, views, frames, spans, masks[0] if masks else None, ends).sample()
