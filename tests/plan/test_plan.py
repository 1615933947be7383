"""`saccade plan` on a toy set: its steps, epochs and bytes are those of a real run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade import runner
from saccade.engine.host import resident_bytes
from saccade.journal import read_journal
from saccade.plan.__main__ import main
from saccade.plan.driver import ERROR_FILE, chain_text
from saccade.plan.peak import PeakMemory
from saccade.spec_reader import dump_spec, read_spec

Saccade = Callable[..., tuple[int, str, str]]

OWN = """
name: tiny
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: [3, 4], warmup_epoch: 1, every_epochs: 1, iterations: 3, restarts: 2}}
pretrain: {{epochs: 3, batch_size: 4, decay_epochs: []}}
evaluation:
  retrieval: {{clips: 2, topk: [1, 2], batch_size: 4}}
  linear_probe: {{enabled: true, epochs: 2, batch_size: 4, decay_epochs: [], clips: 2}}
checkpoint: {{keep_every_epochs: 2, final_epochs: 0}}
tracking: {{log_every_steps: 1}}
"""
SPEC = (Path(__file__).parent.parent / "small_spec.yaml").read_text() + OWN


@pytest.fixture(scope="module")
def toy(make_toy: Callable[..., Path]) -> Path:
    return make_toy()


@pytest.fixture
def spec(toy: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC.format(root=toy))
    return path


def test_a_plan_and_the_run_itself(
    saccade: Saccade, spec: Path, toy: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    code, out, _ = saccade("plan", str(spec), "--json")
    assert code == 0
    (plan,) = json.loads(out)
    assert list(tmp_path.iterdir()) == [spec]  # no runs, no database
    wanted = "prototypes.num_clusters: 3 clusters of 16 fixations (8 videos x 2) are 5.3 a cluster; use at most 1"
    assert wanted in plan["advice"]

    folder = make_run(spec.read_text())
    assert runner.main([str(folder)]) == 0
    events = [event for event, _ in read_journal(folder / "journal.jsonl")]

    steps = [event["step"] for event in events if event["kind"] == "metrics" and "pretrain/loss" in event["values"]]
    assert (plan["steps"], plan["epochs"]) == (len(steps), 3)
    assert plan["clusterings"] == [int(path.name[-4:]) for path in sorted((folder / "clusters").iterdir())] == [1, 2]
    files = {file["name"]: file for file in plan["files"]}

    kept = sorted((folder / "checkpoints").glob("epoch_*.pt"))
    assert files["kept checkpoints"]["count"] == len(kept) == 2
    assert files["kept checkpoints"]["bytes"] == pytest.approx(sum(path.stat().st_size for path in kept), rel=0.01)
    encoder = sum(path.stat().st_size for path in (folder / "encoder").iterdir())
    assert files["encoder"]["bytes"] == pytest.approx(encoder, rel=0.01)
    classifier = (folder / "checkpoints" / "evaluation_1.pt").stat().st_size
    assert files["checkpoints of classifiers"]["bytes"] == pytest.approx(classifier, rel=0.1)  # it holds scores too
    # Every file that is planned, and pictures that depend on what is found.
    inodes = {path.stat().st_ino: path.stat().st_size for path in (folder / "checkpoints").iterdir()}
    planned = sum(file["bytes"] for name, file in files.items() if "checkpoints" in name)
    assert planned == pytest.approx(sum(inodes.values()), rel=0.02)

    metrics = {key: event["step"] for event in events if event["kind"] == "metrics" for key in event["values"]}
    (probe,) = (stage for stage in plan["stages"] if stage["name"] == "linear probe")
    assert probe["count"].startswith(f"{metrics['linear_probe/loss']} steps, ")
    stages = [stage["name"] for stage in plan["stages"]]
    assert stages[:2] == ["start", "pre-training"]
    # 100 MiB is less than PyTorch alone, 4 GiB more than anything so small can take.
    assert 100 << 20 < plan["measured"]["peak_host_bytes"] < 4 << 30


def test_chains(saccade: Saccade, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = spec.with_name("after.yaml")
    follower.write_text(
        "name: after\nbase: tiny.yaml\npretrain: {epochs: 0}\nevaluation: {retrieval: {enabled: false}}\n"
    )
    chain = spec.with_name("chain.yaml")
    chain.write_text("name: chain\nbase: tiny.yaml\nthen: [after.yaml]\n")
    measured = []

    def measure(command: list[str], mistake: Path) -> None:
        folder = Path(command[3])
        measured.append((read_spec(folder / "spec.yaml").name, command[5:]))
        (folder / "plan.json").write_text(json.dumps({"plan": {"name": folder.name}, "text": ""}))

    monkeypatch.setattr("saccade.plan.driver._measure", measure)
    assert saccade("plan", str(chain), "--json")[0] == 0
    assert measured == [("chain", []), ("after", ["follows"])]
    # The second gets the encoder of the first, so it is no random one that is evaluated.
    for words, random in (([], True), (["follows"], False)):
        folder = tmp_path / f"scratch{len(words)}"
        folder.mkdir()
        (folder / "spec.yaml").write_text(dump_spec(read_spec(follower)))
        assert main([str(folder), str(tmp_path / "runs"), *words]) == 0
        plan = json.loads((folder / "plan.json").read_text())["plan"]
        assert any("random encoder" in line for line in plan["advice"]) == random
        assert [stage["name"] for stage in plan["stages"]] == ["start", "pictures", "linear probe"]


def test_what_would_stop_the_run_stops_the_plan(saccade: Saccade, spec: Path, tmp_path: Path) -> None:
    code, out, err = saccade("plan", str(spec), "--set", "encoder.weights=nowhere.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith("error: encoder.weights: nowhere.safetensors: no such file or folder")
    # Weights that lie beside the spec are found there, as by the run itself.
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "spec.yaml").write_text(spec.read_text() + "\n")
    (folder / "mine.safetensors").write_bytes(b"no weights")
    code, out, err = saccade("plan", "exported/spec.yaml", "--set", "encoder.weights=mine.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith("error: exported/mine.safetensors: ")
    # What the measuring process finds, here in this one
    (tmp_path / "spec.yaml").write_text(spec.read_text().replace("batch_size: 4, decay", "batch_size: 50, decay", 1))
    assert main([str(tmp_path), str(tmp_path / "runs")]) == 2
    wrong = "pretrain.batch_size: 50 videos do not fit in a training list of 8; use at most 8"
    assert (tmp_path / ERROR_FILE).read_text() == wrong
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; open(sys.argv[1] + '/error.txt', 'w').write('no such video'); sys.exit(2)", "no such video"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "the measuring process was ended by SIGKILL, perhaps for want of memory: lower pretrain.batch_size or "
            "engine.workers",
        ),
        ("import sys; sys.exit(3)", "the measuring process has failed with exit code 3; what it says is above"),
    ],
)
def test_how_the_measuring_process_can_end(
    saccade: Saccade, spec: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    start = subprocess.Popen
    monkeypatch.setattr(
        "saccade.plan.driver.subprocess.Popen",
        lambda command, **rest: start([sys.executable, "-c", script, *command[3:]], **rest),
    )
    assert saccade("plan", str(spec)) == (2, "", f"error: {message}\n")


def test_the_text_of_a_chain() -> None:
    one = {"text": "first: ...", "plan": {"seconds": 3600.0, "disk_bytes": 1 << 30}}
    other = {"text": "second: ...", "plan": {"seconds": 5400.0, "disk_bytes": 1 << 29}}
    assert chain_text([one]) == "first: ..."
    assert chain_text([one, other]).split("\n\n\n") == [
        "first: ...",
        "second: ...",
        "all 2 runs: 2.5 h, 1.5 GiB on the disk",
    ]


def test_the_peak_is_kept() -> None:
    with PeakMemory() as peak:
        held = bytearray(b"x" * (96 << 20))
        high = resident_bytes()
        del held
        assert peak.bytes >= high - (1 << 20)
    assert peak.bytes >= high - (1 << 20)
