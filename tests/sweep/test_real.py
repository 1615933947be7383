"""A small study of real trainings on toy videos, as a job on this machine; its best gives its score again."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from saccade.errors import SaccadeError
from saccade.run_dir import create_run
from saccade.runner import main
from saccade.slurm import Command, submit
from saccade.spec_reader import read_spec
from saccade.sweep.trial import last_values

from .conftest import load

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
EXPERIMENT = """\
name: toy
data: {root: ROOT, dataset: toy, validation: ['*_g01_*']}
clip: {frames: 8, size: 32, eval_crop: 40}
encoder: {width: 4}
contrast: {num_negatives: 8, projection_dim: 8}
prototypes: {num_clusters: []}
pretrain: {epochs: 3, batch_size: 8, schedule: cosine}
evaluation: {retrieval: {enabled: false, validate_every_epochs: 1, clips: 1, topk: [1, 5]}}
checkpoint: {final_epochs: 0}
engine: {device: cpu, precision: fp32, workers: 0, threads: 1}
"""
SWEEP = """\
name: real
experiment: toy.yaml
objective: best/val_retrieval_top1
search:
  pretrain.learning_rate: {min: 1e-3, max: 0.3, log: true}
  saccade.margin_h: {min: 0, max: 24, step: 4}
budget: {trials: 2}
"""


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("own_signals")
def test_a_study_of_real_trainings(
    make_toy: Callable[..., Path],
    tracked_folder: Path,
    saccade: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_toy(train_per_class=2)
    (tracked_folder / "toy.yaml").write_text(EXPERIMENT.replace("ROOT", str(data)))
    sweep = tracked_folder / "real.yaml"
    sweep.write_text(SWEEP)
    jobs = submit(["sweep", "start", str(sweep)], "local,time=10", runs_root=Path("runs"))
    assert [job.result() for job in jobs] == [0]

    trials = load(sweep).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert trials[0].params == {"pretrain.learning_rate": 0.1, "saccade.margin_h": 12}
    for trial in trials:
        (run,) = trial.user_attrs["runs"]
        log = (Path("runs") / run / "journal.jsonl").read_text()
        assert "val/retrieval_top1" in log
        assert "test/" not in log  # no trial has scored a test video
        assert not (Path("runs") / run / "model").exists()
    code, out, _ = saccade("sweep", "best", str(sweep))
    assert code == 0
    assert "# Command:  saccade run runs/sweeps/real/best.yaml\n" in out

    spec = read_spec("runs/sweeps/real/best.yaml")
    run_again = create_run("again", spec, [])
    assert main([str(run_again.path)]) == 0
    best = max(trials, key=lambda trial: trial.value or 0.0)
    assert last_values(run_again, ["best/val_retrieval_top1"]) == {"best/val_retrieval_top1": best.value}


def test_parameters_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What sbatch would get, with a fake srun in the way of submitit's own look for a cluster."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", ""), ("sbatch", 'cp "$1" "$BATCH"\necho Submitted batch job 17')):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("BATCH", str(tmp_path / "batch.sh"))
    given = "partition=gpu,gpus_per_node=1,time=90,account=lab"
    (job,) = submit(["run", "x.yaml"], given, runs_root=tmp_path / "runs", name="run-x")
    assert job.job_id == "17"
    batch = (tmp_path / "batch.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", batch, re.MULTILINE))
    wanted = {"partition": "gpu", "gpus-per-node": "1", "time": "90", "account": "lab", "job-name": "run-x"}
    assert wanted.items() <= options.items()
    jobs = submit(["sweep", "start", "x.yaml"], given, runs_root=tmp_path / "runs", jobs=2)
    assert [job.job_id for job in jobs] == ["17_0", "17_1"]
    assert "#SBATCH --array=0-1" in (tmp_path / "batch.sh").read_text()
    with pytest.raises(SaccadeError, match="'gpu' is not of the form key=value"):
        submit(["run"], "gpu", runs_root=tmp_path)
    with pytest.raises(SaccadeError, match="colour"):
        submit(["run"], "colour=blue", runs_root=tmp_path)


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SaccadeError, match=r'--slurm partition=gpu: Could not detect "srun"'):
        submit(["run"], "partition=gpu", runs_root=tmp_path)


def test_a_job_that_is_preempted_goes_on_with_its_run(tmp_path: Path) -> None:
    """submitit calls `checkpoint` in the signal's handler and queues what that gives."""
    stub = "import sys, time; print('saccade: run 2026-x in runs/2026-x', file=sys.stderr, flush=True); time.sleep(60)"
    run, sweep = (Command([word, "x.yaml", "--runs", "runs"], tmp_path, "runs") for word in ("run", "sweep"))
    for command in (run, sweep):
        command._process = subprocess.Popen([sys.executable, "-c", stub], stderr=subprocess.PIPE, text=True)
        assert command._process.stderr is not None
        command.note(command._process.stderr.readline())
        later = command.checkpoint().function
        assert command._process.poll() is not None
        command._process.stderr.close()
        expected = ["run", "--resume", "2026-x", "--runs", "runs"] if command is run else sweep.words
        assert later.words == expected
        assert later.__getstate__()["_process"] is None  # it travels to the next job as a file


def test_a_file_is_no_storage_for_several_machines(
    tracked_folder: Path, saccade: Callable[..., tuple[int, str, str]]
) -> None:
    (tracked_folder / "toy.yaml").write_text(EXPERIMENT.replace("ROOT", "data"))
    (tracked_folder / "real.yaml").write_text(SWEEP)
    code, _, err = saccade("sweep", "real.yaml", "--slurm", "partition=gpu")
    assert code == 2
    assert err.startswith("error: real.yaml: storage: workers on several machines need a database server")
    assert err.count("\n") == 1
