"""The examples of CONTRIBUTING.md: each is short, fits the code as it is, and works, all of them in one run."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from saccade.datasets.layout import load_dataset

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = REPOSITORY / "docs" / "examples"
DIFFS = ("encoder", "loss", "evaluation")
MAX_LINES = 49

TESTS = {
    "tests/test_losses.py": "test_uniformity_equals_the_formula",
    "tests/models/test_encoder.py": "test_shapes[c3d-",
    "tests/contributed.py": "test_run",
}
"""Where a test stands in the copy, and how its name begins."""


def lines(example: Path) -> int:
    """How many lines a contributor writes."""
    text = example.read_text().splitlines()
    added = [line for line in text if line.startswith("+") and not line.startswith("+++")]
    return len(added) if example.suffix == ".diff" else len(text)


def test_examples_are_short_and_named() -> None:
    page = (REPOSITORY / "CONTRIBUTING.md").read_text()
    assert {path.name for path in EXAMPLES.iterdir()} == {"dataset.py", *(f"{name}.diff" for name in DIFFS)}
    for path in EXAMPLES.iterdir():
        assert f"(docs/examples/{path.name})" in page
        assert 5 < lines(path) <= MAX_LINES


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository with all examples."""
    folder = tmp_path / "copy"
    for part in ("saccade", "tests"):
        shutil.copytree(REPOSITORY / part, folder / part)
    (folder / "docs").mkdir()
    for file in ("pyproject.toml", "docs/metrics.md"):
        shutil.copy(REPOSITORY / file, folder / file)
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    for name in DIFFS:
        words = ["git", "apply", EXAMPLES / f"{name}.diff"]
        done = subprocess.run(words, cwd=folder, env=alone, capture_output=True, text=True)
        assert not done.returncode, f"{done.stderr}; make docs/examples/{name}.diff anew, as CONTRIBUTING.md says"
    return folder


def test_what_the_diffs_add_works(copy: Path) -> None:
    words = ["-vv", "-p", "no:cacheprovider", "-k", "uniformity or shapes and c3d or contributed", *TESTS]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    for file, test in TESTS.items():
        assert re.search(rf"{file}::(\w+::)?{re.escape(test)}.* PASSED", done.stdout)


def test_kinetics_becomes_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header, rows = "label,youtube_id,time_start,time_end,split\n", {"train": "", "val": ""}
    for part, label, video in (("train", "dancing ballet", "a-_1"), ("train", "zumba", "b2"), ("val", "zumba", "c3")):
        rows[part] += f"{label},{video},7,17,{part}\n"
        path = tmp_path / "videos" / label / f"{video}_000007_000017.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
        for _ in range(6):
            writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
    rows["val"] += "dancing ballet,gone,1,11,val\n"
    for part, text in rows.items():
        (tmp_path / f"{part}.csv").write_text(header + text)
    out = tmp_path / "data" / "Kinetics"
    monkeypatch.setattr(sys, "argv", ["dataset.py", str(tmp_path), str(tmp_path / "videos"), str(out)])
    runpy.run_path(str(EXAMPLES / "dataset.py"), run_name="__main__")
    assert "split 1: 0 training, 1 test" in capsys.readouterr().out
    data = load_dataset(
        tmp_path / "data", "Kinetics", split=1, grid_num=7, scanpaths=False, only_present=True, min_frames=4
    )
    assert data.classes == ("dancing ballet", "zumba")
    assert [(video.name, video.label) for video in data.train] == [("a-_1_000007_000017", 0), ("b2_000007_000017", 1)]
    assert [(video.name, video.label) for video in data.test] == [("c3_000007_000017", 1)]
