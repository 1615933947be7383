"""Python, packages against what the tests run with, what the heavy libraries can do here, and the state of the code."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import saccade
from saccade.doctor.checks import BAD, OK, WARN, Check
from saccade.provenance import git_state

__all__ = [
    "check_code",
    "check_libraries",
    "check_packages",
    "check_python",
    "judge_libraries",
    "judge_packages",
    "pins",
]

NAMED = ("torch", "torchvision", "faiss-cpu", "mlflow", "optuna", "opencv-python-headless", "numpy")
"""Packages that get a line of their own when all is well."""
_TESTED = ((3, 11), (3, 12))
_LIBRARIES_SEC = 60.0
_INSTALL = "pip install -c constraints.txt -e '.[server]'"


def check_python() -> Iterator[Check]:
    """Version of Python."""
    version = sys.version_info[:2]
    told = f"{platform.python_version()} in {sys.prefix}"
    if version in _TESTED:
        yield Check("python", OK, told)
    else:
        tested = " and ".join(".".join(map(str, each)) for each in _TESTED)
        yield Check("python", WARN, f"{told}; the tests run with {tested}", "use one of these")


def pins(path: Path) -> dict[str, str]:
    """Exact versions in a constraints file, by normalised name; empty when there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found = (re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line.partition("#")[0].strip()) for line in lines)
    return {_normalised(match[1]): match[2] for match in found if match}


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_packages() -> Iterator[Check]:
    """What is installed against what is required, and against what the tests run with."""
    installed = {_normalised(dist.metadata["Name"] or ""): dist.version for dist in importlib.metadata.distributions()}
    try:
        required = importlib.metadata.requires("saccade") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("saccade", WARN, "runs from its folder and is not installed", _INSTALL)
        required = []
    yield from judge_packages(installed, required, pins(Path(saccade.__file__).parents[1] / "constraints.txt"))


