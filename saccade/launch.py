"""What `saccade run` does before the trainer starts: read the spec, make or find the run's folder, hand over."""

import sys
from collections.abc import Sequence
from pathlib import Path

from saccade.errors import SpecError
from saccade.run_dir import create_run, open_run, update_run
from saccade.spec import Spec
from saccade.spec_reader import expand_env, read_spec, spec_diff
from saccade.supervisor import supervise
from saccade.tracking.sync import reconcile

__all__ = ["resume_run", "start_run"]

_FREE_ON_RESUME = ("name", "data.root", "evaluation.", "checkpoint.", "engine.", "tracking.", "pretrain.epochs")
"""What may differ when a run goes on; anything else would make its second half another experiment."""


def start_run(runs_root: Path, spec_path: Path, overrides: Sequence[str]) -> int:
    """Start a new run; returns the exit code of `supervise`."""
    from saccade.datasets.layout import check_folder  # brings OpenCV, which a resume has no use for

    spec = read_spec(spec_path, overrides)
    uri = expand_env(spec.tracking.uri, "tracking.uri")
    check_folder(expand_env(spec.data.root, "data.root"), spec.data.dataset)
    reconcile(runs_root, say=_say)
    run = create_run(runs_root, spec, sys.argv)
    return supervise(run, resume=False, tracking_uri=uri, experiment=spec.tracking.experiment)


def resume_run(runs_root: Path, ref: str, spec_path: Path | None, overrides: Sequence[str]) -> int:
    """Go on with a run, by its own spec or by one that differs only in what may; returns the exit code."""
    run = open_run(runs_root, ref)
    own = run.path / "spec.yaml"
    spec = read_spec(spec_path if spec_path is not None else own, overrides)
    check_resumable(read_spec(own), spec, run.id)
    uri = expand_env(spec.tracking.uri, "tracking.uri")
    reconcile(runs_root, say=_say, skip=run.id)
    update_run(run, spec, sys.argv)
    return supervise(run, resume=True, tracking_uri=uri, experiment=spec.tracking.experiment)


def check_resumable(before: Spec, after: Spec, run_id: str) -> None:
    """Refuse a spec that would turn a run into another experiment half-way.

    Raises:
        SpecError: Names the first setting that may not change.
    """
    for path, (old, new) in spec_diff(before, after).items():
        if not path.startswith(_FREE_ON_RESUME):
            raise SpecError(
                f"{path}: {new!r}, but run {run_id} was started with {old!r}; resume it with its own spec "
                "(leave SPEC out), or start a new run"
            )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
