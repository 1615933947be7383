"""Several processes follow one: in the same steps, the same clustering, the same scores and the same files."""

import json
import math
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from saccade.journal import read_journal
from saccade.memory_bank import MemoryBank
from saccade.spec_reader import dump_spec, parse_spec

from ..states import leaves

Together = Callable[..., list[int | None]]

OWN = """
name: together
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: [3, 4], warmup_epoch: 1, every_epochs: 2, iterations: 3, restarts: 2}}
pretrain: {{epochs: 3, batch_size: 4, schedule: cosine}}
evaluation:
  retrieval: {{clips: 2, topk: [1, 5], batch_size: 3}}
  linear_probe:
    {{enabled: true, epochs: 1, batch_size: 4, clips: 1, augment: true, batch_norm_training: true, decay_epochs: []}}
  finetune: {{enabled: true, epochs: 1, batch_size: 4, clips: 1, decay_epochs: []}}
checkpoint: {{every_steps: 3}}
tracking: {{log_every_steps: 3}}
"""
SPEC = (Path(__file__).parent.parent / "small_spec.yaml").read_text() + OWN


@pytest.fixture(scope="module")
def data(make_toy: Callable[..., Path]) -> Path:
    root: Path = make_toy(train_per_class=2, frames=16)
    return root


@pytest.fixture
def new_run(tmp_path: Path, data: Path) -> Callable[..., Path]:
    """Make a run's folder: (name, *overrides) to it."""

    def make(name: str, *overrides: str, root: Path = data) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "spec.yaml").write_text(dump_spec(parse_spec(SPEC.format(root=root), "x.yaml", overrides)))
        return folder

    return make


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event, _ in read_journal(folder / "journal.jsonl") if event["kind"] == kind]


def points(folder: Path) -> dict[tuple[str, int], float]:
    """Every logged point but those that measure time; each is there once."""
    found = [
        ((name, event["step"]), value)
        for event in events(folder, "metrics")
        for name, value in event["values"].items()
        if not name.startswith("perf/")
    ]
    assert Counter(key for key, _ in found).most_common(1)[0][1] == 1
    return dict(found)


def assert_close(run: Path, other: Path, tolerance: float, *, momentum: bool = True) -> None:
    """Every weight, running statistic, memory row, prototype and score of two runs, relative to the largest of each."""
    names = [path.relative_to(run).as_posix() for path in run.glob("checkpoints/*.pt")]
    assert "checkpoints/last.pt" in names
    for name in names:
        states = [torch.load(folder / name, weights_only=True) for folder in (run, other)]
        for state in states:
            del state["mark"]  # bytes of a journal, in which times stand
        first, second = (dict(leaves(state)) for state in states)
        assert first.keys() == second.keys()
        for path, value in first.items():
            if "momentum_buffer" in path and not momentum:
                continue
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                scale = max(1.0, value.abs().max().item())
                torch.testing.assert_close(second[path], value, rtol=0, atol=tolerance * scale, msg=f"{name}{path}")
            elif isinstance(value, torch.Tensor):
                assert torch.equal(value, second[path]), f"{name}{path}"
            elif isinstance(value, float):
                assert math.isclose(value, second[path], rel_tol=tolerance, abs_tol=tolerance), f"{name}{path}"
            else:
                assert value == second[path], f"{name}{path}"
    ours, theirs = points(run), points(other)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert math.isclose(value, theirs[key], rel_tol=tolerance, abs_tol=tolerance), key
    tables = [pq.read_table(folder / "clusters/epoch_0002/assignments.parquet").to_pydict() for folder in (run, other)]
    assert tables[0]["cluster"] == tables[1]["cluster"]


def mistake(folder: Path) -> str:
    """The one line of a mistake; PyTorch itself talks of peers that have gone."""
    said = (folder / "said.txt").read_text()
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_follow_one_whatever_happens_to_them(together: Together, new_run: Callable[..., Path]) -> None:
    alone, two, broken = (new_run(name) for name in ("alone", "two", "broken"))
    assert together("train", 1, folder=str(alone), double=True) == [0]
    assert {step for name, step in points(alone) if name == "pretrain/loss"} == {3, 6, 9, 12}

    assert together("train", 2, folder=str(two), double=True) == [0, 0]
    assert_close(alone, two, 1e-9)
    assert files(alone) == files(two)
    assert [event["status"] for event in events(two, "end")] == ["finished"]
    tags = {key: value for event in events(two, "tags") for key, value in event["values"].items()}
    assert tags["device"].startswith("2 processes, each on CPU")

    # A process that is killed ends the others; what one is asked for all do; any number of them goes on.
    options = {"folder": str(broken), "double": True}
    assert together("train", 2, send=signal.SIGKILL, to=1, before_step=5, **options) == [75, -9]
    assert torch.load(broken / "checkpoints/last.pt", weights_only=True)["learner"]["step"] == 4
    assert together("train", 2, send=signal.SIGTERM, to=1, before_step=6, **options) == [143, 143]
    assert torch.load(broken / "checkpoints/last.pt", weights_only=True)["learner"]["step"] == 6
    assert events(broken, "end")[-1]["status"] == "stopped"
    assert together("train", 1, **options) == [0]
    assert_close(alone, broken, 1e-9)
    assert "Traceback" not in "".join((run / "said.txt").read_text() for run in (two, broken))


