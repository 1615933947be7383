"""Stop requests: by signal, by the end of the supervisor, and never in a data worker."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from saccade.engine.stop import SUPERVISED_VARIABLE, Stopped, StopRequest
from saccade.prototypes import fit_prototypes

TRAINER = """
import os, sys, time
from saccade.engine.stop import Stopped, StopRequest
stop = StopRequest()
stop.install()
print("ready", flush=True)
try:
    for _ in range(1000):
        stop.check()
        time.sleep(0.01)
except Stopped as reason:
    print(reason, flush=True)
    sys.exit(143)
"""


def start(supervised: bool) -> "subprocess.Popen[str]":
    environment = {**os.environ, SUPERVISED_VARIABLE: "1" if supervised else "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    process = start(supervised=True)
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == f"it was sent {number.name}\n"
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_the_end_of_the_supervisor_is_a_request() -> None:
    process = start(supervised=True)
    output, _ = process.communicate(timeout=20)  # Closes the pipe first.
    assert (process.returncode, output) == (143, "its supervisor ended\n")


def test_without_a_supervisor_the_end_of_input_says_nothing() -> None:
    process = start(supervised=False)
    assert process.stdin is not None
    process.stdin.close()
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=20) == 143
    assert process.stdout is not None
    process.stdout.close()


def test_a_forked_worker_ends_at_once() -> None:
    stop = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop.install()
    try:
        ready, tell = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.write(tell, b"x")
            time.sleep(30)
            os._exit(0)
        os.read(ready, 1)
        os.kill(worker, signal.SIGTERM)
        _, status = os.waitpid(worker, 0)
        os.close(ready)
        os.close(tell)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert not stop.requested


def test_the_first_reason_stays() -> None:
    stop = StopRequest()
    stop.check()
    stop.request("one")
    stop.request("two")
    with pytest.raises(Stopped, match="one"):
        stop.check()


def in_a_moment(number: signal.Signals) -> None:
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()


def test_at_once_leaves_k_means_of_faiss(own_signals: None) -> None:
    """The published setting's, minutes of which are one call of a C++ library."""
    stop = StopRequest()
    stop.install()
    features = np.random.default_rng(5).standard_normal((20_000, 64), np.float32)
    in_a_moment(signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(Stopped, match="it was sent SIGTERM"), stop.at_once():
        fit_prototypes(features, 500, seed=1, temperature=0.1, seeding="random", iterations=100_000)
    assert time.monotonic() - began < 10


def test_at_once_leaves_a_wait_and_only_once(own_signals: None) -> None:
    stop = StopRequest()
    stop.install()

    def slow() -> Iterator[int]:
        yield 1
        time.sleep(30)

    waiting = stop.while_waiting(slow())
    assert next(waiting) == 1
    in_a_moment(signal.SIGINT)
    with pytest.raises(Stopped, match="it was sent SIGINT"):
        next(waiting)
    os.kill(os.getpid(), signal.SIGTERM)  # while what there is is saved
    with pytest.raises(Stopped, match="it was sent SIGINT"), stop.at_once():
        pass


def test_one_of_several_processes_leaves_with_the_others(own_signals: None) -> None:
    stop = StopRequest()
    stop.install()
    stop.alone = False
    with stop.at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    assert list(stop.while_waiting([1, 2])) == [1, 2]
    assert stop.requested
