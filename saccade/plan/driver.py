"""`saccade plan` in the process of the command, which loads no PyTorch: one measuring process after the other."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from saccade.amounts import bytes_text, duration
from saccade.chain import read_followers
from saccade.engine.host import briefly_spinning
from saccade.errors import RunError
from saccade.initial_weights import adopt, find_initial_weights, with_weights_beside
from saccade.run_dir import RunDir
from saccade.spec import Spec
from saccade.spec_reader import dump_spec, read_spec

__all__ = ["ERROR_FILE", "chain_text", "plan_chain"]

ERROR_FILE = "error.txt"
"""Where the measuring process writes down a user's mistake."""

_STOP_SEC = 10.0


def plan_chain(spec_path: Path, overrides: Sequence[str], runs_root: Path) -> list[dict[str, Any]]:
    """Plan a spec and those that run after it.

    Returns:
        For each `plan`, in seconds and bytes, and `text` for people.

    Raises:
        SaccadeError: Whatever would stop the run itself.
    """
    spec = read_spec(spec_path, overrides)
    followers = zip(spec.then, read_followers(spec_path, spec, overrides), strict=True)
    specs = [
        with_weights_beside(spec, spec_path),
        *(with_weights_beside(follower, spec_path.parent / name) for name, follower in followers),
    ]
    weights = [find_initial_weights(each, runs_root) for each in specs]  # all of them before anything is measured
    plans = []
    for place, (each, file) in enumerate(zip(specs, weights, strict=True), start=1):
        if len(specs) > 1:
            print(f"saccade plan: {place} of {len(specs)}: {each.name}", file=sys.stderr, flush=True)
        plans.append(_plan(each, file, runs_root, follows=place > 1 and file is None))
    return plans


def chain_text(plans: Sequence[Mapping[str, Any]]) -> str:
    """Plans of `plan_chain` for people, and what they come to together."""
    texts = [plan["text"] for plan in plans]
    if len(plans) > 1:
        seconds, disk = (sum(plan["plan"][key] for plan in plans) for key in ("seconds", "disk_bytes"))
        texts.append(f"all {len(plans)} runs: {duration(seconds)}, {bytes_text(disk)} on the disk")
    return "\n\n\n".join(texts)


def _plan(spec: Spec, weights: Path | None, runs_root: Path, *, follows: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="saccade-plan-") as scratch:
        folder = Path(scratch)
        (folder / "spec.yaml").write_text(dump_spec(spec.model_copy(update={"then": ()})), encoding="utf-8")
        if weights is not None:
            adopt(weights, spec.encoder.weights, RunDir(folder))
        command = [sys.executable, "-m", "saccade.plan", scratch, str(runs_root), *(["follows"] if follows else [])]
        _measure(command, folder / ERROR_FILE)
        plan: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    return plan


def _measure(command: Sequence[str], mistake: Path) -> None:
    """Run the measuring process, which talks to stderr."""
    environment = briefly_spinning(os.environ)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C reaches the process too; it is not left behind in any case
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SEC)
            process.kill()
            raise
    if mistake.exists():
        raise RunError(mistake.read_text(encoding="utf-8"))
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", perhaps for want of memory: lower pretrain.batch_size or engine.workers" if name == "SIGKILL" else ""
        raise RunError(f"the measuring process was ended by {name}{hint}")
    if code:
        raise RunError(f"the measuring process has failed with exit code {code}; what it says is above")
