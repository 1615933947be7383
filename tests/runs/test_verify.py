"""`saccade runs verify` and `rerun`: a real run done again comes out the same, and a changed one is found out."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from saccade import launch
from saccade.errors import RunError, WeightsError
from saccade.run_dir import RunDir, create_run
from saccade.runner import main
from saccade.runs import verify as verify_module
from saccade.runs.find import find_run
from saccade.runs.record import local_record
from saccade.runs.repeat import changes_since, changes_text, prepare
from saccade.runs.verify import MetricDifference, metric_differences, tensor_differences
from saccade.spec_reader import parse_spec
from saccade.supervisor import supervise
from saccade.tracking.reader import Reader

from .conftest import rows

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Make = Callable[..., RunDir]
Command = Callable[..., tuple[int, str, str]]
NAN, INF = math.nan, math.inf

OWN = """
name: tiny
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: []}}
pretrain: {{epochs: 1, batch_size: 4, schedule: cosine}}
evaluation: {{retrieval: {{clips: 2, topk: [1, 5], baselines: false}}}}
tracking: {{log_every_steps: 1}}
"""
SPEC = (Path(__file__).parent.parent / "small_spec.yaml").read_text() + OWN


# Where two runs first differ -----------------------------------------------------------------------------------------


def curve(*values: float) -> tuple[list[int], list[float]]:
    return [2 * (place + 1) for place, _ in enumerate(values)], list(values)


def test_the_first_difference_of_each_metric_in_order_of_step() -> None:
    then = {"a": curve(1.0, 2.0, 3.0), "b": curve(1.0, 2.0, 3.0), "c": curve(NAN, 1.0), "perf/x": curve(1.0)}
    now = {"a": curve(1.0, 2.0, 3.5), "b": curve(1.0, 2.5, 9.0), "c": curve(NAN, 1.0), "perf/x": curve(9.0)}
    assert metric_differences(then, now, whole=True, via_server=False) == [
        MetricDifference("b", 4, 2.0, 2.5),
        MetricDifference("a", 6, 3.0, 3.5),
    ]
    assert metric_differences(then, then, whole=True, via_server=False) == []


def test_the_last_bit_counts() -> None:
    next_up = math.nextafter(1.0, 2.0)
    (found,) = metric_differences({"a": curve(1.0)}, {"a": curve(next_up)}, whole=True, via_server=False)
    assert found.relative == pytest.approx(2**-52)
    assert metric_differences({"a": curve(0.0)}, {"a": curve(-0.0)}, whole=True, via_server=False) != []


@pytest.mark.parametrize(("whole", "expected"), [(True, [("b", 2, None, 5.0), ("a", 4, None, 2.0)]), (False, [])])
def test_what_only_the_repeat_has(whole: bool, expected: list[tuple[str, int, None, float]]) -> None:
    found = metric_differences(
        {"a": curve(1.0)}, {"a": curve(1.0, 2.0), "b": curve(5.0)}, whole=whole, via_server=False
    )
    assert [(each.metric, each.step, each.then, each.now) for each in found] == sorted(
        expected, key=lambda each: each[1]
    )


def test_what_only_the_run_has() -> None:
    (found,) = metric_differences({"a": curve(1.0, 2.0)}, {"a": curve(1.0)}, whole=False, via_server=False)
    assert (found.metric, found.step, found.then, found.now) == ("a", 4, 2.0, None)
    assert math.isnan(found.relative)


def test_infinity_is_stored_as_nan_on_servers_only() -> None:
    then, now = {"a": curve(NAN)}, {"a": curve(INF)}
    assert metric_differences(then, now, whole=True, via_server=True) == []
    assert len(metric_differences(then, now, whole=True, via_server=False)) == 1


def test_tensors_that_differ(tmp_path: Path) -> None:
    first = {
        "x": np.array([1.0, 2.0, 3.0], "f4"),
        "y": np.zeros((2, 2), "f4"),
        "z": np.ones(3, "i8"),
        "gone": np.ones(1),
    }
    second = {"x": np.array([1.0, 2.5, 2.75], "f4"), "y": np.zeros(4, "f4"), "z": np.ones(3, "i8")}
    for name, tensors in (("a", first), ("b", second)):
        save_file(tensors, tmp_path / name)
    found, count = tensor_differences(tmp_path / "a", tmp_path / "b")
    assert count == 4
    assert {each.name: each.largest for each in found if each.name == "x"} == {"x": 0.5}
    assert {each.name for each in found if math.isnan(each.largest)} == {"y", "gone"}
    assert tensor_differences(tmp_path / "a", tmp_path / "a") == ([], 4)
    (tmp_path / "b").write_bytes(b"x" * 50)
    with pytest.raises(WeightsError, match="cannot be read"):
        tensor_differences(tmp_path / "a", tmp_path / "b")


# A real run ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(make_toy: Callable[..., Path], root: Path, own_signals: None) -> RunDir:
    """A run that was really trained, and tracked nowhere."""
    run = create_run(root, parse_spec(SPEC.format(root=make_toy()), "x.yaml"), ["saccade", "run", "x.yaml"])
    assert main([str(run.path)]) == 0
    return run


def test_a_run_verified_then_tampered_with(
    trained: RunDir, saccade: Command, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = saccade("runs", "verify", "tiny", "--keep", "--into", "kept")
    assert code == 0, out
    curves = local_record(trained).curves
    points = sum(len(steps) for name, (steps, _) in curves.items() if not name.startswith("perf/"))
    lines = out.splitlines()
    assert "digest" not in out
    (repeat,) = Path("kept").iterdir()
    assert lines[-3].startswith("encoder/encoder.safetensors: ")
    assert lines[-3].endswith(" tensors are equal to the bit")
    assert lines[-2].startswith(f"same: {points} points of ")
    assert lines[-1] == f"the repeat is in {repeat.absolute()}"

    def train_as_before(run: RunDir) -> int:
        shutil.copytree(repeat, run.path, dirs_exist_ok=True)
        return 0

    monkeypatch.setattr(verify_module, "_train", train_as_before)
    assert saccade("runs", "verify", "tiny")[0] == 0
    assert not (root / "verify").exists()

    events = [json.loads(line) for line in trained.journal.read_text().splitlines()]
    (found,) = [each for each in events if each.get("step") == 2 and "pretrain/loss" in each["values"]]
    before = found["values"]["pretrain/loss"]
    found["values"]["pretrain/loss"] = math.nextafter(before, 0.0)
    trained.journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    weights = trained.path / "encoder" / "encoder.safetensors"
    tensors = load_file(weights)
    name = max(key for key in tensors if tensors[key].dtype == np.float32)
    tensors[name].flat[0] += 0.25
    save_file(tensors, weights)
    code, out, _ = saccade("runs", "verify", trained.id[:-1], "--into", "elsewhere")
    assert code == 1
    assert f"not the same: differs first at step 2, where pretrain/loss was {math.nextafter(before, 0.0)!r} and" in out
    assert f"and is {before!r} now; 1 of " in out
    assert f"encoder.safetensors: 1 of {len(tensors)} tensors differ, first {name} (by up to 0.25)" in out
    (kept,) = Path("elsewhere").iterdir()
    assert out.splitlines()[-1] == f"the repeat is in {kept.absolute()}"


def test_a_rerun_says_what_differs_and_is_tagged(
    make: Make,
    make_toy: Callable[..., Path],
    database: str,
    saccade: Command,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [
        f"data.root={make_toy()}",
        "data.dataset=toy",
        "clip.frames=4",
        "pretrain.epochs=0",
        "then=[then/2.yaml]",
    ]
    old = make("old", *settings)
    record = json.loads((old.path / "run.json").read_text())
    record["git"]["commit"] = "f" * 40
    (old.path / "run.json").write_text(json.dumps(record))
    actions = json.dumps([["train", 3, {"save_every": 1}]])
    stub = [sys.executable, str(Path(__file__).parent.parent / "trainer_stub.py"), actions]
    monkeypatch.setattr(launch, "supervise", lambda run, **options: supervise(run, **options, command=stub))
    code, out, err = saccade("runs", "rerun", "old", "--set", "seed=7")
    assert code == 0, err
    cells = rows(out)
    assert ["setting seed", "632", "7"] in cells
    assert any(row[:2] in (["code", "f" * 10], ["code", "f" * 10 + " with changes"]) for row in cells)
    assert "git worktree add --detach ../saccade-ffffffffff ffffffffff" in out
    (tracked,) = Reader(database).runs()
    assert tracked.tags["saccade.rerun_of"] == old.id
    new = find_run(root, tracked.run_id)
    assert new.run not in (None, old)
    assert (new.params["seed"], new.params["then"], new.params["data.dataset"]) == ("7", "[]", "toy")
    assert ["repeats", old.id] in rows(saccade("runs", "show", tracked.run_id)[1])
    # On a terminal it asks first.
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert saccade("runs", "rerun", old.id)[0] == 1
    assert len(Reader(database).runs()) == 1


# What is not as it was -----------------------------------------------------------------------------------------------


def changes(run: RunDir, root: Path, *overrides: str) -> dict[str, tuple[str, str]]:
    repeat = prepare(local_record(run), root, overrides)
    return {change.what: (change.then, change.now) for change in changes_since(repeat)}


def test_code_packages_data_and_machine(make: Make, make_toy: Callable[..., Path], root: Path) -> None:
    data = make_toy()
    settings = ["data.dataset=toy", "engine.threads=1", "engine.precision=fp32", "clip.frames=4", "pretrain.epochs=0"]
    run = make("x", f"data.root={data}", *settings)
    found = changes(run, root)
    assert found.keys() == {"data digest"}
    assert found["data digest"][0] == "5b4f"
    assert len(found["data digest"][1]) == 32
    environment = run.path / "environment.txt"
    text = environment.read_text().splitlines()
    text = ["torch==1.0" if line.startswith("torch==") else line for line in text if not line.startswith("pytest==")]
    environment.write_text("\n".join(["# python 3.9.1 (CPython)", *text[1:], "left-behind==7"]) + "\n")
    record = json.loads((run.path / "run.json").read_text())
    record["host"] = "gpu01"
    (run.path / "run.json").write_text(json.dumps(record))
    found = changes(run, root, "seed=1", "engine.threads=2")
    assert found["package torch"][0] == "1.0"
    assert found["package left-behind"] == ("7", "not installed")
    assert found["package pytest"] == ("not installed", pytest.__version__)
    assert found["python"][0] == "3.9.1"
    assert found["host"][0] == "gpu01"
    assert found["device"] == ("CPU, 1 thread, fp32", "CPU, 2 threads, fp32")
    assert found["setting seed"] == ("632", "1")
    text_ = changes_text(*(lambda repeat: (repeat, changes_since(repeat)))(prepare(local_record(run), root)))
    assert rows(text_)[1] == ["what", "then", "now"]
    assert rows(text_)[3] == ["package torch", "1.0", found["package torch"][1]]


def test_the_weights_that_a_run_started_from_must_be_the_same(make: Make, root: Path, tmp_path: Path) -> None:
    from saccade.models.encoder import build_encoder
    from saccade.models.export import save_encoder

    file = tmp_path / "encoder" / "encoder.safetensors"
    save_encoder(file.parent, build_encoder("r3d", width=4), name="r3d", width=4, clip_frames=4, clip_size=16)
    settings = [f"encoder.weights={file}", "encoder.width=4", "pretrain.epochs=0"]
    run = make("x", *settings, tags={"weights_sha256": "ab" * 32})
    with pytest.raises(RunError, match=f"run {run.id} started from weights of sha256 abababababab..., but "):
        prepare(local_record(run), root)
    other = prepare(local_record(run), root, [f"encoder.weights={file.parent}"])
    assert other.weights == file
    shutil.rmtree(file.parent)
    with pytest.raises(WeightsError, match="no such file or folder"):
        prepare(local_record(run), root)


def test_what_cannot_be_verified(make: Make, saccade: Command, root: Path) -> None:
    running, bare, odd = make("running", status=""), make("bare"), make("odd")
    (odd.path / "spec.yaml").write_text("name: odd\nencoder: {nmae: r3d}\n")
    with running.lock():
        code, _, err = saccade("runs", "verify", "running")
    assert (code, err) == (2, f"error: run {running.id} is still running; verify it when it has ended\n")
    code, _, err = saccade("runs", "verify", "bare")
    assert (code, err) == (
        2,
        f"error: run {bare.id} has no metrics to compare with: it ended before the first one; choose another\n",
    )
    code, _, err = saccade("runs", "verify", "odd")
    assert code == 2
    assert err.startswith(f"error: spec.yaml of run {odd.id}:2: encoder.nmae: unknown key, did you mean name?")
    assert "; the run's own code is commit " in err
    assert err.count("\n") == 1
