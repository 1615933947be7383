"""The processes that train one run together, each on its share of every batch. torchrun starts them.

All of them run the same program and come to the same numbers, so that what one of them writes down is true for all:
files are written by the first one alone. With one process every function here does nothing and costs nothing.

A batch is worked at in parts, one after the other (gradient accumulation), and each part by all processes at once: of
`parts * size()` equal pieces in the order of the batch, process r has the pieces r, size() + r, ...
"""

import ctypes
import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from saccade.engine.stop import StopRequest

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = [
    "PEER_GONE",
    "PeerGoneError",
    "asked_to_stop",
    "exchange",
    "first",
    "first_only",
    "first_to_say",
    "from_first",
    "gather",
    "gather_to_first",
    "in_turn",
    "join",
    "leave",
    "local_size",
    "mean",
    "own_rows",
    "rank",
    "share",
    "size",
    "total",
    "wait",
    "whole",
]

P = ParamSpec("P")
T = TypeVar("T")

_STEP = timedelta(minutes=30)
"""A process that is so much behind the others is taken for lost."""
_WORK = timedelta(days=365)
"""What the first process does alone (k-means, reports) takes as long as it takes."""
_PR_SET_PDEATHSIG = 1


PEER_GONE = 75
"""Exit code of a process that could not go on without another one, which is the one to ask why."""


class PeerGoneError(Exception):
    """Another process of the run has ended, so this one cannot go on."""

    @classmethod
    def of(cls, error: Exception) -> "PeerGoneError":
        """For an error of what all processes do at once."""
        return cls(f"lost another process of the run: {str(error).splitlines()[0]}")


@dataclass(frozen=True)
class _Group:
    rank: int
    size: int
    store: "Store"
    """Shared by all processes, held by torchrun."""
    patient: dist.ProcessGroup
    """For waits on what the first process does alone."""


_group: _Group | None = None


def join() -> None:
    """Join the others, if torchrun has started this process as one of several; all of them call it first.

    Tensors on the CPU then travel by gloo, those on a GPU by NCCL, and this process's GPU is the current one.
    """
    global _group
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    # Processes without the one that started them, which was killed, would be nobody's.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        if int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _together():
        store, own_rank, count = next(iter(rendezvous("env://", timeout=_STEP)))
        dist.init_process_group(backend, store=store, rank=own_rank, world_size=count, timeout=_STEP)
        patient = dist.new_group(backend="gloo", timeout=_WORK)
    _group = _Group(own_rank, count, store, patient)


def leave() -> None:
    """Part from the others, when all is done."""
    global _group
    if _group is not None:
        dist.destroy_process_group()
        _group = None


def rank() -> int:
    """Number of this process, from 0."""
    return 0 if _group is None else _group.rank


def size() -> int:
    """How many processes there are, on all machines."""
    return 1 if _group is None else _group.size


def local_size() -> int:
    """How many of them are on this machine."""
    return 1 if _group is None else int(os.environ["LOCAL_WORLD_SIZE"])


def first() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def first_only(function: Callable[P, None]) -> Callable[P, None]:
    """A function that only writes files: the first process does it, the others go on at once."""

    @functools.wraps(function)
    def by_first(*args: P.args, **kwargs: P.kwargs) -> None:
        if first():
            function(*args, **kwargs)

    return by_first


def first_to_say() -> bool:
    """Whether no other process has asked this before: of a mistake that several meet, one is to tell."""
    if _group is None:
        return True
    try:
        return bool(_group.store.add("saccade/said", 1) == 1)
    except RuntimeError:  # The store is gone, and with it torchrun and the other processes.
        return True


def from_first(compute: Callable[[], T]) -> T:
    """What the first process computes, for all; the others wait for it, however long it takes."""
    if _group is None:
        return compute()
    value = [compute() if first() else None]
    with _together():
        dist.broadcast_object_list(value, src=0, group=_group.patient)
    return value[0]  # type: ignore[return-value]


def in_turn(read: Callable[[], T]) -> T:
    """What each process reads for itself; the first one before the others, for it may put things in order."""
    if first():
        value = read()
        wait()
        return value
    wait()
    return read()


def wait() -> None:
    """Wait until all have come here, however long it takes."""
    if _group is not None:
        with _together():
            dist.barrier(group=_group.patient)


def asked_to_stop(stop: StopRequest) -> bool:
    """Whether any process was asked to stop: all ask at once and get the same answer, which `stop` then knows too."""
    if _group is None:
        return stop.requested
    asked = torch.tensor([int(stop.requested)])
    with _together():
        dist.all_reduce(asked, dist.ReduceOp.MAX)
    if asked.item():
        stop.request("another process of the run was asked to stop")
    return bool(asked.item())


def total(values: Tensor) -> Tensor:
    """The sum over all processes, as a new tensor."""
    if _group is None:
        return values
    values = values.detach().clone(memory_format=torch.contiguous_format)
    with _together():
        dist.all_reduce(values)
    return values


def mean(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means over all processes of scalars."""
    if _group is None:
        return values
    means = total(torch.stack([value.detach().double() for value in values.values()])) / size()
    return dict(zip(values, means.unbind(), strict=True))


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes `[size * R, ...]`, in the order of the processes, from as many `[R, ...]` in each."""
    if _group is None:
        return rows
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(size())]
    with _together():
        dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def gather_to_first(rows: Tensor) -> Tensor:
    """What `gather` gives, on the CPU of the first process; in the others nothing, `[0, ...]`."""
    if _group is None:
        return rows
    own = rows.detach().cpu().contiguous()
    parts = [torch.empty_like(own) for _ in range(size())] if first() else None
    with _together():
        dist.gather(own, parts, dst=0, group=_group.patient)
    return own[:0] if parts is None else torch.cat(parts)


def exchange(rows: Tensor, counts: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Send each process its rows, in the order of the processes: `counts[r]` to process r.

    Returns:
        The rows that all have sent to this one, in the order of the processes, and how many are from each.
    """
    received = torch.empty(size(), dtype=torch.int64)
    with _together():
        dist.all_to_all_single(received, torch.tensor(counts))
        from_each = received.tolist()
        got = rows.new_empty(sum(from_each), *rows.shape[1:])
        dist.all_to_all_single(got, rows.contiguous(), from_each, list(counts))
    return got, from_each


def share(batch: Sequence[T], parts: int = 1) -> list[T]:
    """This process's items of a batch that is worked at in `parts` parts, one part after the other."""
    rows = len(batch) // (parts * size())
    starts = [(part * size() + rank()) * rows for part in range(parts)]
    return [item for start in starts for item in batch[start : start + rows]]


def whole(rows: Tensor, parts: int = 1) -> Tensor:
    """The rows of a whole batch in its order, `[size * R, ...]`, from those of each process's `share`, `[R, ...]`."""
    if _group is None:
        return rows
    return gather(rows).view(size(), parts, -1, *rows.shape[1:]).transpose(0, 1).flatten(0, 2)


def own_rows(batch: Tensor, part: int = 0, parts: int = 1) -> Tensor:
    """This process's rows in one part of a batch: a piece of `[M, ...]`."""
    return batch.chunk(parts * size())[part * size() + rank()]


@contextmanager
def _together() -> Iterator[None]:
    """What all processes do at once fails when one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise PeerGoneError.of(error) from None
