"""torchvision imports, without a warning, whichever wheels of it and of PyTorch are installed."""

import subprocess
import sys

import pytest
import torch

from saccade import torchvision_shim


def test_fresh_process_imports_without_warnings_and_transforms_work() -> None:
    code = (
        "from saccade import torchvision_shim\n"
        "import gc; gc.collect()\n"
        "import torch, torchvision\n"
        "assert hasattr(torch.ops.torchvision, 'nms') and hasattr(torch.ops.torchvision, 'qnms')\n"
        "image = torch.arange(6.0).reshape(1, 2, 3)\n"
        "assert torchvision_shim.functional.horizontal_flip(image).tolist() == [[[2, 1, 0], [5, 4, 3]]]\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """By whichever test of the process comes first, or here."""
    assert torchvision_shim.functional is not None


@pytest.fixture
def no_torchvision_yet(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The state before torchvision was first imported, beside a CPU build of PyTorch."""
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    return monkeypatch


def test_nothing_is_declared_once_torchvision_is_imported() -> None:
    assert torchvision_shim._declare_missing_operators() is None


def test_a_torchvision_that_loads_is_left_alone(no_torchvision_yet: pytest.MonkeyPatch) -> None:
    no_torchvision_yet.setattr(torchvision_shim, "_compiled_part_loads", lambda: True)
    assert torchvision_shim._declare_missing_operators() is None


@pytest.mark.parametrize("build", ["cuda", "hip"])
def test_a_gpu_build_is_left_alone_even_when_torchvision_is_broken(
    no_torchvision_yet: pytest.MonkeyPatch, build: str
) -> None:
    no_torchvision_yet.setattr(torchvision_shim, "_compiled_part_loads", lambda: False)
    no_torchvision_yet.setattr(torch.version, build, "13.0")
    assert torchvision_shim._declare_missing_operators() is None


def test_operators_that_exist_are_not_declared_twice(no_torchvision_yet: pytest.MonkeyPatch) -> None:
    no_torchvision_yet.setattr(torchvision_shim, "_compiled_part_loads", lambda: False)
    assert torchvision_shim._declare_missing_operators() is not None  # A second declaration would have raised.
