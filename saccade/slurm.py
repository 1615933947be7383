"""Commands of ours as jobs of a SLURM cluster, through submitit; `local` runs them on this machine, as jobs too.

A job that is preempted or runs out of its time stops in good order and is queued again: a sweep's worker has handed its
trial back then, and a run goes on from its last checkpoint.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade.errors import SaccadeError
from saccade.provenance import strip_credentials
from saccade.spec import Spec
from saccade.spec_reader import read_spec

if TYPE_CHECKING:
    import submitit

__all__ = ["Command", "describe", "submit", "submit_run"]

LOCAL = "local"
_STOP_SEC = 80.0
"""SLURM kills a job 90 s after the signal that says so."""
_OWN_WORDS = {"time": "timeout_min"}
_SHARED = {"nodes", "gpus_per_node", "cpus_per_task", "mem_gb", "tasks_per_node", "timeout_min"}
"""Parameters that submitit knows for every kind of cluster; all others are SLURM's."""
_RUN = re.compile(r"^saccade: run (\S+) in ", re.MULTILINE)


class Command:
    """A `saccade` command as a job.

    Args:
        words: What stands after `saccade`.
        folder: The current folder for it.
        runs_root: Where its runs are, as the command was told; for going on with one.
    """

    def __init__(self, words: Sequence[str], folder: Path, runs_root: str) -> None:
        self.words, self.folder, self.runs_root = list(words), folder, runs_root
        self.run_id = ""
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> int:
        """Run it to its end; returns its exit code."""
        # Ours to handle, and inherited when ignored: SLURM sends it to every process of a job.
        handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "saccade.cli", *self.words],
                cwd=self.folder,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        finally:
            signal.signal(signal.SIGUSR2, handler)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            sys.stderr.write(line)
            self.note(line)
        return self._process.wait()

    def note(self, line: str) -> None:
        """Learn from what the command says which run it is about; of a chain, the first."""
        found = _RUN.match(line)
        if found and not self.run_id:
            self.run_id = found[1]

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Stop it in good order; returns what to do when the job starts again. Called by submitit."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_SEC)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return DelayedSubmission(self._later())

    def _later(self) -> "Command":
        if self.words[0] != "run" or not self.run_id:
            return Command(self.words, self.folder, self.runs_root)
        return Command(["run", "--resume", self.run_id, "--runs", self.runs_root], self.folder, self.runs_root)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}


def submit(
    words: Sequence[str], parameters: str, *, runs_root: Path, jobs: int = 1, name: str = "saccade"
) -> "list[submitit.Job[int]]":
    """Submit a command.

    Args:
        words: What stands after `saccade`.
        parameters: "partition=gpu,time=600,gpus_per_node=1": SLURM's, and time in minutes; or "local".
        runs_root: Folder of all runs; the jobs' scripts and logs go to `slurm` in it.
        jobs: How many times.
        name: Of the jobs.

    Raises:
        SaccadeError: There is no SLURM, or it does not know a parameter.
    """
    import submitit

    if any(strip_credentials(word) != word for word in words):
        raise SaccadeError(
            "--slurm: the command holds a password, which would stand in the job's files; leave it out of the address, "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which jobs inherit"
        )
    given = _parsed(parameters)
    cluster = LOCAL if LOCAL in given else "slurm"
    given.pop(LOCAL, None)
    folder = runs_root.absolute() / "slurm"
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(name=name, **{"timeout_min": 24 * 60, **given})
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        message = " ".join(str(error).split())[:300]
        raise SaccadeError(f"--slurm {parameters}: {message}") from None
    command = Command(words, Path(os.getcwd()), str(runs_root))
    with executor.batch():
        submitted = [executor.submit(command) for _ in range(jobs)]
    return submitted


def _parsed(parameters: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in filter(None, (each.strip() for each in parameters.split(","))):
        key, equals, value = part.partition("=")
        if not equals and part != LOCAL:
            raise SaccadeError(f"--slurm {parameters}: '{part}' is not of the form key=value, such as partition=gpu")
        name = _OWN_WORDS.get(key, key)
        if part != LOCAL and name not in _SHARED:
            name = f"slurm_{key}"
        found[name] = int(value) if value.isdigit() else value
    return found


def _check_gpus(spec: Spec, parameters: str) -> None:
    given = _parsed(parameters)
    if given.get("tasks_per_node", 1) != 1:
        raise SaccadeError(
            f"--slurm {parameters}: tasks_per_node would start the run {given['tasks_per_node']} times; a task is one "
            "saccade run, which starts its own processes (engine.processes)"
        )
    gpus, processes = given.get("gpus_per_node"), spec.engine.processes
    if isinstance(gpus, int) and gpus < processes and spec.engine.device != "cpu":
        raise SaccadeError(
            f"--slurm {parameters}: gpus_per_node={gpus} are too few for engine.processes = {processes}; give "
            f"gpus_per_node={processes}"
        )


def describe(jobs: "Sequence[submitit.Job[int]]", runs_root: Path) -> str:
    """What was submitted, and where it says how it does."""
    ids = ", ".join(str(job.job_id) for job in jobs)
    folder = runs_root / "slurm"
    return f"submitted job{'s' * (len(jobs) != 1)} {ids}; output in {folder}/<job>_0_log.err; cancel with scancel"


def submit_run(
    spec: Path | None, overrides: Sequence[str], resume: str | None, parameters: str, runs_root: Path
) -> str:
    """`saccade run` as a job; says which.

    Raises:
        SaccadeError: The spec is wrong, or the cluster.
    """
    if spec is not None:
        _check_gpus(read_spec(spec, overrides), parameters)
    words = ["run", *([str(spec)] if spec is not None else []), "--runs", str(runs_root)]
    words += ["--resume", resume] if resume is not None else []
    words += [word for each in overrides for word in ("--set", each)]
    name = spec.stem if spec is not None else str(resume)
    return describe(submit(words, parameters, runs_root=runs_root, name=f"run-{name}"), runs_root)
