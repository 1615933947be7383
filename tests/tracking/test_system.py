"""Samples of the machine: what they say of a process that is known, and that the server gets each of them once."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from saccade.journal import read_journal
from saccade.run_dir import create_run
from saccade.spec import Spec, TrackingSpec
from saccade.supervisor import supervise
from saccade.tracking.store import Store
from saccade.tracking.sync import sync_run
from saccade.tracking.system import SYSTEM_FILE, SystemSampler

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

STUB = Path(__file__).parent.parent / "trainer_stub.py"
# 300 MB in a child of the process, which both go on for ever.
LARGE = """
import os, sys, time
child = os.fork()
if child == 0:
    held = bytearray(b"x") * 300_000_000
    print(len(held), flush=True)
while True:
    {}
"""


def samples(folder: Path) -> list[dict[str, Any]]:
    return [event for event, _ in read_journal(folder / SYSTEM_FILE)]


@pytest.fixture
def sample(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Sample a process until there are `count` samples more; gives all there are."""

    def take(pid: int, count: int) -> list[dict[str, Any]]:
        before, said = len(samples(tmp_path)), list[str]()
        sampler = SystemSampler(tmp_path, pid, 0.2, said.append)
        sampler.start()
        deadline = time.monotonic() + 30
        while len(samples(tmp_path)) < before + count and time.monotonic() < deadline:
            time.sleep(0.02)
        sampler.finish()
        assert said == []
        return samples(tmp_path)

    return take


@pytest.mark.parametrize(("doing", "low", "high"), [("time.sleep(1)", 0, 3), ("pass", 4, 230)])
def test_a_process_with_its_child(
    sample: Callable[..., list[dict[str, Any]]], doing: str, low: float, high: float
) -> None:
    with subprocess.Popen([sys.executable, "-c", LARGE.format(doing)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"300000000\n"
            values = sample(process.pid, 3)[-1]["values"]
        finally:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
    # Two that do nothing but count keep two cores busy where these are free.
    assert low <= values["system/trainer_cpu_percentage"] <= high
    assert 300 <= values["system/trainer_memory_megabytes"] < 360
    total = 100 * values["system/system_memory_usage_megabytes"] / values["system/system_memory_usage_percentage"]
    assert values["system/trainer_memory_megabytes"] < total
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/disk_usage_percentage"] <= 100
    assert values["system/disk_available_megabytes"] > 0
    assert set(values) == {
        f"system/{name}"
        for name in (
            *("cpu_utilization_percentage", "trainer_cpu_percentage", "trainer_memory_megabytes"),
            *("system_memory_usage_megabytes", "system_memory_usage_percentage"),
            *("disk_usage_percentage", "disk_available_megabytes"),
        )
    }


def test_samples_count_on_and_a_torn_one_goes(sample: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        first = len(sample(process.pid, 2))
        with open(tmp_path / SYSTEM_FILE, "ab") as file:
            file.write(b'{"t": 1, "kind": "metr')
        events = sample(process.pid, 1)
        process.communicate(b"\n")
    assert len(events) > first
    assert [event["step"] for event in events] == list(range(len(events)))
    assert [event["t"] for event in events] == sorted(event["t"] for event in events)
    # Of a process that is gone the machine alone is said.
    assert not any("trainer" in name for name in sample(process.pid, 1)[-1]["values"])


def test_of_a_process_that_has_ended_and_is_not_waited_for_nothing_is_said(
    sample: Callable[..., list[dict[str, Any]]],
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not any("trainer" in name for name in sample(process.pid, 1)[-1]["values"])


class Nvml(SimpleNamespace):
    """Three GPUs, of which the second does not know its power."""

    class NVMLError(Exception):
        pass

    nvmlInit = nvmlShutdown = lambda self: None  # noqa: N815

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        if not uuid.startswith("GPU-"):
            raise self.NVMLError
        return int(uuid[-1])

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=(device + 1) * 10**9, total=8 * 10**9)

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=10 * device, memory=0)

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:  # noqa: N802
        if device == 1:
            raise self.NVMLError
        return 1000 * (device + 5)


@pytest.mark.parametrize(("visible", "devices"), [(None, [0, 1, 2]), ("2,1", [2, 1]), ("GPU-2,MIG-x", [2]), ("", [])])
def test_the_gpus_that_the_trainer_sees(
    sample: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    devices: list[int],
) -> None:
    find = importlib.util.find_spec
    found = importlib.machinery.ModuleSpec("pynvml", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == "pynvml" else find(name))
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())  # type: ignore[arg-type]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    values = {name: value for name, value in sample(1, 1)[-1]["values"].items() if "gpu" in name}
    expected: dict[str, float] = {}
    for number, device in enumerate(devices):
        expected[f"system/gpu_{number}_utilization_percentage"] = 10 * device
        expected[f"system/gpu_{number}_memory_usage_megabytes"] = 1000 * (device + 1)
        expected[f"system/gpu_{number}_memory_usage_percentage"] = 12.5 * (device + 1)
        if device != 1:
            expected[f"system/gpu_{number}_power_usage_watts"] = device + 5
    assert values == expected


def test_every_sample_is_on_the_server_once(server: str, root: Path) -> None:
    run = create_run(root, Spec(name="toy", tracking=TrackingSpec(system_metrics_sec=1)), ["saccade"])

    def train(actions: list[Any], resume: bool) -> None:
        command = [sys.executable, str(STUB), json.dumps(actions)]
        assert supervise(run, resume=resume, tracking_uri=server, experiment="system", command=command) == 0

    train([["sleep", 2.5]], False)
    train([["sleep", 1.5]], True)
    # One that came when nobody shipped any more.
    with open(run.path / SYSTEM_FILE, "a") as file:
        late = {"t": 1, "kind": "metrics", "step": 100, "values": {"system/cpu_utilization_percentage": 7.5}}
        file.write(json.dumps(late) + "\n")
    state = json.loads((run.path / "shipping.json").read_text())
    (run.path / "shipping.json").write_text(json.dumps({**state, "complete": False}))
    assert sync_run(run, patience_sec=20) == ""
    written = samples(run.path)
    assert len(written) >= 4
    client = Store(server, root).client
    for name in ("system/cpu_utilization_percentage", "system/disk_available_megabytes"):
        points = client.get_metric_history(state["mlflow_run_id"], name)
        expected = [(each["step"], each["t"], each["values"][name]) for each in written if name in each["values"]]
        assert sorted((point.step, point.timestamp, point.value) for point in points) == expected


def test_without_samples(server: str, root: Path) -> None:
    run = create_run(root, Spec(name="toy", tracking=TrackingSpec(system_metrics_sec=None)), ["saccade"])
    command = [sys.executable, str(STUB), json.dumps([["sleep", 2.5]])]
    assert supervise(run, resume=False, tracking_uri=server, experiment="system", command=command) == 0
    assert not (run.path / SYSTEM_FILE).exists()
