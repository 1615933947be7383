"""What Tab offers, asked for as a shell asks."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.run_dir import create_run
from saccade.spec_reader import parse_spec

Result = tuple[int, str, str]
Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(saccade: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Complete:
    """Give what bash is offered for a line; its last word is the one that Tab is pressed in."""
    for name in ("experiments/a.yaml", "experiments/paper/b.yaml", "sweeps/c.yaml", "own.yaml", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_SACCADE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        code, out, err = saccade()
        assert (code, err) == (0, "")
        return out.split()

    return ask


def test_commands(complete: Complete) -> None:
    assert complete("saccade ru") == ["run", "runs"]
    assert complete("saccade data s") == ["scanpaths", "show"]


def test_specs(complete: Complete) -> None:
    assert complete("saccade run ") == [
        *("experiments/a.yaml", "experiments/paper/b.yaml"),
        *("experiments/", "own.yaml", "sweeps/"),
    ]
    assert complete("saccade plan experiments/p") == ["experiments/paper/b.yaml", "experiments/paper/"]
    assert complete("saccade sweep status sw") == ["sweeps/c.yaml", "sweeps/"]
    assert complete("saccade run nowhere/") == []


def test_runs(complete: Complete, tmp_path: Path) -> None:
    assert complete("saccade runs show ") == []
    runs = [create_run(tmp_path / "runs", parse_spec(f"name: {name}", "x.yaml"), []).id for name in ("one", "two")]
    (tmp_path / "runs" / "20260101-no-run").mkdir()
    runs.sort(reverse=True)
    assert complete("saccade runs show ") == runs
    assert complete(f"saccade run --resume {runs[0][:-1]}") == [runs[0]]
    assert complete("saccade runs compare x") == []
    assert complete("saccade runs rm --runs elsewhere ") == []


def test_settings(complete: Complete) -> None:
    assert complete("saccade run a.yaml --set pretrain.learning") == ["pretrain.learning_rate="]
    assert "name=" in complete("saccade run a.yaml --set ")
    assert "pretrain=" not in complete("saccade run a.yaml --set ")
    assert complete("saccade run a.yaml --set pretrain.optimizer=") == [
        "pretrain.optimizer=sgd",
        "pretrain.optimizer=adam",
    ]
    assert complete("saccade run a.yaml --set data.only_present=t") == ["data.only_present=true"]
    assert complete("saccade run a.yaml --set seed=") == []


def test_it_installs_itself(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("saccade")
    if not program.exists():
        pytest.skip("saccade is not installed beside this Python")
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-c", f"{program} --install-completion; true"],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "bash completion installed" in done.stdout
    assert "_SACCADE_COMPLETE=complete_bash" in (tmp_path / ".bash_completions" / "saccade.sh").read_text()
