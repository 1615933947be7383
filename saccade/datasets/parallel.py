"""Videos in worker processes: results as they come, Ctrl-C in good order, no worker that outlives its parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from saccade.errors import DataError

__all__ = ["in_processes"]

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker() -> None:
    """Set up a worker process: one thread, gone when its parent is gone, Ctrl-C left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    # A killed parent cannot tell its workers; without this they would wait for work for ever.
    threading.Thread(target=_watch_parent, daemon=True).start()


def in_processes(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], *, workers: int | None, doing: str
) -> Iterator[Outcome]:
    """What `function` gives for each job, in the order in which they are finished.

    Args:
        function: At the top of its module, for the workers to find it.
        jobs: One for each video.
        workers: Processes, one per core when None; a single one does the work in this process.
        doing: What is done, for the message about a worker that died: "decoding".

    Raises:
        DataError: A worker died.
    """
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers < 2:
        yield from map(function, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(function, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise DataError(
            f"a worker died while {doing}, of lack of memory or by a fault of the decoder; run the same again to go on "
            "with the rest, with 1 worker to see which video it is"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
