"""The data and the unbroken runs that all others are compared with."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.run_dir import RunDir

from .lives import PROBE, live, new_run

# The long form, of half an hour, is for `make chaos` alone.
collect_ignore = [] if os.environ.get("SACCADE_CHAOS") == "1" else ["test_long.py"]


@pytest.fixture(scope="session")
def data(make_toy: Callable[..., Path]) -> Path:
    root: Path = make_toy(train_per_class=2, frames=16)
    for part in ("train", "test"):
        shutil.copy(root / "toy" / "split" / f"{part}list01.txt", root / "toy" / "split" / f"{part}list02.txt")
    return root


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunDir:
    run = new_run(tmp_path_factory.mktemp("unbroken"), data)
    live(run)
    return run


@pytest.fixture(scope="session")
def unbroken_classifiers(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunDir:
    run = new_run(tmp_path_factory.mktemp("classifiers"), data, PROBE)
    live(run)
    return run
