"""What `saccade run` does around the trainer: read the spec, make or find the run's folder, hand over, go on."""

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from saccade.chain import (
    Follower,
    followers_of,
    is_finished,
    list_followers,
    places,
    read_followers,
    save_followers,
    shared_overrides,
)
from saccade.errors import RunError, SpecError
from saccade.initial_weights import adopt, find_initial_weights, with_weights_beside
from saccade.run_dir import RunDir, create_run, open_run, update_run
from saccade.spec import Spec
from saccade.spec_reader import expand_env, read_spec, spec_diff
from saccade.supervisor import runs_option, supervise
from saccade.tracking.restore import restore_run, stands_for_tracked_run
from saccade.tracking.sync import reconcile, sync_run

__all__ = ["resume_run", "start_again", "start_run"]

RERUN_TAG = "saccade.rerun_of"
"""Tag of a run that was started from an earlier one's record."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""
_FREE_ON_RESUME = ("name", "data.root", "evaluation.", "checkpoint.", "engine.", "tracking.", "pretrain.epochs", "then")
"""What may differ when a run goes on; anything else would make its second half another experiment."""


def start_run(runs_root: Path, spec_path: Path, overrides: Sequence[str]) -> int:
    """Start a new run, and then those of its chain; returns the exit code of `supervise`, the first that is not 0."""
    spec = read_spec(spec_path, overrides)
    followers = [
        with_weights_beside(follower, spec_path.parent / name)
        for name, follower in zip(spec.then, read_followers(spec_path, spec, overrides), strict=True)
    ]
    spec = with_weights_beside(spec, spec_path)
    weights = [_check(each, runs_root) for each in (spec, *followers)]
    reconcile(runs_root, say=_say)
    if followers:
        _say(f"saccade: 1 of {len(followers) + 1}: {spec.name}")
    run = _create(runs_root, spec.model_copy(update={"then": places(followers)}), weights[0])
    save_followers(run, followers)
    interrupted = threading.Event()
    return _supervise(run, spec, interrupted, resume=False) or _follow(run, overrides, interrupted)


def resume_run(runs_root: Path, ref: str, spec_path: Path | None, overrides: Sequence[str]) -> int:
    """Go on with a run and its chain, by its own spec or by one that differs only in what may; returns the exit code.

    A run whose folder is on another machine, or lost, is brought here from its tracking server first: `ref` is its id
    then, MLflow's or its own. The first run of a chain is left alone when it is finished, unless something is set for
    it.
    """
    run = _open(runs_root, ref, spec_path, overrides)
    changed = spec_path is not None or len(shared_overrides(overrides)) < len(overrides)
    own = read_spec(run.path / "spec.yaml")
    interrupted = threading.Event()
    if own.then and is_finished(run) and not changed:
        reconcile(runs_root, say=_say)
        return _follow(run, overrides, interrupted)
    return _resume(run, spec_path, overrides, interrupted) or _follow(run, overrides, interrupted)


def start_again(runs_root: Path, spec: Spec, weights: Path | None, of: str) -> int:
    """Start a new run of an earlier one's spec, tagged with where it comes from; returns the exit code.

    Args:
        runs_root: Folder for the new run.
        spec: What to do, with nothing to follow it.
        weights: File of the weights to start from, if the spec has any.
        of: Id of the earlier run.
    """
    expand_env(spec.tracking.uri, "tracking.uri")
    reconcile(runs_root, say=_say)
    run = _create(runs_root, spec, weights)
    return _supervise(run, spec, threading.Event(), resume=False, tags={RERUN_TAG: of})


def _open(runs_root: Path, ref: str, spec_path: Path | None, overrides: Sequence[str]) -> RunDir:
    try:
        return open_run(runs_root, ref)
    except RunError:
        if not stands_for_tracked_run(ref):
            raise
    given = [value for key, _, value in (override.partition("=") for override in overrides) if key == "tracking.uri"]
    if not given and spec_path is not None:
        given = [read_spec(spec_path, overrides).tracking.uri]
    return restore_run(runs_root, ref, expand_env(given[-1] if given else "", "tracking.uri"), say=_say)


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


def _check(spec: Spec, runs_root: Path) -> Path | None:
    """Find out now what would stop the run later; returns the file of the weights that it starts from, if any."""
    from saccade.datasets.layout import check_folder  # brings OpenCV, which a resume has no use for

    expand_env(spec.tracking.uri, "tracking.uri")
    check_folder(expand_env(spec.data.root, "data.root"), spec.data.dataset)
    return find_initial_weights(spec, runs_root)


def _create(
    runs_root: Path, spec: Spec, weights: Path | None, follows: Mapping[str, str | int] | None = None
) -> RunDir:
    if weights is None and not spec.pretrain.epochs:
        _say("saccade: neither encoder.weights nor pretrain.epochs are set: it is the random encoder that is evaluated")
    run = create_run(runs_root, spec, sys.argv, follows)
    if weights is not None:
        adopt(weights, spec.encoder.weights, run)
    return run


def _resume(run: RunDir, spec_path: Path | None, overrides: Sequence[str], interrupted: threading.Event) -> int:
    own = run.path / "spec.yaml"
    before = read_spec(own)
    spec = read_spec(spec_path if spec_path is not None else own, overrides)
    check_resumable(before, spec, run.id)
    expand_env(spec.tracking.uri, "tracking.uri")
    reconcile(run.root, say=_say, skip=run.id)
    update_run(run, spec.model_copy(update={"then": before.then}), sys.argv)
    return _supervise(run, spec, interrupted, resume=True)


def _supervise(
    run: RunDir,
    spec: Spec,
    interrupted: threading.Event,
    *,
    resume: bool,
    tags: Mapping[str, str] | None = None,
) -> int:
    uri, experiment = expand_env(spec.tracking.uri, "tracking.uri"), spec.tracking.experiment
    return supervise(run, resume=resume, tracking_uri=uri, experiment=experiment, interrupted=interrupted, tags=tags)


def _follow(run: RunDir, overrides: Sequence[str], interrupted: threading.Event) -> int:
    """Run what is left of a chain whose first run is finished; returns the exit code."""
    first = read_spec(run.path / "spec.yaml")
    followers = followers_of(run, first)
    count = len(followers) + 1
    for follower in followers:
        if follower.finished:
            continue
        try:
            code = INTERRUPTED if interrupted.is_set() else _run_follower(run, follower, count, overrides, interrupted)
            _tell_first(run, first)
        except KeyboardInterrupt:  # between two trainers
            code = INTERRUPTED
        if code:
            go_on = f"go on with: saccade run --resume {run.id}{runs_option(run)}"
            _say(f"saccade: the chain stops at {follower.place} of {count}; {go_on}")
            return code
    if followers:
        _say(f"saccade: all {count} runs of the chain are finished")
    return 0


def _run_follower(
    first: RunDir, follower: Follower, count: int, overrides: Sequence[str], interrupted: threading.Event
) -> int:
    shared = shared_overrides(overrides)
    spec = read_spec(follower.spec, shared)
    if not spec.encoder.weights:
        spec = spec.model_copy(update={"encoder": spec.encoder.model_copy(update={"weights": first.id})})
    _say(f"saccade: {follower.place} of {count}: {spec.name}, on the encoder of {spec.encoder.weights}")
    if follower.run is not None:
        return _resume(follower.run, None, shared, interrupted)
    follows: dict[str, str | int] = {"run": first.id, "place": follower.place, "of": count}
    run = _create(first.root, spec, _check(spec, first.root), follows)
    return _supervise(run, spec, interrupted, resume=False)


def _tell_first(run: RunDir, spec: Spec) -> None:
    """The first run's summary lists the others; that it cannot be sent just now is no reason to stop."""
    try:
        list_followers(run, followers_of(run, spec))
        sync_run(run, say=_say)
    except RunError as error:
        _say(f"saccade: run {run.id}: its summary could not be sent: {error}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
