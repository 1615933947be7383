"""Watching data workers: one that dies or hangs ends the training with one line that says what to do.

PyTorch's loader answers a worker's death with an exception in the midst of whatever the process is doing, be it the
writing of a checkpoint, and waits for ever for a worker that hangs. Here both are found while a sample is waited for,
where nothing is half done.
"""

import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from saccade.errors import RunError

__all__ = ["POLL_SEC", "WorkerError", "own_child_signals", "quiet_about_cores", "watched"]

POLL_SEC = 1.0
"""The loader's own time limit: so often it is looked whether all workers are well."""

_MOMENT_SEC = 1.0
_RESUME = "; then resume the run"


class WorkerError(RunError):
    """A data worker has died or hangs. Nothing is wrong with what was trained so far."""


def watched(loader: "DataLoader[Any]", patience_sec: float, expected: Callable[[], str]) -> Iterator[Any]:
    """Samples of a loader whose time limit is `POLL_SEC`, or that has no workers.

    Its workers end with this iterator, those that hang included.

    Args:
        loader: Not begun yet.
        patience_sec: How long a sample may take to come.
        expected: What is waited for, for the message.

    Raises:
        WorkerError: A worker has died, or nothing has come for so long.
    """
    if not loader.num_workers:
        yield from loader
        return
    others = set(multiprocessing.active_children())
    with own_child_signals(), quiet_about_cores():
        samples = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    try:
        since = time.monotonic()
        while True:
            try:
                sample = next(samples)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # the loader's, if it is about a worker
                _look(workers, error, time.monotonic() - since, patience_sec, expected)
                continue
            yield sample
            since = time.monotonic()
    except BaseException:
        # The loader asks its workers to end and waits 5 s for each, and for one that is stopped for ever.
        for worker in workers:
            worker.kill()
        raise


@contextmanager
def quiet_about_cores() -> Iterator[None]:
    """Keep torch from a paragraph on more workers than cores at each start: `saccade plan` says it in a line."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


@contextmanager
def own_child_signals() -> Iterator[None]:
    """Keep the loader from setting a handler that raises when a worker has died."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where it cannot set one
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _look(
    workers: list[BaseProcess], error: Exception, waited_sec: float, patience_sec: float, expected: Callable[[], str]
) -> None:
    """Find out why the loader has given nothing; returns if there is no more to it than that it takes long."""
    late = str(error).startswith("DataLoader timed out")
    if not late or any(worker.exitcode is not None for worker in workers):
        # Who ends all processes at once (SLURM) asks this one to stop too, and that comes first; and a worker that has
        # broken off in the midst of handing something over is still ending.
        time.sleep(_MOMENT_SEC)
    codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
    if codes:
        raise WorkerError(_death(codes[0], len(workers))) from None
    if not late:
        raise error
    if waited_sec > patience_sec:
        raise WorkerError(
            f"no data worker has handed over {expected()} for {patience_sec:.0f} s: one hangs. Look at the disk or "
            f"network that holds data.root, or raise engine.data_patience_sec{_RESUME}"
        ) from None


def _death(code: int, count: int) -> str:
    """What has ended a worker, and what to do."""
    if code >= 0:
        return f"a data worker has ended by itself (exit code {code}); its last words are above{_RESUME}"
    name = signal.Signals(-code).name
    remedy = {
        "SIGKILL": f"most likely by the kernel, for want of memory: lower engine.workers (there were {count}) or "
        "pretrain.batch_size, or ask for more memory (sbatch --mem, docker run --memory)",
        "SIGBUS": "by a file that has become shorter or a disk that fails: look with saccade data check",
        "SIGTERM": "from outside",
    }.get(name, "a fault in a library: with engine.workers=0 it shows where")
    return f"a data worker was ended by {name}, {remedy}{_RESUME}"
