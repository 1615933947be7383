"""Time of one call to the tracking server, and its memory.

    python benchmarks/tracking_server.py [--workers N] [--database postgresql://...] [--calls N]

Starts `saccade server` on a free port of 127.0.0.1, on an SQLite file in a temporary folder or on the database given,
and ends it. Memory is the proportional set size (PSS) of the server's processes, `saccade` and MLflow's own, before the
calls and after them. Calls are those of MLflow's client, one after the other, in a run of a new experiment. On a
machine that is busy with other things the quickest call and the CPU time say more than the p50.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from saccade.tracking.store import quiet_client

CALLS, WARM_UP = 500, 50


def measure(address: str, calls: int, server: psutil.Process) -> None:
    """Print the times and the memory of the server at an address."""
    quiet_client()
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(address)
    run_id = client.create_run(client.create_experiment(f"benchmark {time.time()}")).info.run_id
    print(f"memory before      {memory_mb(server):6.0f} MB (PSS of {len(family(server))} processes)")
    times, cpu = [], cpu_sec(server)
    for step in range(WARM_UP + calls):
        began = time.perf_counter()
        client.log_metric(run_id, "loss", 1 / (1 + step), timestamp=step, step=step)
        times.append((time.perf_counter() - began) * 1e3)
    cpu = (cpu_sec(server) - cpu) / len(times) * 1e3
    times = sorted(times[WARM_UP:])
    print(f"log_metric, p50    {statistics.median(times):6.1f} ms ({calls} calls)")
    print(f"log_metric, least  {times[0]:6.1f} ms; {cpu:.1f} ms of the server's CPU time a call")
    print(f"log_metric, p99    {times[int(0.99 * len(times))]:6.1f} ms")
    for size in (100, 1000):
        points = [Metric("batch", 0.5, index, index) for index in range(size)]
        began = time.perf_counter()
        client.log_batch(run_id, points)
        print(f"log_batch of {size:<5} {(time.perf_counter() - began) * 1e3:6.1f} ms")
    print(f"memory after       {memory_mb(server):6.0f} MB")


def family(server: psutil.Process) -> list[psutil.Process]:
    """A process and all that descend from it."""
    return [server, *server.children(recursive=True)]


def memory_mb(server: psutil.Process) -> float:
    """What a server takes of the machine's memory, each shared page counted once."""
    return sum(process.memory_full_info().pss for process in family(server)) / 1e6


def cpu_sec(server: psutil.Process) -> float:
    """CPU time that a server has used."""
    return sum(sum(process.cpu_times()[:2]) for process in family(server))


def main() -> None:
    """Start it, measure, end it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--database")
    parser.add_argument("--calls", type=int, default=CALLS)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "saccade"), "server", "--runs", folder, "--port", str(port)]
        command += ["--workers", str(options.workers)]
        environment = {**os.environ, **({"MLFLOW_BACKEND_STORE_URI": options.database} if options.database else {})}
        began = time.perf_counter()
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            said = server.stdout.readline().strip()
            print(f"{said}\nstart              {time.perf_counter() - began:6.1f} s")
            if said:
                measure(f"http://127.0.0.1:{port}", options.calls, psutil.Process(server.pid))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


if __name__ == "__main__":
    main()
