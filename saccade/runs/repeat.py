"""A run done again: its spec and the weights that it starts from, and what is not as it was then."""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.checksum import file_sha256
from saccade.errors import RunError, SpecError
from saccade.initial_weights import find_initial_weights, initial_weights_file
from saccade.provenance import git_state, machine, packages
from saccade.runs.record import RunRecord
from saccade.runs.tables import table_text
from saccade.spec import Spec
from saccade.spec_reader import parse_spec, spec_diff

__all__ = ["Change", "Repeat", "changes_since", "changes_text", "prepare", "spec_of"]

_SHORT_COMMIT, _PACKAGES_NAMED = 10, 8
_THAT_COUNT = ("torch", "torchvision", "numpy", "faiss-cpu", "faiss-gpu-cu12", "opencv-python-headless", "scipy")
"""Packages that compute; what differs in them is named first."""


@dataclass(frozen=True)
class Repeat:
    """What is needed to do a run again."""

    record: RunRecord
    before: Spec
    """As it was."""
    spec: Spec
    """As it will be."""
    weights: Path | None
    """File of the weights that it starts from, the very same."""


@dataclass(frozen=True)
class Change:
    """Something that is not as it was when a run was made."""

    what: str
    then: str
    now: str


def spec_of(record: RunRecord, overrides: Sequence[str] = ()) -> Spec:
    """The spec of a run, with nothing to follow it.

    Raises:
        RunError: Its spec.yaml is gone.
        SpecError: It is not one that this version understands, or an override is wrong.
    """
    text = record.text("spec.yaml")
    try:
        spec = parse_spec(text, f"spec.yaml of run {record.id}", overrides)
    except SpecError as error:
        commit = record.tags.get("git_commit", "")
        hint = f"; the run's own code is commit {commit[:_SHORT_COMMIT]}" if commit and not overrides else ""
        raise SpecError(f"{error}{hint}") from None
    return spec.model_copy(update={"then": ()})


def prepare(record: RunRecord, runs_root: Path, overrides: Sequence[str] = ()) -> Repeat:
    """Collect what is needed to do a run again.

    Args:
        record: The run.
        runs_root: Where the runs are that `encoder.weights` may name.
        overrides: Of the spec.

    Raises:
        RunError: The spec is gone.
        SpecError: It is not one that this version understands, or an override is wrong.
        WeightsError: The weights that it started from are gone or others.
    """
    before, spec = spec_of(record), spec_of(record, overrides)
    same_weights = spec.encoder.weights == before.encoder.weights
    weights = own_weights(record) if same_weights else None
    if spec.encoder.weights and weights is None:
        weights = find_initial_weights(spec, runs_root)
    if same_weights and weights is not None:
        _check_weights(record, weights)
    return Repeat(record, before, spec, weights)


def own_weights(record: RunRecord) -> Path | None:
    """The copy of the weights that a run started from, in its folder on this machine."""
    file = initial_weights_file(record.run.path) if record.run is not None else None
    return file if file is not None and file.is_file() else None


def _check_weights(record: RunRecord, weights: Path) -> None:
    known = record.tags.get("weights_sha256", "")
    digest = file_sha256(weights)
    if known and known != digest:
        raise RunError(
            f"run {record.id} started from weights of sha256 {known[:12]}..., but {weights} has {digest[:12]}... now; "
            "restore the file, or give others with --set encoder.weights=FILE"
        )


def changes_since(repeat: Repeat) -> list[Change]:
    """What differs between the time of a run and now: settings, code, packages, data, machine.

    Raises:
        DataError: The data is not there or broken, so the run could not start.
        SpecError: A setting cannot be used on this machine.
    """
    record = repeat.record
    changes = [
        Change(f"setting {path}", str(then), str(now))
        for path, (then, now) in spec_diff(repeat.before, repeat.spec).items()
    ]
    return [*changes, *_code(record), *_packages(record), *_data(record, repeat.spec), *_machine(record, repeat.spec)]