def test_a_split_memory_bank_is_the_whole_one(together: Together, new_run: Callable[..., Path], tmp_path: Path) -> None:
    assert together("memory_bank", 3, folder=str(tmp_path)) == [0, 0, 0]
    found = [torch.load(tmp_path / f"bank{rank}.pt", weights_only=True) for rank in range(3)]
    whole = MemoryBank(11, 3, torch.Generator().manual_seed(5)).rows
    assert torch.equal(torch.cat([each["rows"] for each in found])[:11], whole)
    assert [len(each["rows"]) for each in found] == [4, 4, 4]  # of 11: one row of the last is nobody's
    after = whole.clone()
    after[6], after[1], after[10] = 1.0, 2.0, 3.0
    for rank, each in enumerate(found):
        assert each["length"] == 11
        assert torch.equal(each["read"], whole[each["slots"]])
        assert torch.equal(each["nothing"], whole[each["slots"][: 0 if rank else 1]])
        assert torch.equal(each["written"], after)
        assert torch.equal(each["whole"], after if rank == 0 else after[:0])
        assert torch.equal(each["restored"], torch.arange(33.0).view(11, 3))

    # A run with it, ended by a kill and gone on with a whole one, is a run that never had one.
    alone, split = new_run("alone"), new_run("split", "engine.split_memory=true")
    assert together("train", 1, folder=str(alone), double=True) == [0]
    options = {"folder": str(split), "double": True}
    # One that is alone with its fault cannot put the memory together, and does not wait for the others to do so.
    assert together("train", 2, send=0, to=0, before_step=6, **options) == [2, 75]
    assert torch.load(split / "checkpoints/last.pt", weights_only=True)["learner"]["step"] == 4
    assert together("train", 2, send=signal.SIGKILL, to=1, before_step=8, **options) == [75, -9]
    assert together("train", 2, send=signal.SIGTERM, to=0, before_step=9, **options) == [143, 143]
    assert together("train", 1, **options) == [0]
    assert_close(alone, split, 1e-9)


