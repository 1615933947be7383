"""Stop requests: by signal, by the end of the supervisor, and never in a data worker."""

import os
import signal
import subprocess
import sys
import time

import pytest

from saccade.engine.stop import SUPERVISED_VARIABLE, Stopped, StopRequest

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
