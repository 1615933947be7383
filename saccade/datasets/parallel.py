"""Videos in worker processes: results as they come, Ctrl-C in good order, no worker that outlives its parent."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import cv2

from saccade.errors import DataError

__all__ = ["in_processes", "keep_freed_memory"]

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


_KEPT_BYTES = 1 << 28


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, up to 256 MiB.

    What belongs to a frame is a little above the size from which glibc gives memory back at once. A quarter of the time
    of a gaze went into page faults of memory that had just been given back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, and do as they do
    if mallopt is not None:
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
            mallopt(parameter, _KEPT_BYTES)


def _start_worker() -> None:
    """Set up a worker process: one thread, gone when its parent is gone, Ctrl-C left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    keep_freed_memory()
    # A killed parent cannot tell its workers; without this they would wait for work for ever.
    threading.Thread(target=_watch_parent, daemon=True).start()


@contextmanager
def _ctrl_c_is_not_inherited() -> Iterator[None]:
    """For the time in which workers are started: before `_start_worker` they would answer Ctrl-C with a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
        with _ctrl_c_is_not_inherited():
            futures = [pool.submit(function, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise DataError(
            f"a worker died while {doing}, of lack of memory or by a fault of the decoder; run the same again to go on "
            "with the rest, with 1 worker to see which video it is"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
