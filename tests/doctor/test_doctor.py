"""`saccade doctor`: each problem is found and has a remedy, nothing hangs, no password is printed."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from saccade.doctor import driver, machine, places, software
from saccade.doctor.checks import BAD, OK, WARN, Check, run_checks
from saccade.tracking.probe import ServerState

Saccade = Callable[..., tuple[int, str, str]]
GIB = 2**30


def found(checks: Iterator[Check]) -> dict[str, tuple[str, str]]:
    return {check.name: (check.state, check.found) for check in checks}


def one(checks: Iterator[Check]) -> Check:
    (check,) = checks
    # Whatever is not right has a remedy, and what is right needs none.
    assert bool(check.remedy) == (check.state != OK)
    return check


def test_the_command(
    saccade: Saccade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_toy: Callable[..., Path]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "joe")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim")
    refused = ("--tracking-uri", "http://ann:topsecret@127.0.0.1:9")
    code, out, err = saccade("doctor", *refused, "--data", str(make_toy()), "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert (code, err) == (1, "")
    assert checks["tracking"] == {
        "name": "tracking",
        "state": "bad",
        "found": "http://127.0.0.1:9: nothing listens there",
        "remedy": "start the server (saccade server), or set MLFLOW_TRACKING_URI",
    }
    assert "secret" not in out
    assert "geheim" not in out
    # Here all else works, or the tests would not run.
    assert {name for name, check in checks.items() if check["state"] == "bad"} == {"tracking"}
    import torch

    assert checks["torch"]["found"].startswith(torch.__version__)
    assert ("GPU" in checks, "k-means (faiss)" in checks) == (True, True)
    assert checks["data toy"]["found"] == "16 videos, scanpaths scan_idx_7"
    assert list(tmp_path.iterdir()) == []


def test_the_text() -> None:
    checks = [Check("one", OK, "fine"), Check("longer", WARN, "so so", "do this"), Check("x", BAD, "broken", "do that")]
    assert driver.as_text(checks).splitlines() == [
        "OK    one     fine",
        "warn  longer  so so",
        "              -> do this",
        "BAD   x       broken",
        "              -> do that",
        "",
        "1 bad, 1 to be warned of, 1 well",
    ]
    assert driver.verdict(checks[:1]) == "All is well."


def test_a_check_that_hangs_is_a_finding() -> None:
    never = threading.Event()

    def hanging() -> Iterator[Check]:
        never.wait()
        yield Check("never", OK, "never")

    begun = time.perf_counter()
    checks = run_checks({"mount": hanging, "quick": lambda: [Check("quick", OK, "done")]}, 0.3)
    assert time.perf_counter() - begun < 2
    assert [(check.name, check.state, check.found) for check in checks] == [
        ("mount", "bad", "no answer within 0.3 s"),
        ("quick", "ok", "done"),
    ]
    never.set()


# Software ------------------------------------------------------------------------------------------------------------

INSTALLED = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "faiss-cpu": "1.15.1", "mlflow": "3.17.2"}
REQUIRED = ["torch==2.13.0", "numpy>=2.0", "faiss-cpu>=1.15", "mlflow<3.18,>=3.17", 'uvloop>=0.21; extra == "server"']
PINNED = {"torch": "2.13.0", "numpy": "2.4.6", "faiss-cpu": "1.15.1", "mlflow": "3.17.2", "pytest": "9.2.0"}


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({}, {}),
        ({"numpy": "2.5.0"}, {"numpy": ("warn", "2.5.0; the tests run with 2.4.6")}),
        ({"mlflow": "3.18.0"}, {"mlflow": ("bad", "is 3.18.0, and <3.18,>=3.17 is required")}),
        ({"mlflow": None}, {"mlflow": ("bad", "is not installed, and <3.18,>=3.17 is required")}),
        ({"faiss-cpu": None, "faiss-gpu-cu12": "1.14.1"}, {}),
        (
            {"faiss-gpu-cu12": "1.14.1"},
            {"faiss": ("bad", "faiss-cpu and faiss-gpu-cu12 provide the same module")},
        ),
    ],
)
def test_packages(installed: dict[str, str | None], expected: dict[str, tuple[str, str]]) -> None:
    there = {name: version for name, version in {**INSTALLED, **installed}.items() if version is not None}
    checks = list(software.judge_packages(there, REQUIRED, PINNED))
    assert {check.name: (check.state, check.found) for check in checks if check.state != OK} == expected
    assert all(check.remedy for check in checks if check.state != OK)
    fine = {check.name for check in checks if check.state == OK}
    assert fine == (set(INSTALLED) & set(there)) - set(expected)


def test_pins(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("# exact\nFlask_Cors==6.0.5\nnumpy==2.4.6  # arrays\nfaiss-cpu>=1\n\n")
    assert software.pins(path) == {"flask-cors": "6.0.5", "numpy": "2.4.6"}
    assert software.pins(tmp_path / "none.txt") == {}


def libraries(**changed: Any) -> dict[str, Any]:
    whole = {
        "errors": {},
        "torch": {"version": "2.13.0", "cuda": "12.8", "gpus": [], "threads": 4},
        "torchvision": {"version": "0.28.0", "shim": False, "resizes": True},
        "faiss": {"version": "1.15.1", "gpus": None, "threads": 4},
        "cv2": {"version": "5.0.0"},
        "simplejpeg": {"version": "1.9.0", "jpeg": True},
    }
    return {**whole, **changed}


def gpu(**changed: Any) -> dict[str, Any]:
    card = {"name": "H200", "bytes": 140 * GIB, "free_bytes": 139 * GIB, "arch": "sm_90", "works": "", **changed}
    return {"version": "2.13.0", "cuda": "12.8", "gpus": [card], "threads": 4}


@pytest.mark.parametrize(
    ("changed", "driver_text", "name", "state", "said"),
    [
        ({}, "", "GPU", OK, "none; training runs on the CPU"),
        ({}, "570.1, H200", "GPU", BAD, "PyTorch for CUDA 12.8 does not see the GPU (driver 570.1, H200)"),
        (
            {"torch": {"version": "2.13.0+cpu", "cuda": None, "gpus": [], "threads": 4}},
            "570.1, H200",
            "GPU",
            BAD,
            "PyTorch is a build for CPUs and does not see the GPU (driver 570.1, H200)",
        ),
        ({"torch": gpu()}, "570.1", "GPU", OK, "H200, 139.0 of 140.0 GiB free, CUDA 12.8, driver 570.1"),
        ({"torch": gpu(free_bytes=GIB)}, "570.1", "GPU", WARN, "H200, 1.0 of 140.0 GiB free, CUDA 12.8, driver 570.1"),
        (
            {"torch": gpu(works="no kernel image is available")},
            "570.1",
            "GPU",
            BAD,
            "H200, 139.0 of 140.0 GiB free, CUDA 12.8, driver 570.1: no kernel image is available",
        ),
        ({}, "", "k-means (faiss)", OK, "faiss 1.15.1 on the CPU"),
        ({"torch": gpu()}, "570.1", "k-means (faiss)", OK, "faiss 1.15.1 on the CPU; k-means on the GPU in PyTorch"),
        (
            {"faiss": {"version": "1.14.1", "gpus": 1, "threads": 4}},
            "",
            "k-means (faiss)",
            OK,
            "faiss 1.14.1 on 1 GPU(s)",
        ),
        (
            {"faiss": {"version": "1.14.1", "gpus": 0, "threads": 4}},
            "",
            "k-means (faiss)",
            WARN,
            "faiss 1.14.1 for GPUs sees none",
        ),
        (
            {"torchvision": {"version": "0.28.0", "shim": True, "resizes": True}},
            "",
            "torchvision's operators",
            OK,
            "without its compiled part, which needs CUDA; saccade does without",
        ),
        ({"simplejpeg": {"version": "1.9.0", "jpeg": False}}, "", "simplejpeg", BAD, "decodes wrong pixels"),
        ({"errors": {"faiss": "ImportError: x"}}, "", "faiss", BAD, "cannot be imported: ImportError: x"),
    ],
)
def test_libraries(changed: dict[str, Any], driver_text: str, name: str, state: str, said: str) -> None:
    checks = software.judge_libraries(libraries(**changed), driver_text)
    assert found(checks)[name] == (state, said)


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    told = "OpenMP of torch 4, of faiss 4; runs set both to 8, or to engine.threads"
    assert found(software.judge_libraries(libraries(), ""))["threads"] == (OK, told)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    told = "OpenMP of torch 4, of faiss 4; OMP_NUM_THREADS=2 does not hold for runs, which take 8"
    assert found(software.judge_libraries(libraries(), ""))["threads"] == (WARN, told)


def test_libraries_that_end_the_process_or_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.run
    script = "import os, sys; print('libtorch.so: undefined symbol', file=sys.stderr); sys.stderr.flush(); os.abort()"
    monkeypatch.setattr(software.subprocess, "run", lambda _, **rest: start([sys.executable, "-c", script], **rest))
    check = one(software.check_libraries())
    assert (check.state, check.found) == (BAD, "importing them ends the process: libtorch.so: undefined symbol")
    monkeypatch.setattr(software, "_LIBRARIES_SEC", 0.2)
    script = "import time; time.sleep(60)"
    assert "takes more than 0.2 s" in one(software.check_libraries()).found


def test_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "saccade").mkdir()
    monkeypatch.setattr("saccade.__file__", str(tmp_path / "saccade" / "__init__.py"))
    assert one(software.check_code()).found.endswith("installed and not a checkout")
    (tmp_path / ".git").mkdir()  # a repository that git refuses to read
    check = one(software.check_code())
    assert (check.state, check.found) == (WARN, f"git cannot read {tmp_path}")
    assert f"safe.directory {tmp_path}" in check.remedy
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert one(software.check_code()).remedy == "install git"


# Machine -------------------------------------------------------------------------------------------------------------


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(machine, "usable_cores", lambda: 3.5)
    check = one(machine.check_cores())
    assert (check.state, check.remedy) == (WARN, "set engine.threads=3 and engine.workers to at most 3")
    monkeypatch.setattr(machine, "usable_cores", lambda: 64.0)
    assert one(machine.check_cores()).state == OK


@pytest.mark.parametrize(("mib", "state"), [(64, WARN), (1000, WARN), (4096, OK)])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mib: int, state: str) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda path: mib << 20)
    check = one(machine.check_shared_memory(tmp_path))
    assert check.state == state
    assert ("--shm-size" in check.remedy) == (state != OK)
    assert one(machine.check_shared_memory(tmp_path / "none")).state == BAD


@pytest.mark.parametrize(("gib", "state"), [(0.5, BAD), (2, WARN), (16, OK)])
def test_memory_and_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gib: float, state: str) -> None:
    monkeypatch.setattr(machine, "memory_available_bytes", lambda: int(gib * GIB))
    monkeypatch.setattr(machine, "free_bytes", lambda path: int(gib * 3 * GIB) if gib > 0.5 else int(gib * GIB))
    assert one(machine.check_memory()).state == state
    assert one(machine.check_disk("runs", tmp_path)).state == state


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_NOFILE: 128, resource.RLIMIT_NPROC: 100, resource.RLIMIT_FSIZE: 2 * GIB}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits.get(which, resource.RLIM_INFINITY),) * 2)
    assert found(machine.check_limits()) == {
        "open files": (BAD, "128, and loading processes want more"),
        "processes": (WARN, "100, threads included"),
        "size of a file": (WARN, "limited to 2 GiB"),
    }
    limits.clear()
    assert {state for state, _ in found(machine.check_limits()).values()} == {OK}


MOUNTS = """overlay / overlay rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/joe/scratch\\040disk tmpfs rw 0 0
/dev/sda1 /data ext4 rw 0 0
/dev/sdb1 /data xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv", "overlay"),
        ("/home/joe/runs", "nfs4"),
        ("/homework", "overlay"),
        ("/home/joe/scratch disk/runs", "tmpfs"),
        ("/data/x", "xfs"),
    ],
)
def test_file_systems(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert machine.filesystem(Path(path), mounts) == kind
    assert machine.filesystem(Path(path), tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("kind", "database_there", "state"),
    [("ext4", True, OK), ("nfs4", True, WARN), ("nfs4", False, OK), ("overlay", False, WARN)],
)
def test_the_folder_of_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, database_there: bool, state: str
) -> None:
    monkeypatch.setattr(machine, "filesystem", lambda path: kind)
    check = one(machine.check_writing(tmp_path / "runs", database_there=database_there))
    assert check.state == state
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "NamedTemporaryFile", refuse)
    check = one(machine.check_writing(tmp_path / "runs", database_there=True))
    assert (check.state, check.found) == (BAD, f"cannot be written to (Permission denied): {tmp_path}")