def test_a_mistake_is_told_once_whoever_meets_it(
    together: Together, new_run: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    everybody = new_run("everybody", "data.dataset=nothing")
    assert together("train", 2, folder=str(everybody)) == [2, 2]
    assert "nothing: the dataset is not there" in mistake(everybody)

    shutil.copytree(data, tmp_path / "data")
    somebody = new_run("somebody", root=tmp_path / "data")
    frame = sorted((tmp_path / "data/toy/jpegs_256").glob("v_*_g01_*/*.jpg"))[3]
    frame.write_bytes(b"\xff" * frame.stat().st_size)
    assert sorted(together("train", 2, folder=str(somebody)), key=str) == [2, 75]
    assert str(frame) in mistake(somebody)


def test_a_number_of_processes_that_cannot_share_a_batch(together: Together, new_run: Callable[..., Path]) -> None:
    folder = new_run("three")
    assert together("train", 3, folder=str(folder)) == [2, 2, 2]
    assert mistake(folder) == (
        "error: pretrain.batch_size: 4 videos cannot be divided evenly among 3 processes; use a multiple of 3"
    )


def test_shares_of_a_batch_and_what_is_the_same_in_all(together: Together, tmp_path: Path) -> None:
    assert together("pieces", 2, folder=str(tmp_path)) == [0, 0]
    first, second = (torch.load(tmp_path / f"pieces{rank}.pt", weights_only=False) for rank in (0, 1))
    # Two parts of six, of which each process has three.
    assert first["shared"] == [100, 101, 102, 106, 107, 108]
    assert second["shared"] == [103, 104, 105, 109, 110, 111]
    assert first["parts"] == [[100, 101, 102], [106, 107, 108]]
    assert second["parts"] == [[103, 104, 105], [109, 110, 111]]
    assert first["whole"] == second["whole"] == list(range(100, 112))
    for found in (first, second):
        assert {name: value.item() for name, value in found["mean"].items()} == {"a": 0.5, "b": 5.0}
        assert found["stop"] == [False, True, True]
        assert found["first"] == "by 0"
    assert sorted([first["said"], second["said"]]) == [False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_of_two_halves_is_that_of_the_whole(together: Together, tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3, eps=1e-3, momentum=0.3), nn.ReLU()).to(dtype)
    nn.init.uniform_(network[1].weight)
    nn.init.uniform_(network[1].bias)
    # Far from zero, where a mean of squares less a squared mean has no digits left in float32.
    inputs = [torch.randn(6, 2, 3, 4, 5, dtype=dtype) * 3 + 100 * step for step in (0, 1)]
    weights = [torch.randn(6, 3, 2, 3, 4, dtype=dtype) for _ in inputs]
    torch.save({"network": network, "inputs": inputs, "weights": weights}, tmp_path / "given.pt")
    assert together("batch_norm", 2, folder=str(tmp_path)) == [0, 0]
    found = [torch.load(tmp_path / f"found{rank}.pt", weights_only=False) for rank in (0, 1)]
    close: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    for step, (x, weight) in enumerate(zip(inputs, weights, strict=True)):
        x.requires_grad_()
        network.zero_grad()
        out = network(x)
        (out * weight).sum().backward()
        halves = [each[f"step{step}"] for each in found]
        torch.testing.assert_close(torch.cat([half[0] for half in halves]), out.detach(), **close)
        assert x.grad is not None
        torch.testing.assert_close(torch.cat([half[1] for half in halves]), x.grad, **close)
        # Each process has its own part of the weights' gradients; they are averaged later, with all others.
        for parameter, one, other in zip(network.parameters(), halves[0][2], halves[1][2], strict=True):
            # A kernel's is a sum of 144 numbers of about 100 that cancel, so that float32 keeps two decimals.
            kernel = dtype == torch.float32 and parameter.ndim == 5
            torch.testing.assert_close(one + other, parameter.grad, **(close | {"atol": 2e-2} if kernel else close))
    for each in found:
        assert each["kinds"][2] == "JoinedBatchNorm"
        assert each["parameters_before"] == each["parameters_after"]
        assert list(each["state"]) == list(network.state_dict())
        assert each["state"]["1.num_batches_tracked"] == 2
        for key, value in network.state_dict().items():
            torch.testing.assert_close(each["state"][key], value, **close)
        assert torch.equal(each["eval"], found[0]["eval"])
    torch.testing.assert_close(found[0]["eval"], network.eval()(inputs[0]).detach(), **close)


def test_a_spec_says_so_before_anything_starts() -> None:
    text = json.dumps({"name": "x", "prototypes": {"num_clusters": []}})
    for overrides, said in (
        (["engine.processes=3"], "pretrain.batch_size: 16 videos cannot be divided evenly among 3 processes; use a mu"),
        (
            ["engine.processes=4", "pretrain.accumulation_steps=3", "pretrain.batch_size=16"],
            "among 4 processes x 3 accumulation_steps; use a multiple of 12",
        ),
        (["pretrain.accumulation_steps=5"], "among 5 accumulation_steps; use a multiple of 5"),
        (
            ["engine.processes=8", "evaluation.finetune.enabled=true", "evaluation.finetune.batch_size=12"],
            "batch_size=12: 12 videos cannot be divided evenly among 8 processes",
        ),
    ):
        with pytest.raises(Exception, match=r"cannot be divided") as caught:
            parse_spec(text, "x.yaml", overrides)
        assert said in str(caught.value)
    parse_spec(text, "x.yaml", ["engine.processes=8", "pretrain.accumulation_steps=2"])


@pytest.mark.parametrize(
    ("override", "more"),
    [("engine.processes=2", "2 processes"), ("pretrain.accumulation_steps=4", "4 accumulation_steps")],
)
def test_cuda_graphs_are_for_one_process_and_pass(override: str, more: str) -> None:
    text = json.dumps({"name": "x", "prototypes": {"num_clusters": []}, "engine": {"compile": "graphs"}})
    with pytest.raises(
        Exception, match=rf"engine\.compile: graphs work with one process .*, not with {more}; use auto"
    ):
        parse_spec(text, "x.yaml", [override])
    parse_spec(text, "x.yaml", [])