def judge_packages(installed: Mapping[str, str], required: list[str], pinned: Mapping[str, str]) -> Iterator[Check]:
    """Compare versions.

    Args:
        installed: Versions by normalised name.
        required: Requirements as the package's metadata has them.
        pinned: Versions that the tests run with.
    """
    from packaging.requirements import Requirement

    wrong = set()
    for requirement in map(Requirement, required):
        name = _normalised(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name == "faiss-cpu" and any(other.startswith("faiss-gpu") for other in installed):
            continue  # it takes the other's place
        there = installed.get(name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            wrong.add(name)
            state = "is not installed" if there is None else f"is {there}"
            yield Check(requirement.name, BAD, f"{state}, and {requirement.specifier or 'any'} is required", _INSTALL)
    differing = {name for name, version in pinned.items() if name in installed and not _same(installed[name], version)}
    for name in NAMED:
        if name in installed and name not in wrong | differing:
            tested = " as the tests run with" if name in pinned else ""
            yield Check(name, OK, installed[name] + tested)
    for name in sorted(differing - wrong):
        told = f"{installed[name]}; the tests run with {pinned[name]}"
        yield Check(name, WARN, told, f"pip install '{name}=={pinned[name]}', or see that the tests pass")
    faiss = sorted(name for name in installed if name.startswith("faiss-"))
    if len(faiss) > 1:
        yield Check("faiss", BAD, f"{' and '.join(faiss)} provide the same module", "pip uninstall all, install one")


def _same(installed: str, pinned: str) -> bool:
    # A local part (+cpu, +cu128) says how it was built, not which version it is.
    return installed == pinned or installed.partition("+")[0] == pinned


def check_libraries() -> Iterator[Check]:
    """Import the heavy libraries in a process of its own and ask them what they see."""
    command = [sys.executable, "-m", "saccade.doctor.libraries"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIBRARIES_SEC, text=True)
    except subprocess.TimeoutExpired:
        told = f"importing torch, torchvision, faiss and cv2 takes more than {_LIBRARIES_SEC:g} s"
        yield Check("libraries", BAD, told, "look for a slow disk or a GPU that hangs (nvidia-smi)")
        return
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]
        yield Check("libraries", BAD, f"importing them ends the process: {last}", _INSTALL)
        return
    yield from judge_libraries(found, nvidia_driver())


def nvidia_driver() -> str:
    """Version of NVIDIA's driver and the names of its GPUs; empty when there are none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


def judge_libraries(found: Mapping[str, Any], driver: str) -> Iterator[Check]:
    """What they say, and what it means.

    Args:
        found: Of `libraries.look`.
        driver: Of `nvidia_driver`.
    """
    for name, error in found["errors"].items():
        yield Check(name, BAD, f"cannot be imported: {error}", _INSTALL)
    if "torch" in found:
        yield from _judge_gpus(found["torch"], driver)
    vision = found.get("torchvision")
    if vision is not None:
        told = "without its compiled part, which needs CUDA; saccade does without" if vision["shim"] else "whole"
        yield Check(
            "torchvision's operators", OK if vision["resizes"] else BAD, told, "" if vision["resizes"] else _INSTALL
        )
    if not found.get("simplejpeg", {"jpeg": True})["jpeg"]:
        yield Check("simplejpeg", BAD, "decodes wrong pixels", "pip install --force-reinstall simplejpeg==1.9.0")
    if "torch" in found and "faiss" in found:
        yield _judge_threads(found["torch"]["threads"], found["faiss"]["threads"])
    if "faiss" in found:
        yield from _judge_faiss(found["faiss"], bool(found.get("torch", {}).get("gpus")))


def _judge_gpus(torch: Mapping[str, Any], driver: str) -> Iterator[Check]:
    if not torch["gpus"]:
        if not driver:
            yield Check("GPU", OK, "none; training runs on the CPU")
        elif torch["cuda"] is None:
            told = f"PyTorch is a build for CPUs and does not see the GPU (driver {driver})"
            yield Check("GPU", BAD, told, "install the PyTorch for CUDA: pip install torch==2.13.0")
        else:
            told = f"PyTorch for CUDA {torch['cuda']} does not see the GPU (driver {driver})"
            yield Check(
                "GPU", BAD, told, "update the driver, or look at CUDA_VISIBLE_DEVICES and the container's --gpus"
            )
        return
    for gpu in torch["gpus"]:
        free, total = gpu["free_bytes"] / 2**30, gpu["bytes"] / 2**30
        told = f"{gpu['name']}, {free:.1f} of {total:.1f} GiB free, CUDA {torch['cuda']}, driver {driver or 'unknown'}"
        if gpu["works"]:
            yield Check("GPU", BAD, f"{told}: {gpu['works']}", "update the driver, or install a PyTorch for this GPU")
        elif free < 0.5 * total:
            yield Check("GPU", WARN, told, "somebody else computes on it (nvidia-smi says who)")
        else:
            yield Check("GPU", OK, told)


def _judge_threads(torch: int, faiss: int) -> Check:
    cores, wanted = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS", "")
    told = f"OpenMP of torch {torch}, of faiss {faiss}"
    if wanted and wanted != str(cores):
        told += f"; OMP_NUM_THREADS={wanted} does not hold for runs, which take {cores}"
        return Check("threads", WARN, told, f"set engine.threads={wanted} if you mean it")
    return Check("threads", OK, f"{told}; runs set both to {cores}, or to engine.threads")


def _judge_faiss(faiss: Mapping[str, Any], gpu: bool) -> Iterator[Check]:
    if faiss["gpus"] is None:
        told = f"faiss {faiss['version']} on the CPU" + ("; k-means on the GPU in PyTorch" if gpu else "")
        yield Check("k-means (faiss)", OK, told)
    elif faiss["gpus"] == 0:
        told = f"faiss {faiss['version']} for GPUs sees none"
        yield Check("k-means (faiss)", WARN, told, "it works on the CPU; on a machine without GPU install faiss-cpu")
    else:
        yield Check("k-means (faiss)", OK, f"faiss {faiss['version']} on {faiss['gpus']} GPU(s)")


def check_code() -> Iterator[Check]:
    """Whether runs can say which code they are of."""
    state = git_state()
    if state.commit:
        where = state.branch or "no branch"
        told = f"commit {state.commit[:12]} on {where}" + (
            ", with changes, which runs keep as git.diff" if state.dirty else ""
        )
        yield Check("code", OK, told)
    elif shutil.which("git") is None:
        yield Check("code", WARN, "there is no git, so runs cannot say which code they are of", "install git")
    elif (Path(saccade.__file__).parents[1] / ".git").exists():
        folder = Path(saccade.__file__).parents[1]
        remedy = f"if it belongs to somebody else: git config --global --add safe.directory {folder}"
        yield Check("code", WARN, f"git cannot read {folder}", remedy)
    else:
        yield Check("code", OK, f"saccade {saccade.__version__}, installed and not a checkout")
