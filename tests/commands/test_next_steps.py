"""`saccade` alone says what to do next, by what is there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.run_dir import RunDir, create_run
from saccade.spec_reader import parse_spec
from saccade.tracking.shipping_state import Outcome, ShippingState

Result = tuple[int, str, str]


def steps(saccade: Callable[..., Result]) -> list[str]:
    """The commands that it names."""
    code, out, err = saccade()
    assert (code, err) == (0, "")
    return [line.strip().split("  ")[0] for line in out.splitlines() if line.startswith("  saccade ")]


def a_run(folder: Path, status: str | None) -> RunDir:
    run = create_run(folder / "runs", parse_spec("name: x", "x.yaml"), ["saccade"])
    state = ShippingState(folder=run.path, tracking_uri="sqlite:////x.db", experiment="saccade")
    if status is not None:
        tags = {} if status == "FINISHED" else {"saccade.ended": "killed by SIGKILL"}
        state.outcome = Outcome(status=status, end_ms=0, tags=tags)
    state.save()
    return run


def test_without_videos(saccade: Callable[..., Result]) -> None:
    assert steps(saccade) == ["saccade data toy data", "saccade data prepare VIDEOS data/NAME --test 'lena_*'"]
    assert "go to its folder" in saccade()[1]


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("toy", "experiments/quickstart.yaml"),
        ("UCF101", "experiments/paper/r3d.yaml"),
        ("mine", "experiments/weizmann.yaml --set name=mine --set data.dataset=mine"),
    ],
)
def test_with_videos(saccade: Callable[..., Result], tmp_path: Path, name: str, spec: str) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "data" / name / "split").mkdir(parents=True)
    wanted = [f"saccade plan {spec}", f"saccade run {spec}"]
    assert steps(saccade) == [f"saccade data scanpaths data/{name}", *wanted]
    (tmp_path / "data" / name / "scan_idx_7").mkdir()
    assert steps(saccade) == wanted
    assert "go to its folder" not in saccade()[1]


def test_the_specs_that_it_names_are_there() -> None:
    experiments = Path(__file__).parents[2] / "experiments"
    for name in ("quickstart.yaml", "paper/r3d.yaml", "weizmann.yaml"):
        assert (experiments / name).exists()


def test_with_runs(saccade: Callable[..., Result], tmp_path: Path) -> None:
    run = a_run(tmp_path, "FINISHED")
    assert steps(saccade)[:2] == ["saccade ui", f"saccade runs show {run.id}"]
    with run.lock():
        assert "at work" in saccade()[1]


@pytest.mark.parametrize("status", ["FAILED", "KILLED", None])
def test_with_a_run_that_ended_before_its_time(
    saccade: Callable[..., Result], tmp_path: Path, status: str | None
) -> None:
    run = a_run(tmp_path, status)
    assert steps(saccade)[0] == f"saccade run --resume {run.id}"
    assert ("killed by SIGKILL" in saccade()[1]) == (status is not None)


def test_a_damaged_folder_is_one_line(saccade: Callable[..., Result], tmp_path: Path) -> None:
    run = a_run(tmp_path, "FINISHED")
    (run.path / "shipping.json").write_text(json.dumps([]))
    code, out, err = saccade()
    assert (code, out, err.count("\n")) == (2, "", 1)
