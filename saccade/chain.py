"""Specs that run after another one: read and checked before anything starts, kept in the first run's folder.

    RUN/spec.yaml      then: [then/2.yaml, then/3.yaml]
    RUN/then/2.yaml    the second spec of the chain, resolved; without encoder.weights it is for RUN's encoder

Each becomes a run of its own, whose run.json says which run it follows, so no list of them is kept that could be wrong.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from saccade import atomic
from saccade.errors import RunError, SpecError
from saccade.journal import Journal, read_journal
from saccade.run_dir import RunDir, list_runs, without_credentials
from saccade.spec import Spec
from saccade.spec_reader import dump_spec, read_spec
from saccade.tracking.shipping_state import ShippingState

__all__ = [
    "Follower",
    "followers_of",
    "is_finished",
    "list_followers",
    "places",
    "read_followers",
    "save_followers",
    "shared_overrides",
]

_SHARED = ("data.root", "engine.", "tracking.", "checkpoint.")
"""Settings of the machine: overrides of these hold for a whole chain."""
_HEADING = "\n## Runs that followed\n"


@dataclass(frozen=True)
class Follower:
    """A spec of a chain, and how far it has come."""

    place: int
    """From 2 on: the first run is the first of its chain."""
    spec: Path
    """The resolved spec in the first run's folder."""
    run: RunDir | None
    """The latest run of it, if it was ever started."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done."""
        return self.run is not None and is_finished(self.run)


def shared_overrides(overrides: Sequence[str]) -> list[str]:
    """Those of the `--set` overrides that hold for every spec of a chain."""
    return [override for override in overrides if override.strip().startswith(_SHARED)]


def read_followers(path: Path, spec: Spec, overrides: Sequence[str]) -> list[Spec]:
    """The specs that `then` of a spec lists, each on the encoder of the first unless it names weights of its own.

    Args:
        path: File of the first spec.
        spec: The first spec.
        overrides: Of the first spec.

    Raises:
        SpecError: One cannot be read, has followers itself, or wants another encoder than that of the first run.
    """
    followers = []
    for name in spec.then:
        place = path.parent / name
        if place.resolve() == path.resolve():
            raise SpecError(f"{path}: then: {name} is this file itself; a chain does not go in circles, so remove it")
        try:
            follower = read_spec(place, shared_overrides(overrides))
        except SpecError as error:
            raise SpecError(f"{path}: then: {error}") from None
        if follower.then:
            raise SpecError(
                f"{place}: then: this spec runs after {path} and has no followers of its own; list them all there"
            )
        followers.append(follower if follower.encoder.weights else _on_encoder_of(spec, follower, place))
    return followers


def _on_encoder_of(first: Spec, follower: Spec, place: Path) -> Spec:
    """The follower with the encoder and projection that the first run trains; refused if it asks for others."""
    sections: list[tuple[BaseModel, BaseModel, tuple[str, ...]]] = [
        (first.encoder, follower.encoder, ("name", "width")),
        (first.contrast, follower.contrast, ("projection_dim",)),
    ]
    for ours, theirs, keys in sections:
        for key in keys:
            if key in theirs.model_fields_set and getattr(ours, key) != getattr(theirs, key):
                raise SpecError(
                    f"{place}: sets {key} to {getattr(theirs, key)}, but runs on the encoder of a run with "
                    f"{getattr(ours, key)}; leave it out, or give encoder.weights"
                )
    contrast = follower.contrast.model_copy(update={"projection_dim": first.contrast.projection_dim})
    return follower.model_copy(
        update={"encoder": first.encoder.model_copy(update={"weights": ""}), "contrast": contrast}
    )


def places(followers: Sequence[Spec]) -> tuple[str, ...]:
    """What `then` of the first run's own spec.yaml says, seen from its folder."""
    return tuple(f"then/{place}.yaml" for place, _ in enumerate(followers, start=2))


def save_followers(run: RunDir, followers: Sequence[Spec]) -> None:
    """Write the followers' specs into the first run's folder."""
    for name, spec in zip(places(followers), followers, strict=True):
        (run.path / name).parent.mkdir(exist_ok=True)
        atomic.write_text(run.path / name, dump_spec(without_credentials(spec)))


def followers_of(run: RunDir, spec: Spec) -> list[Follower]:
    """The chain that a run began, with the runs that there are of it."""
    if not spec.then:
        return []
    runs = {}
    for other in list_runs(run.root):
        with suppress(RunError):  # the record of a run that has nothing to do with this one may be damaged
            follows = other.record().get("follows") or {}
            if follows.get("run") == run.id:
                runs[follows["place"]] = other  # in order of time, so the latest stays
    return [Follower(place, run.path / name, runs.get(place)) for place, name in enumerate(spec.then, start=2)]


def is_finished(run: RunDir) -> bool:
    """Whether the latest attempt of a run has come to its end."""
    finished = False
    for event, _ in read_journal(run.journal):
        if event["kind"] in ("attempt", "end"):
            finished = event.get("status") == "finished"
    return finished


def list_followers(run: RunDir, followers: Sequence[Follower]) -> None:
    """Write into a run's summary which runs have followed and what they found, and have it sent again."""
    summary = run.path / "summary.md"
    if not summary.exists():
        return
    text = summary.read_text(encoding="utf-8").partition(_HEADING)[0].rstrip()
    lines = [_line(follower) for follower in followers]
    atomic.write_text(summary, "\n".join([text, _HEADING, *lines, ""]))
    with run.lock_supervisor(), run.lock():
        descriptor = os.open(run.journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        with Journal(descriptor, {}) as journal:
            journal.artifact(summary.name)
        state = ShippingState.load(run.path)
        if state is not None:
            state.complete = False
            state.save()


def _line(follower: Follower) -> str:
    if follower.run is None:
        return f"{follower.place}. {read_spec(follower.spec).name}: not started yet"
    name, found = follower.run.record()["name"], "not finished"
    if follower.finished:
        text = (follower.run.path / "summary.md").read_text(encoding="utf-8")
        found = next((line for line in text.splitlines() if line.startswith("**")), "finished")
    return f"{follower.place}. {name} (run `{follower.run.id}`): {found}"
