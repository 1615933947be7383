"""How a run of several processes ends, for whoever has started it; and one from its spec to its end."""

import multiprocessing
import os
import runpy
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from saccade import supervisor
from saccade.engine.torchrun import ending, options
from saccade.run_dir import create_run
from saccade.spec_reader import parse_spec
from saccade.tracking.shipping_state import ShippingState

from .conftest import PRELOADED, SECONDS
from .test_together import SPEC, Together, assert_close, data, events  # noqa: F401 - a fixture

HERE = Path(__file__).parent


def launch(folder: Path, *what: str) -> ForkServerProcess:
    """torchrun with a stub for each process, which does what it is told."""
    for rank, words in enumerate(what):
        (folder / f"{rank}.txt").write_text(words)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    given = {"PROGRAM": str(HERE / "stub.py"), "ARGUMENTS": [str(len(what)), str(folder)]}
    process = context.Process(target=runpy.run_path, args=(str(HERE / "launched.py"),), kwargs={"init_globals": given})
    process.start()
    return process


def ended(process: ForkServerProcess) -> int | None:
    process.join(timeout=SECONDS)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("exit 75 when told", "exit 2", 2),
        ("exit 75 when told", "kill", -signal.SIGKILL),
    ],
)
def test_the_exit_code_is_that_of_the_process_that_ended_first(
    tmp_path: Path, first: str, second: str, code: int
) -> None:
    assert ended(launch(tmp_path, first, second)) == code


def test_a_request_to_stop_is_passed_on(tmp_path: Path) -> None:
    process = launch(tmp_path, "exit 143 when told", "exit 143 when told")
    deadline = time.monotonic() + SECONDS
    while not all((tmp_path / f"{rank}.pid").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 143


def test_all_that_only_missed_another_one(capsys: pytest.CaptureFixture[str]) -> None:
    def failed(*codes: int) -> dict[int, ProcessFailure]:
        return {rank: ProcessFailure(rank, 1, code, "") for rank, code in enumerate(codes) if code}

    assert ending(failed(75, 75)) == 75  # the one that has ended was on another machine
    assert ending(failed(75, 3)) == 3  # found before the one that it has missed
    assert ending(failed(0, 143)) == 143
    assert capsys.readouterr().err == ""
    assert ending(failed(75, -signal.SIGSEGV)) == -signal.SIGSEGV
    assert capsys.readouterr().err == "saccade: process 1 of the run was ended by SIGSEGV\n"


def test_one_of_many_machines_meets_the_others_where_torchruns_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--standalone" in options("2")
    monkeypatch.setenv("PET_NNODES", "2")
    assert "--standalone" not in options("2")
    assert options("2")[:2] == ["--nproc-per-node", "2"]


def test_a_run_of_two_processes(
    tmp_path: Path,
    data: Path,  # noqa: F811
    together: Together,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        supervisor, "_CONNECT_SEC", 0.1
    )  # The server is away, as it may be: that is not the point here.
    away: dict[str, Any] = {"tracking_uri": "http://127.0.0.1:9", "patience_sec": 0.0}
    # In single precision, where at the method's rate differences of the last digit grow a thousandfold in ten steps, as
    # they do between one and two threads of one process.
    overrides = ["pretrain.learning_rate=1e-6", "evaluation.retrieval.enabled=false"]
    overrides += [f"evaluation.{name}.enabled=false" for name in ("linear_probe", "finetune")]
    specs = [parse_spec(SPEC.format(root=data), "x.yaml", [*overrides, f"engine.processes={n}"]) for n in (1, 2)]
    alone, two = (create_run(tmp_path / "runs", spec, ["saccade", "run"]) for spec in specs)
    assert together("train", 1, folder=str(alone.path)) == [0]
    assert supervisor.supervise(two, resume=False, experiment="x", quiet=True, package=False, **away) == 0

    state = ShippingState.load(two.path)
    assert state is not None
    assert state.outcome is not None
    assert state.outcome.status == "FINISHED"
    assert [event["number"] for event in events(two.path, "attempt")] == [1]
    assert [event["name"] for event in events(two.path, "stage")] == [
        event["name"] for event in events(alone.path, "stage")
    ]
    assert_close(alone.path, two.path, 1e-5, momentum=False)  # of gradients, most of whose digits cancel
    assert (two.path / "figures/curves.png").exists()
    log = two.log.read_text()
    assert "Traceback" not in log
    assert log.count("saccade: pretrain") == 1
