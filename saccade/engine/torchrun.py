"""torchrun, for `saccade run`: starts a run's processes, passes on requests to stop, and says truly how they ended.

`python -m saccade.engine.torchrun PROCESSES RUN_DIR` is `torchrun --standalone --nproc-per-node PROCESSES -m
saccade.runner RUN_DIR`, but that
- a request to stop reaches the processes and not their data workers too, and they have all the time that they need;
- the exit code is that of the process that ended first: 2 a user's mistake, 143 stopped, else its own, or its signal.

torchrun's other options are its environment variables, PET_<OPTION>. With PET_NNODES the run is one of many machines.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from saccade.engine.ranks import PEER_GONE
from saccade.engine.stop import STOPPED

__all__ = ["end", "ending", "main", "options"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PROGRAM = ("-m", "saccade.runner")


def options(processes: str) -> list[str]:
    """Options of torchrun for a run.

    Args:
        processes: On this machine.
    """
    # SIGTERM is ours to pass on; its logs would be those of the processes, which write to where we do.
    words = ["--nproc-per-node", processes, "--signals-to-handle", "SIGQUIT", "--log-dir", os.devnull]
    if "PET_NNODES" in os.environ:
        return words
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # The processes need no network to talk to each other.
    return [*words, "--standalone", "--local-addr", "127.0.0.1"]


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Ask the processes to stop; before there are any, there is nothing to stop."""
    processes = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGTERM)
    if not processes:
        sys.exit(STOPPED)


def ending(failures: Mapping[int, ProcessFailure]) -> int:
    """The exit code of a run whose processes have failed, by their numbers; negative: a signal."""
    # In the order in which torchrun has found them. Those that only missed another one come last.
    causes = [failure for failure in failures.items() if failure[1].exitcode != PEER_GONE]
    number, cause = (causes or list(failures.items()))[0]
    if cause.exitcode < 0:
        name = signal.Signals(-cause.exitcode).name
        print(f"saccade: process {number} of the run was ended by {name}", file=sys.stderr, flush=True)
    return cause.exitcode


def main(argv: Sequence[str], program: Sequence[str] = _PROGRAM) -> int:
    """Run to the end; returns the exit code, negative for a signal."""
    processes, folder = argv
    for number in _SIGNALS:
        signal.signal(number, _pass_on)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # tells in tables what we tell in a line
    # torchrun would set 1, and say so.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(processes))))
    try:
        run(parse_args([*options(processes), *program, folder]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return ending(error.failures)
    return 0


def end(code: int) -> None:
    """Leave with an exit code, or by the signal that a negative one stands for."""
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