def test_clock() -> None:
    assert one(machine.check_clock(1970)).state == BAD
    assert one(machine.check_clock()).state == OK


# Server and data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {}),
        ({"version": "2.22.0"}, {"tracking": BAD}),
        ({"version": "3.1.4"}, {"tracking": WARN}),
        ({"round_trip_sec": 0.052}, {"round trip": WARN}),
        ({"clock_ahead_sec": -7200.0}, {"clocks": WARN}),
    ],
)
def test_states_of_servers(monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], expected: dict[str, str]) -> None:
    state = {
        "address": "http://x:5000",
        "version": "3.17.2",
        "user": "joe",
        "is_admin": False,
        "round_trip_sec": 0.006,
        "clock_ahead_sec": 0.4,
    }
    monkeypatch.setattr(places, "probe", lambda uri: ServerState(**{**state, **changed}))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    checks = list(places.check_server("http://x:5000", Path("runs")))
    assert {check.name: check.state for check in checks if check.state != OK} == expected
    assert all(check.remedy for check in checks if check.state != OK)
    assert checks[0].found.startswith(f"http://x:5000, MLflow {changed.get('version', '3.17.2')}, as joe")
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:3128")
    (proxy,) = (check for check in places.check_server("http://x:5000", Path("runs")) if check.name == "proxy")
    assert proxy.found == "MLflow's client goes to x through the proxy http://proxy:3128"


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    check = one(places.check_server(None, tmp_path / "runs"))
    assert check.found.startswith(f"sqlite:///{tmp_path}/runs/mlflow.db, made by the first run")
    check = one(places.check_server("ftp://joe:secret@x", tmp_path))
    assert check.state == BAD
    assert "secret" not in check.found