def _code(record: RunRecord) -> list[Change]:
    now, tags = git_state(), record.tags
    then_dirty = tags.get("git_dirty") == "true"
    if tags.get("git_commit", "") != now.commit:
        return [Change("code", _commit(tags.get("git_commit", ""), then_dirty), _commit(now.commit, now.dirty))]
    if then_dirty or now.dirty:
        then = record.text_if_any("git.diff")
        if then != now.diff:
            words = "changes", "other changes" if then_dirty and now.dirty else "changes"
            return [
                Change(
                    "code",
                    f"{now.commit[:_SHORT_COMMIT]} with {words[0]}" if then_dirty else _commit(now.commit, False),
                    f"{now.commit[:_SHORT_COMMIT]} with {words[1]}" if now.dirty else _commit(now.commit, False),
                )
            ]
    return []


def _commit(commit: str, dirty: bool) -> str:
    if not commit:
        return "not a git checkout"
    return commit[:_SHORT_COMMIT] + (" with changes" if dirty else "")


def _packages(record: RunRecord) -> list[Change]:
    text = record.text_if_any("environment.txt")
    if not text:
        return [Change("packages", "not known: environment.txt is gone", "")]
    then, now = requirements(text), packages()
    different = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    different.sort(key=lambda name: (name not in _THAT_COUNT, (name in then) != (name in now), name.lower()))
    changes = [
        Change(f"package {name}", then.get(name, "not installed"), now.get(name, "not installed"))
        for name in different[:_PACKAGES_NAMED]
    ]
    if len(different) > _PACKAGES_NAMED:
        more = len(different) - _PACKAGES_NAMED
        changes.append(Change("packages", f"{more} more differ: see environment.txt", ""))
    python = re.search(r"^# python (\S+)", text)
    if python is not None and python[1] != platform.python_version():
        changes.append(Change("python", python[1], platform.python_version()))
    return changes


def requirements(text: str) -> Mapping[str, str]:
    """Versions by package of an environment.txt."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def _data(record: RunRecord, spec: Spec) -> list[Change]:
    from saccade.builders import build_dataset  # brings OpenCV and PyTorch

    data = build_dataset(spec)
    then = record.tags.get("dataset_digest", "not known")
    changes = [Change("data digest", then, data.digest)] if then != data.digest else []
    scanpaths = next((digest for name, digest in record.datasets.items() if "scan_idx_" in name), "")
    if scanpaths and data.scanpath_digest and scanpaths != data.scanpath_digest:
        changes.append(Change("scanpath digest", scanpaths, data.scanpath_digest))
    return changes


def _machine(record: RunRecord, spec: Spec) -> list[Change]:
    from saccade.engine.device import pick_machine

    now = pick_machine(spec.engine.device, spec.engine.precision, spec.engine.threads).description
    facts = {
        "host": (record.tags.get("host", ""), machine()["host"]),
        "device": (record.tags.get("device", ""), now),
    }
    return [Change(what, then, now) for what, (then, now) in facts.items() if then and then != now]


def changes_text(repeat: Repeat, changes: Sequence[Change]) -> str:
    """What differs, as a table, with the way back to the run's own code."""
    record = repeat.record
    if not changes:
        return f"run {record.id}: code, data, packages and machine are as they were"
    rows = [["what", "then", "now"], *([change.what, change.then, change.now] for change in changes)]
    text = f"Since run {record.id} there have changed:\n" + table_text(rows, indent="  ")
    commit = record.tags.get("git_commit", "")
    if any(change.what == "code" for change in changes) and commit:
        back = f"git worktree add --detach ../saccade-{commit[:_SHORT_COMMIT]} {commit[:_SHORT_COMMIT]}"
        if record.tags.get("git_dirty") == "true":
            back += ", then git apply the run's git.diff there"
        text += f"\n  (the code of then: {back})"
    return text
