"""`saccade bench tracking`: what tracking costs a training step, beside MLflow's client called from the training loop.

The trainer writes a line into its journal; its supervisor sends many lines at a time, from another process. A server is
started for this on a free port of 127.0.0.1, and ended.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
import torch

from saccade.bench.measure import Report, Row, one_thread
from saccade.errors import RunError
from saccade.journal import Journal, read_journal
from saccade.models.encoder import build_encoder
from saccade.run_dir import create_run
from saccade.spec import Spec
from saccade.tracking.shipment import Shipment
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.store import Point, Store

__all__ = ["bench_tracking"]

_NAMES = [
    *(f"pretrain/{name}" for name in ("loss", "loss_saccade", "loss_consistency", "loss_prototype")),
    *("pretrain/positive_probability", "pretrain/prototype_accuracy", "optim/learning_rate", "epoch"),
    *("perf/clips_per_sec", "perf/data_wait_fraction"),
]
"""What a training step logs."""
_WARM_UP = 10


def bench_tracking(*, rounds: int = 7, workers: int = 1, database: str | None = None, steps: int = 50) -> Report:
    """Measure tracking: of a step, of the supervisor, of the server.

    Args:
        rounds: Of which the median counts.
        workers: Processes of the server.
        database: For the server, as an SQLAlchemy address; None: an SQLite file.
        steps: Logged steps a round of MLflow's client, and calls of the server.

    Raises:
        RunError: The server does not start.
    """
    kind = "SQLite" if database is None else database.partition(":")[0]
    settings = {"metrics a step": len(_NAMES), "steps a round": steps, "rounds": rounds}
    report = Report("tracking", {**settings, "server": f"{kind}, {workers} worker{'s' * (workers > 1)}"})
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), workers, database) as (address, server):
        memory = _memory_mb(server)
        report.rows += _of_a_step(Path(folder), address, rounds, steps)
        report.rows.append(_of_the_supervisor(Path(folder), address, rounds, steps))
        report.rows += _of_the_server(Path(folder), address, server, rounds, steps)
        found = {"after its start": memory, "after all calls": _memory_mb(server)}
        report.rows += [_row("the server's memory (PSS)", name, [value], "MB") for name, value in found.items()]
    return report


def _row(group: str, name: str, values: Sequence[float], unit: str, baseline: Sequence[float] | None = None) -> Row:
    ratio = None if baseline is None else median(theirs / ours for theirs, ours in zip(baseline, values, strict=True))
    return Row(group, name, median(values), unit, ratio, tuple(values))


def _of_a_step(folder: Path, address: str, rounds: int, steps: int) -> list[Row]:
    """Time that a logged step waits for, and the least that a step of the quickstart takes."""
    values = dict.fromkeys(_NAMES, 0.5)
    file = f"sqlite:///{folder / 'direct.db'}"
    calls = [_client_log(uri, folder) for uri in (address, file)]
    journal = Journal.open(folder / "journal.jsonl", mark=None, attempted=0)
    calls.append(journal.metrics)
    found: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, times in zip(calls, found, strict=True):
            first = 1 + turn * steps
            times.append(_wall_ms(lambda call=call, first=first: [call(values, first + step) for step in range(steps)]))  # type: ignore[misc]
    journal.close()
    client, direct, ours = ([each / steps for each in times[1:]] for times in found)
    with one_thread():
        step = [_forward_backward_ms() for _ in range(rounds + 1)][1:]
    group, unit = "a step waits for", "ms"
    return [
        _row(group, "MLflow's client, to the server", client, unit),
        _row(group, "MLflow's client, to an SQLite file", direct, unit, client),
        _row(group, "a line of the journal (used)", ours, unit, client),
        _row("a step of the quickstart", "forward and backward of its encoder alone, one thread", step, "ms"),
        _row("of that", "a line of the journal", [100 * a / b for a, b in zip(ours, step, strict=True)], "%"),
    ]


def _client_log(uri: str, folder: Path) -> Callable[[dict[str, float], int], object]:
    """What a training loop would call without us: all metrics of a step in one request."""
    store, run_id = _new_run(uri, folder, "steps")

    def log(values: dict[str, float], step: int) -> None:
        store.log(run_id, [Point(name, value, step, step) for name, value in values.items()], {})

    return log


def _new_run(uri: str, folder: Path, what: str) -> tuple[Store, str]:
    store = Store(uri, folder)
    return store, store.client.create_run(store.open_experiment(f"{what} {time.time_ns()}")).info.run_id


def _forward_backward_ms() -> float:
    encoder = build_encoder("r3d", width=16)
    clips = torch.rand(16, 3, 8, 24, 24, generator=torch.Generator().manual_seed(0))
    encoder(clips).sum().backward()
    return _wall_ms(lambda: encoder(clips).sum().backward())


def _of_the_supervisor(folder: Path, address: str, rounds: int, steps: int) -> Row:
    """CPU time of this process while it sends what a trainer has logged."""
    times = []
    for turn in range(rounds + 1):
        run = create_run(folder / f"runs{turn}", Spec(name="bench"), [])
        with Journal.open(run.journal, mark=None, attempted=0) as journal:
            for step in range(1, steps + 1):
                journal.metrics(dict.fromkeys(_NAMES, 0.5), step)
        end = max(end for _, end in read_journal(run.journal))
        state = ShippingState(folder=run.path, tracking_uri=address, experiment="bench")
        shipment = Shipment(run, state, address, lambda _: None, attempt=None)
        shipment.step()  # It opens the run.
        began = time.process_time()
        while state.offset < end and shipment.step():
            pass
        times.append(1e3 * (time.process_time() - began) / steps)
    return _row("the supervisor, beside training", "CPU time of a logged step", times[1:], "ms")


def _of_the_server(folder: Path, address: str, server: psutil.Process, rounds: int, calls: int) -> list[Row]:
    store, run_id = _new_run(address, folder, "calls")
    log_metric = store.client.log_metric
    one, batch, cpu = [], [], []
    for turn in range(rounds + 1):
        steps = range(turn * calls, (turn + 1) * calls)
        began = _cpu_sec(server)
        times = [_wall_ms(lambda step=step: log_metric(run_id, "loss", 0.5, step, step)) for step in steps]  # type: ignore[misc]
        cpu.append(1e3 * (_cpu_sec(server) - began) / calls)
        points = [Point("batch", 0.5, step, step) for step in range(1000 * turn, 1000 * (turn + 1))]
        batch.append(_wall_ms(lambda points=points: store.log(run_id, points, {})))  # type: ignore[misc]
        one += times[_WARM_UP:] if not turn else times
    group = "the server, one call"
    return [
        _row(group, "log_metric, p50", one, "ms"),
        _row(group, "log_metric, p99", [sorted(one)[int(0.99 * len(one))]], "ms"),
        _row(group, "log_metric, the server's CPU time", cpu[1:], "ms"),
        _row(group, "log_batch of 1000 points", batch[1:], "ms"),
    ]


def _wall_ms(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - began)


# The server -----------------------------------------------------------------------------------------------------------


@contextmanager
def _server(folder: Path, workers: int, database: str | None) -> Iterator[tuple[str, psutil.Process]]:
    """`saccade server` in a process of its own: its address, and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["server", "--runs", str(folder), "--port", str(port), "--workers", str(workers)]
    environment = {**os.environ, **({"MLFLOW_BACKEND_STORE_URI": database} if database else {})}
    command = [sys.executable, "-c", "from saccade.cli import main; main()", *options]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        if not server.stdout.readline():
            raise RunError("the server did not start; what it says is above")
        yield f"http://127.0.0.1:{port}", psutil.Process(server.pid)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def _family(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def _memory_mb(server: psutil.Process) -> float:
    """What its processes take of the machine's memory, each shared page counted once."""
    return float(sum(process.memory_full_info().pss for process in _family(server))) / 1e6


def _cpu_sec(server: psutil.Process) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in _family(server)))
