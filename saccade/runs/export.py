"""`saccade runs export`: a folder that holds all that is needed to do a run again on another machine.

OUT/README.md              what it is, what it found, the steps
OUT/spec.yaml              for `saccade run OUT/spec.yaml`
OUT/weights.safetensors    what it started from, if not from random weights
OUT/environment.txt        packages, as constraints for pip
OUT/git.diff               changes to the commit, if there were any
OUT/run.json               identity, commands, scores, digests
OUT/metrics.csv            every point of every metric
OUT/encoder/, summary.md   what it found
"""

import csv
import io
import json
import math
import shlex
import shutil
from pathlib import Path
from typing import Any

from saccade import atomic
from saccade.errors import RunError
from saccade.provenance import strip_credentials
from saccade.report import as_text, classifier_table, results_table
from saccade.runs.listing import kind
from saccade.runs.record import RunRecord
from saccade.runs.repeat import spec_of
from saccade.spec import Spec
from saccade.spec_reader import dump_spec

__all__ = ["export"]

WEIGHTS = "weights.safetensors"
_RESULTS = ("encoder", "summary.md")
_AS_THEY_ARE = ("environment.txt", "git.diff")


def export(record: RunRecord, out: Path, weights: Path | None) -> list[str]:
    """Write the folder.

    Args:
        record: The run.
        out: The folder, which must not exist or be empty.
        weights: File of the weights that the run started from, if it did.

    Returns:
        What could not be exported, a line each: results of a run that has none, say.

    Raises:
        RunError: The folder cannot be written, or what the run needs is gone.
    """
    spec, missing = spec_of(record), list[str]()
    if weights is not None:
        spec = spec.model_copy(update={"encoder": spec.encoder.model_copy(update={"weights": WEIGHTS})})
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: exists and is not an empty folder; give another one")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _fill(partial, record, spec, weights, missing)
            if out.exists():
                out.rmdir()
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise RunError(f"{error.filename or out}: {error.strerror}; give a folder that can be written to") from None
    return missing


def _fill(folder: Path, record: RunRecord, spec: Spec, weights: Path | None, missing: list[str]) -> None:
    tracking = spec.tracking.model_copy(update={"uri": ""})  # The other machine has a server of its own, or none.
    spec = spec.model_copy(update={"tracking": tracking})
    head = f"# Run {record.id} of {record.created:%Y-%m-%d}, exported; README.md beside this says how to use it.\n"
    atomic.write_text(folder / "spec.yaml", head + dump_spec(spec))
    if weights is not None:
        shutil.copyfile(weights, folder / WEIGHTS)
    for name in _AS_THEY_ARE:
        text = record.text_if_any(name)
        if text:
            atomic.write_text(folder / name, text)
        elif name == "environment.txt":
            missing.append("environment.txt is not among the run's files: the packages are not known")
    for name in _RESULTS:
        try:
            found = record.fetch(name)
        except RunError as error:
            missing.append(str(error))
            continue
        if found.is_dir():
            shutil.copytree(found, folder / name)
        else:
            shutil.copyfile(found, folder / name)
    atomic.write_text(folder / "run.json", json.dumps(_identity(record), indent=1) + "\n")
    atomic.write_text(folder / "metrics.csv", _metrics(record))
    atomic.write_text(folder / "README.md", _readme(folder, record, spec))


def _identity(record: RunRecord) -> dict[str, Any]:
    tags = record.tags
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status,
        "created": record.created.isoformat(timespec="seconds"),
        "seconds": round(record.seconds, 1),
        "spec_hash": record.spec_hash,
        "command": tags.get("mlflow.source.name", ""),
        "git": {"commit": tags.get("git_commit", ""), "dirty": tags.get("git_dirty") == "true"},
        "datasets": dict(record.datasets),
        "device": tags.get("device", ""),
        "weights_sha256": tags.get("weights_sha256", ""),
        "tracked": strip_credentials(record.link),
        "metrics": {key: value if math.isfinite(value) else str(value) for key, value in sorted(record.last.items())},
    }


def _metrics(record: RunRecord) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["metric", "step", "value"])
    for metric, (steps, values) in record.curves.items():
        table.writerows([metric, step, repr(float(value))] for step, value in zip(steps, values, strict=True))
    return text.getvalue()


def _readme(folder: Path, record: RunRecord, spec: Spec) -> str:
    scores = {name: ((0,), (value,)) for name, value in record.last.items()}
    tables = [as_text(table) for table in (results_table(scores), classifier_table(scores)) if table]
    found = ["```", *"\n\n".join(tables).splitlines(), "```"] if tables else ["Nothing was evaluated; see metrics.csv."]
    status = "" if record.status == "FINISHED" else f" It was {record.status}, so what it found is not all."
    started = f"{record.created:%Y-%m-%d %H:%M} UTC"
    lines = [
        f"# {record.name}",
        "",
        f"Run `{record.id}` of {started} ({kind(record)}, seed {spec.seed}).{status}",
        *([f"It followed run {record.follows}."] if record.follows else []),
        "",
        "## What it found",
        "",
        *found,
        "",
        "## How to do it again",
        "",
        "In a checkout of saccade; OUT stands for this folder.",
        "",
        "1. The code:",
        "",
        *(f"    {command}" for command in _code(folder, record)),
        "",
        "2. The packages, in the versions of then (take out lines that your platform lacks, such as those ending in "
        "`+cpu`):",
        "",
        "    python3 -m venv .venv",
        "    grep -v '^saccade==' OUT/environment.txt > constraints.txt",
        "    .venv/bin/pip install -c constraints.txt -e .",
        "",
        f"3. The data: `{spec.data.dataset}` in `{spec.data.root}`, or wherever `--set data.root=FOLDER` says. "
        f"`saccade data check FOLDER/{spec.data.dataset}` prints digests; those of the run are",
        "",
        *(f"    {digest}  {name}" for name, digest in record.datasets.items()),
        "",
        "4. The run, and whether its scores are those above:",
        "",
        "    saccade run OUT/spec.yaml",
        "",
        f"It took {record.seconds:.0f} s on {record.tags.get('device') or 'a machine that is not known'}; on the CPU "
        "with the same packages and number of threads it comes out the same to the bit, elsewhere up to rounding. "
        "`metrics.csv` has every point of then.",
        "",
        f"The run itself was started with `{record.tags.get('mlflow.source.name', '')}`."
        + (" It started from `weights.safetensors`." if spec.encoder.weights else ""),
        "",
    ]
    return "\n".join(lines)


def _code(folder: Path, record: RunRecord) -> list[str]:
    commit = record.tags.get("git_commit", "")
    if not commit:
        return ["# saccade was installed without git: see environment.txt for its version"]
    commands = [f"git checkout {shlex.quote(commit)}"]
    diff = folder / "git.diff"
    if diff.exists():
        text = diff.read_text(encoding="utf-8", errors="replace")
        if "diff --git" in text:
            commands.append("git apply OUT/git.diff")
        commands += [line for line in text.splitlines() if line.startswith("# untracked")]
    return commands