def test_data(tmp_path: Path) -> None:
    from saccade.datasets.layout import FRAMES_FOLDER, SPLIT_FOLDER

    assert (places.FRAMES_FOLDER, places.SPLIT_FOLDER) == (FRAMES_FOLDER, SPLIT_FOLDER)
    assert one(places.check_data(tmp_path / "none")).state == BAD
    assert one(places.check_data(tmp_path)).found == f"{tmp_path}: no dataset in it (a folder with jpegs_256)"
    frames = tmp_path / "mine" / "jpegs_256"
    for name in ("a", "b"):
        (frames / name).mkdir(parents=True)
        (frames / name / "1.jpg").touch()
    assert one(places.check_data(tmp_path)) == Check(
        "data mine", BAD, "2 videos, scanpaths none, no split folder", "put the split lists there; see data/README.md"
    )
    (tmp_path / "mine" / "split").mkdir()
    assert one(places.check_data(tmp_path)).state == WARN  # no scanpaths
    (tmp_path / "mine" / "scan_idx_7").mkdir()
    assert one(places.check_data(tmp_path / "mine")) == Check("data mine", OK, "2 videos, scanpaths scan_idx_7")
    (tmp_path / "mine" / "packed_jpeg").mkdir()
    assert one(places.check_data(tmp_path)).found == "2 videos, packed_jpeg, scanpaths scan_idx_7"
    (tmp_path / "mine" / "packed_jpeg").rmdir()
    (frames / "b" / "1.jpg").unlink()
    assert one(places.check_data(tmp_path)).found == "2 videos, scanpaths scan_idx_7; jpegs_256/b is empty"
