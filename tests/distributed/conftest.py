"""Several processes of a run, forked from one that has imported everything: imports are most of a tiny run."""

import multiprocessing
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

RANKED = Path(__file__).with_name("ranked.py")
PRELOADED = ["saccade.runner", "saccade.engine.torchrun"]
SECONDS = 120
"""Far more than any of it takes; a hang is a failure."""


@pytest.fixture(scope="session")
def together() -> Callable[..., list[int | None]]:
    """Do a task of ranked.py in `size` processes: (task, size, **arguments) to their exit codes."""

    def run(task: str, size: int, **arguments: Any) -> list[int | None]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        # Held by us, as torchrun would: it outlives the processes.
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        given = {"SIZE": size, "PORT": store.port, "TASK": task, "ARGUMENTS": arguments}
        processes = [
            context.Process(
                target=runpy.run_path, args=(str(RANKED),), kwargs={"init_globals": {**given, "RANK": rank}}
            )
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=SECONDS)
        hanging = [process for process in processes if process.exitcode is None]
        for process in hanging:
            process.kill()
            process.join()
        assert not hanging
        return [process.exitcode for process in processes]

    return run
