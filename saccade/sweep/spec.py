"""The sweep spec: what may stand in sweeps/*.yaml, each default once, on its field. `reader` turns files into one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from saccade.spec import Spec
from saccade.spec_reader import read_spec
from saccade.yaml_marks import to_yaml

__all__ = ["BASE", "Budget", "Dimension", "Lease", "Objective", "Plain", "Pruner", "Sweep", "SweepFile", "as_override"]

BASE = "base"
"""The one path to search that is no setting: a spec file in place of the experiment."""

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Plain = None | bool | int | float | str | tuple[int | float | str, ...]
"""A value of a setting."""


class Section(BaseModel):
    """A part of a sweep spec: frozen, unknown keys refused, no silent conversion between types."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Objective(Section):
    """What trials are compared by."""

    metric: str = Field(min_length=1)
    """A validation score that the trainer logs, such as val/retrieval_top1. Never a test score."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Which way is better."""


class Pruner(Section):
    """When a trial that does badly is stopped early; looks at the objective after every validation within training."""

    name: Literal["none", "median", "asha", "hyperband"] = "none"
    """median: worse than half of the trials before it at that epoch. asha: not in the best 1 / reduction_factor of its
    rung (Li et al. 2020, arXiv:1810.05934). hyperband: several such ladders (Li et al. 2018, arXiv:1603.06560)."""
    min_epochs: Positive = 1
    """No trial is stopped before this epoch; also the first rung of asha and hyperband."""
    startup_trials: NotNegative = 5
    """median only: trials that are finished before any is stopped."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """asha and hyperband: each rung is this much higher than the one before, and keeps this part of its trials."""


class Budget(Section):
    """When no more trials are begun; those under way are finished."""

    trials: Positive | None = None
    """Trials of the whole study, on however many workers; those taken up again count once. null: a grid's points."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Hours by the clock since the study's first trial began."""


class Lease(Section):
    """How the workers find out that one of them is gone."""

    renew_sec: Annotated[float, Field(gt=0)] = 10.0
    """A worker at a trial says so in the storage each time this has passed."""
    grace_sec: Annotated[float, Field(gt=0)] = 60.0
    """A trial of which nothing was said for this long is taken up by another worker; at least 5 x renew_sec."""


class SweepFile(Section):
    """A study over one experiment."""

    name: str = Field(
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        examples=["rates", "margin_h-2026.11"],
    )
    """What the study is called; the same name in the same storage is the same study."""
    experiment: str = Field(min_length=1)
    """The spec that it starts from, its path seen from this file's folder."""
    objective: tuple[Objective, ...] = Field(strict=False, min_length=1)
    """One, or several for a front of best compromises."""
    sampler: Literal["tpe", "random", "grid", "qmc", "gp"] = "tpe"
    """How values are chosen. tpe: Optuna's default. grid: every combination once, in the order of this file. qmc:
    evenly spread. gp: a Gaussian process, for few and slow trials."""
    pruner: Pruner = Pruner()
    """A name, or a section."""
    budget: Budget = Budget()
    """trials, hours or both; a grid needs none."""
    seeds: Positive = 1
    """Runs of each trial, with seed, seed + 1, ... of the experiment; the objective is their mean."""
    seed: NotNegative = 632
    """Of the sampler. With one worker the same seed gives the same trials."""
    start: bool = True
    """Trial 0 is the experiment as it is."""
    confirm_seeds: NotNegative = 0
    """At the end the best spec is run with this many further seeds, which the search has not seen."""
    storage: str = ""
    """postgresql://... for several machines, sqlite:///... for one; may contain ${NAME}. Empty: sweeps.db in runs/."""
    lease: Lease = Lease()


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A setting that is searched: a range of numbers, or a list of choices."""

    path: str
    """Dotted path of the setting; "base" stands for a spec file in place of the experiment."""
    choices: tuple[Plain, ...] = ()
    """The values, for a list of choices; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    """The setting takes whole numbers."""
    when: Mapping[str, tuple[Plain, ...]]
    """Searched only when these other searched settings have one of these values; else it stays as in the experiment."""
    where: str
    """Place in the sweep spec, for messages."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A checked sweep, with the experiment that it starts from."""

    path: Path
    """Its file."""
    file: SweepFile
    """What stands in the file, but for `search` and `set`."""
    dimensions: tuple[Dimension, ...]
    """What is searched, in the order of the file."""
    fixed: tuple[str, ...]
    """Overrides that hold for every trial, as of `--set`; those of the command line come last."""
    start: Spec
    """The experiment with the overrides: trial 0."""

    @property
    def experiment(self) -> Path:
        """The experiment's file."""
        return self.path.parent / self.file.experiment

    def trial_spec(self, values: Mapping[str, Plain]) -> Spec:
        """The spec of a trial.

        Args:
            values: Path of each setting that the trial searches -> its value.

        Raises:
            SpecError: The combination is impossible.
        """
        file = self.path.parent / str(values[BASE]) if BASE in values else self.experiment
        searched = [as_override(path, value) for path, value in values.items() if path != BASE]
        return read_spec(file, [*self.fixed, *searched]).model_copy(update={"then": ()})


def as_override(path: str, value: object) -> str:
    """A setting as `--set` takes it."""
    return f"{path}={to_yaml({'': value}).removeprefix(':').strip()}"
