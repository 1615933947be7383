"""The command line: a mistake is one line on stderr and exit code 2; what is right does what it says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade import __version__
from saccade.datasets.layout import load_dataset
from saccade.errors import CheckpointError, SaccadeError
from saccade.spec_reader import json_schema, parse_spec, read_spec

Result = tuple[int, str, str]


WRONG = {
    "--nope": "error: saccade: No such option: --nope (see saccade --help)",
    "run": "error: saccade run: give an experiment spec, such as experiments/quickstart.yaml, or --resume RUN",
    "run --nope": "error: saccade run: No such option: --nope (see saccade run --help)",
    "run --set": "error: saccade: Option '--set' requires an argument (see saccade --help)",
    "run nope.yaml": "error: nope.yaml: no such file, did you mean good.yaml?",
    "run a.yaml b.yaml": "error: saccade run: Got unexpected extra argument(s) (b.yaml) (see saccade run --help)",
    "run --resume nope": "error: no run 'nope': there are no runs in runs",
    "run good.yaml --set seed=x": "error: --set seed=x: must be a whole number, 0 or more; got 'x'",
    "run good.yaml --set seed": "error: --set seed: not of the form path=value, such as pretrain.learning_rate=0.05",
    "run bad.yaml": "error: bad.yaml:2: pretrain.learning_rat: unknown key, did you mean learning_rate?",
    "validate": "error: saccade validate: Missing argument 'SPEC' (see saccade validate --help)",
    "validate .": "error: .: is a folder; give a YAML file, such as bad.yaml",
    "validate bad.yaml": "error: bad.yaml:2: pretrain.learning_rat: unknown key, did you mean learning_rate?",
    "analyze bad.yaml": "error: bad.yaml:2: pretrain.learning_rat: unknown key, did you mean learning_rate?",
    "analyze good.yaml --videos 0": "error: saccade analyze: Invalid value for '--videos': ",
    "analyze good.yaml --videos 9": "error: pretrain.batch_size: 16 videos do not fit in a training list of 9; ",
    "schema no/such/folder.json": "error: no/such/folder.json: cannot be written (No such file or directory)",
    "schema .": "error: .: cannot be written (Is a directory); give another file",
    "ui --port 70000": "error: saccade ui: Invalid value for '--port': Input should be less than or equal to 65535",
    "data prepare nowhere out": "error: nowhere: no such folder; give the one that holds a folder of videos for each",
    "data prepare nowhere.rar out --test v*": "error: nowhere.rar: no such file",
    "data prepare nowhere out --test v* --splits x": "error: which videos test is said by either official split lists",
    "data prepare ucf101 out": "error: which videos? give the folders and archives as downloaded, then the dataset's",
    "data prepare nowhere": "error: saccade data prepare: Missing argument ",
    "data check nowhere": "error: nowhere: no such folder; give that of a dataset",
    "data prepare a b --quality 101": "error: saccade data prepare: Invalid value for '--quality': ",
    "data toy out --seed -1": "error: saccade data toy: Invalid value for '--seed': ",
    "data toy bad.yaml": "error: ",
    "import-weights nope.pth out.safetensors": "error: nope.pth: there is no such file",
    "import-weights bad.yaml out.safetensors": "error: bad.yaml: not a PyTorch file",
    "runs sync nope": "error: no run 'nope': there are no runs in runs",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_mistake_is_one_line_and_exit_code_2(command: str, saccade: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("name: x\n")
    (tmp_path / "bad.yaml").write_text("name: x\npretrain: {learning_rat: 1}\n")
    code, out, err = saccade(*command.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(WRONG[command])
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_group_alone_shows_its_help(saccade: Callable[..., Result]) -> None:
    for words in (("data",), ("runs",)):
        code, _, err = saccade(*words)
        assert code == 2
        assert err.startswith("Usage: saccade")
    code, out, err = saccade("--help")
    assert (code, err) == (0, "")
    for command in ("run", "plan", "doctor", "validate", "analyze", "schema", "ui", "import-weights", "data", "runs"):
        assert f"\n  {command} " in out


def test_version(saccade: Callable[..., Result]) -> None:
    assert saccade("--version") == (0, f"saccade {__version__}\n", "")


def test_an_unknown_command_is_told_with_its_neighbours(saccade: Callable[..., Result]) -> None:
    code, _, err = saccade("valdate")
    assert code == 2
    assert err == "error: saccade: No such command 'valdate'. Did you mean 'validate'? (see saccade --help)\n"


def test_a_bug_is_not_hidden(saccade: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> str:
        raise ZeroDivisionError("in the program")

    monkeypatch.setattr("saccade.spec_reader.json_schema", bug)
    with pytest.raises(ZeroDivisionError):
        saccade("schema")


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_the_exit_code_of_a_run_is_passed_on(
    code: int, saccade: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def start(runs_root: Path, spec: Path, overrides: list[str]) -> int:
        asked.append((runs_root, spec, overrides))
        return code

    monkeypatch.setattr("saccade.launch.start_run", start)
    assert saccade("run", "x.yaml", "--set", "a=1", "--runs", "elsewhere", "--set", "b=[2, 3]") == (code, "", "")
    assert asked == [(Path("elsewhere"), Path("x.yaml"), ["a=1", "b=[2, 3]"])]


def test_resume_hands_over_run_spec_and_overrides(
    saccade: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resume(runs_root: Path, ref: str, spec: Path | None, overrides: list[str]) -> int:
        asked.append((runs_root, ref, spec, overrides))
        return 0

    monkeypatch.setattr("saccade.launch.resume_run", resume)
    assert saccade("run", "--resume", "2026")[0] == 0
    assert saccade("run", "x.yaml", "--resume", "2026", "--set", "pretrain.epochs=9")[0] == 0
    assert asked == [
        (Path("runs"), "2026", None, []),
        (Path("runs"), "2026", Path("x.yaml"), ["pretrain.epochs=9"]),
    ]


def test_a_mistake_of_any_kind_is_told_alike(saccade: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise CheckpointError("last.pt: not a readable checkpoint")

    assert issubclass(CheckpointError, SaccadeError)
    monkeypatch.setattr("saccade.launch.start_run", refuse)
    assert saccade("run", "x.yaml") == (2, "", "error: last.pt: not a readable checkpoint\n")


def test_validate_prints_a_spec_that_reads_back_equal(saccade: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: 'on: 1e-3 #'\npretrain: {learning_rate: 1e-3}\nprototypes: {num_clusters: [5]}\n"
    )
    code, out, err = saccade("validate", "x.yaml", "--set", "seed=0", "--set", "data.root=${HOME}/data")
    assert (code, err) == (0, "")
    overrides = ["seed=0", "data.root=${HOME}/data"]
    assert parse_spec(out, "printed") == read_spec(tmp_path / "x.yaml", overrides)
    assert parse_spec(out, "printed").pretrain.learning_rate == 0.001
    assert out.endswith("\n")
    assert not out.endswith("\n\n")


def test_analyze_prints_a_table_or_json(saccade: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: x\nclip: {frames: 4, size: 16}\nencoder: {width: 4}\nprototypes: {num_clusters: []}\n"
    )
    words = ("analyze", "x.yaml", "--set", "pretrain.batch_size=2", "--videos", "40", "--tflops", "0.5")
    code, out, err = saccade(*words)
    assert (code, err) == (0, "")
    assert out.startswith("r3d on clips of 4 x 16 x 16 (frames, px), 12 a step, in ")
    code, out, err = saccade(*words, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["clips_per_step"], found["videos"], found["steps"]) == (12, 40, 300 * 20)
    assert found["timing"]["flop_per_sec"] == 0.5e12


def test_schema_writes_valid_json(saccade: Callable[..., Result], tmp_path: Path) -> None:
    code, out, err = saccade("schema")
    assert (code, err) == (0, "")
    assert out == json_schema()
    schema = json.loads(out)
    assert schema["properties"].keys() >= {"name", "seed", "pretrain"}
    assert schema["additionalProperties"] is False
    assert saccade("schema", "schema.json") == (0, "", "")
    assert (tmp_path / "schema.json").read_text() == out


def test_toy_makes_a_dataset_once(
    saccade: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saccade.datasets import toy

    write = toy.write_toy
    monkeypatch.setattr(
        toy, "write_toy", lambda root, **given: write(root, train_per_class=1, test_per_class=1, frames=12, **given)
    )
    code, out, _ = saccade("data", "toy", "data", "--workers", "1", "--seed", "3")
    assert code == 0
    assert out.startswith("data/toy: 8 training and 8 test videos")
    made = load_dataset("data", "toy", split=1, grid_num=7, scanpaths=True, min_frames=8)
    assert (len(made.train), len(made.test)) == (8, 8)
    code, out, _ = saccade("data", "toy", "data", "--seed", "3")
    assert (code, "already there" in out) == (0, True)
    code, out, err = saccade("data", "toy", "data", "--seed", "4")
    assert (code, out) == (2, "")
    assert err.startswith("error: data/toy: is a toy set of other parameters")
    assert err.count("\n") == 1


def test_launch_refuses_a_resume_with_another_experiment(tmp_path: Path) -> None:
    from saccade.errors import SpecError
    from saccade.launch import check_resumable

    before = parse_spec("name: x", "x.yaml")
    free = [
        "name=y",
        "data.root=/d",
        "pretrain.epochs=400",
        "engine.workers=0",
        "tracking.uri=x",
        "checkpoint.every_epochs=2",
    ]
    check_resumable(before, parse_spec("name: x", "x.yaml", free), "r1")
    with pytest.raises(SpecError) as caught:
        check_resumable(before, parse_spec("name: x", "x.yaml", ["pretrain.batch_size=8"]), "r1")
    assert str(caught.value) == (
        "pretrain.batch_size: 8, but run r1 was started with 16; resume it with its own spec (leave SPEC out), or "
        "start a new run"
    )
