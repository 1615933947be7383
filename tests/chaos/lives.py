"""Lives of a run as small as a test can use: each ends by a fault or well, and all that is left must be the same."""

import multiprocessing
import runpy
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saccade.journal import read_journal
from saccade.run_dir import RunDir, create_run
from saccade.spec_reader import parse_spec

from ..states import leaves

TRAINER = Path(__file__).with_name("faulty_trainer.py")
SECONDS = 120
"""Far more than a life takes; a hang is a failure."""
LEAVE_SEC = 10.0
"""What SLURM may leave a job that has to go."""
KILLED, STOPPED, MISTAKE = -9, 143, 2

OWN = """
name: resume
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: [3, 4], warmup_epoch: 1, every_epochs: 2, iterations: 3, restarts: 2}}
pretrain: {{epochs: 4, batch_size: 4, schedule: cosine}}
evaluation: {{retrieval: {{clips: 2, topk: [1, 5]}}}}
checkpoint: {{every_steps: 3, keep_every_epochs: 2}}
tracking: {{log_every_steps: 3}}
"""
SPEC = (Path(__file__).parent.parent / "small_spec.yaml").read_text() + OWN
STEPS = 16
"""4 epochs of 16 videos in batches of 4; a clustering after epoch 2."""
PROBE = (
    *("pretrain.epochs=1", "prototypes.num_clusters=[]", "evaluation.retrieval.baselines=false"),
    # The release's probe, whose encoder changes too; 16 videos in batches of 4, so 8 steps.
    *(f"evaluation.linear_probe.{key}" for key in ("enabled=true", "augment=true", "batch_norm_training=true")),
    *(f"evaluation.linear_probe.{key}" for key in ("epochs=2", "batch_size=4", "clips=2", "test_every_epochs=1")),
    *(f"evaluation.finetune.{key}" for key in ("enabled=true", "splits=[1, 2]", "epochs=1", "batch_size=4", "clips=2")),
    *("evaluation.linear_probe.decay_epochs=[1]", "evaluation.finetune.decay_epochs=[]"),
)


def new_run(folder: Path, data: Path, overrides: Sequence[str] = ()) -> RunDir:
    spec = parse_spec(SPEC.format(root=data), "resume.yaml", overrides)
    return create_run(folder / "runs", spec, ["saccade", "run"])


@dataclass(frozen=True)
class Life:
    """How one attempt at a run went."""

    code: int
    said: str
    left_sec: float
    """From the request to stop to the end; 0 when there was none."""

    @property
    def mistake(self) -> str:
        """The one line of an error; anything but the names of stages, bars and the like beside it is a failure."""
        assert "Traceback" not in self.said, self.said
        (line,) = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return line


def begin(run: RunDir, what: str = "never", place: str = "", number: int = 1) -> Any:
    """Start an attempt in a process forked from one that has imported everything: imports are most of a tiny run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saccade.runner", "saccade.stages.retrieval", "matplotlib.pyplot"])
    life = {"what": what, "place": place, "number": number, "folder": str(run.path), "said": str(_log(run))}
    process = context.Process(target=runpy.run_path, args=(str(TRAINER),), kwargs={"init_globals": {"LIFE": life}})
    _log(run).write_text("")
    (run.path / "asked").unlink(missing_ok=True)
    process.start()
    return process


def end(run: RunDir, process: Any) -> Life:
    """Wait for the end of an attempt."""
    process.join(timeout=SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"it hangs; it said: {_log(run).read_text()}")
    asked = run.path / "asked"
    left_sec = time.monotonic() - float(asked.read_text()) if asked.exists() else 0.0
    return Life(process.exitcode, _log(run).read_text(), left_sec)


def live(run: RunDir, what: str = "never", place: str = "", number: int = 1) -> Life:
    """One attempt, see faulty_trainer.py for what may happen in it; it must end as is fit for that."""
    life = end(run, begin(run, what, place, number))
    fit = {"never": 0, "drawn": 0, "clock": 0, "kill": KILLED, "term": STOPPED, "term-all": STOPPED}
    assert life.code == fit.get(what, MISTAKE), (what, place, number, life.said)
    assert life.left_sec < LEAVE_SEC, (what, place, number)
    assert "Traceback" not in life.said, life.said
    return life


def _log(run: RunDir) -> Path:
    return run.root.parent / f"{run.id}.said"  # not on the disk of the run, which may be full


def points(run: RunDir) -> list[tuple[str, int, float]]:
    """Every logged point but those that measure time."""
    return [
        (name, event["step"], value)
        for event, _ in read_journal(run.journal)
        if event["kind"] == "metrics"
        for name, value in event["values"].items()
        if not name.startswith("perf/")
    ]


def events(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event for event, _ in read_journal(run.journal) if event["kind"] == kind]


def saved_step(run: RunDir) -> int:
    return int(torch.load(run.path / "checkpoints/last.pt", weights_only=True)["learner"]["step"])


def assert_same_checkpoints(run: RunDir, other: RunDir, *names: str) -> None:
    for name in names:
        states = [torch.load(r.path / name, weights_only=True) for r in (run, other)]
        for state in states:
            del state["mark"]  # bytes of a journal, in which times stand
        first, second = (dict(leaves(state)) for state in states)
        assert first.keys() == second.keys()
        for path, value in first.items():
            same = torch.equal(value, second[path]) if isinstance(value, torch.Tensor) else value == second[path]
            assert same, f"{name}{path} differs"


def assert_same_files(run: RunDir, other: RunDir, *names: str) -> None:
    for name in ("encoder/encoder.safetensors", *names):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name


def assert_same_run(run: RunDir, other: RunDir) -> None:
    """The same weights, memory, optimiser, clusters and scores, to the bit, and each point once."""
    assert_same_checkpoints(run, other, "checkpoints/last.pt", "checkpoints/epoch_0002.pt", "checkpoints/epoch_0004.pt")
    assert sorted(points(run)) == sorted(points(other))
    assert_same_files(run, other, *(f"clusters/epoch_0002/{n}" for n in ("assignments.parquet", "centroids_0.npy")))
    assert announced(run) == announced(other)
    assert_each_point_once(run)


def announced(run: RunDir) -> set[str]:
    """Files that a run hands over, but for pictures."""
    paths = {event["path"] for event in events(run, "artifact")}
    return {path for path in paths if not path.startswith(("figures/", "previews"))}


def assert_each_point_once(run: RunDir) -> None:
    counts = Counter((name, step) for name, step, _ in points(run))
    assert counts.most_common(1)[0][1] == 1
    assert {step for name, step in counts if name == "pretrain/loss"} == {3, 6, 9, 12, 15, 16}


def assert_same_classifiers(run: RunDir, other: RunDir) -> None:
    """The same for a run of `PROBE`."""
    assert_same_checkpoints(run, other, "checkpoints/last.pt", "checkpoints/evaluation.pt")
    assert sorted(points(run)) == sorted(points(other))
    counts = Counter((name, step) for name, step, _ in points(run))
    assert counts.most_common(1)[0][1] == 1
    assert {step for name, step in counts if name == "linear_probe/loss"} == {3, 6, 8}
    assert {step for name, step in counts if name == "finetune/split2/loss"} == {3, 4}
    stages = ("linear_probe", "finetune_split1", "finetune_split2")
    assert_same_files(run, other, *(f"tables/{stage}_per_class.csv" for stage in stages))
    assert_same_files(run, other, *(f"classifiers/{stage}.safetensors" for stage in stages))
