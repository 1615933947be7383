"""What of a sweep is fine alone but not together, or not with its experiment."""

import difflib
import re
from collections.abc import Iterator

from saccade.errors import shorten
from saccade.spec import Spec
from saccade.sweep.space import SAMPLED_POINTS, Space
from saccade.sweep.spec import Sweep

__all__ = ["objective_metrics", "problems"]


def problems(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Yield (key of the sweep, what is wrong and what to do)."""
    yield from _objectives(sweep)
    yield from _pruner(sweep)
    yield from _sampler(sweep)
    yield from _budget(sweep)
    yield from _storage(sweep)
    if sweep.file.lease.grace_sec < 5 * sweep.file.lease.renew_sec:
        yield (
            "lease",
            f"grace_sec {sweep.file.lease.grace_sec:g} is less than 5 x renew_sec {sweep.file.lease.renew_sec:g}: a "
            "moment's delay would cost a worker its trial; raise it",
        )
    yield from _combinations(sweep)


def objective_metrics(spec: Spec) -> list[str]:
    """The validation scores that a run of the spec logs."""
    if not spec.data.validation:
        return []
    retrieval, found = spec.evaluation.retrieval, list[str]()
    if retrieval.enabled or retrieval.validate_every_epochs is not None:
        found += [f"val/retrieval_top{k}" for k in retrieval.topk]
    if retrieval.validate_every_epochs is not None:
        found.append("best/val_retrieval_top1")
    for name, settings in (("linear_probe", spec.evaluation.linear_probe), ("finetune", spec.evaluation.finetune)):
        if settings.enabled:
            found += [f"val/{name}_top1", f"val/{name}_top5"]
    return found


def _objectives(sweep: Sweep) -> Iterator[tuple[str, str]]:
    known, metrics = objective_metrics(sweep.start), [each.metric for each in sweep.file.objective]
    for given in metrics:
        metric = shorten(given)
        if metric.startswith(("test/", "best/test")) or "/test_" in metric:
            yield "objective", f"{metric} is a test score, which no search may see; use a val/ score of held-out videos"
        elif not known:
            yield (
                "objective",
                f"{metric} is never logged: the experiment scores no validation videos; set data.validation and "
                "evaluation.retrieval.validate_every_epochs",
            )
        elif given not in known:
            near = difflib.get_close_matches(given, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it logs {', '.join(known)}"
            yield "objective", f"{metric} is not a validation score that the experiment logs; {hint}"
    if len(set(metrics)) < len(metrics):
        yield "objective", "the same metric twice; remove one"


def _pruner(sweep: Sweep) -> Iterator[tuple[str, str]]:
    pruner, objective = sweep.file.pruner, sweep.file.objective
    if pruner.name == "none":
        return
    every, epochs = sweep.start.evaluation.retrieval.validate_every_epochs, sweep.start.pretrain.epochs
    if len(objective) > 1:
        yield "pruner", f"{pruner.name} compares trials by one score, and there are {len(objective)}; use none"
    elif "retrieval_top" not in objective[0].metric:
        yield (
            "pruner",
            f"{pruner.name} needs a score within training, and {shorten(objective[0].metric)} comes at its end; use "
            "none, or val/retrieval_top1 as the objective",
        )
    elif every is None or every >= epochs:
        yield (
            "pruner",
            f"{pruner.name} needs scores within training; set evaluation.retrieval.validate_every_epochs below "
            f"pretrain.epochs = {epochs}",
        )
    elif pruner.min_epochs >= epochs:
        yield "pruner", f"min_epochs {pruner.min_epochs} is not below pretrain.epochs = {epochs}; lower it"


def _sampler(sweep: Sweep) -> Iterator[tuple[str, str]]:
    endless = [each for each in sweep.dimensions if not each.choices and each.step is None]
    if sweep.file.sampler == "grid" and endless:
        yield "sampler", f"grid needs steps or choices, and {endless[0].path} has neither; add a step to it"


def _budget(sweep: Sweep) -> Iterator[tuple[str, str]]:
    budget = sweep.file.budget
    if sweep.file.sampler != "grid" and budget.trials is None and budget.hours is None:
        yield "budget", "says neither trials nor hours, so the search would not end; add 'budget: {trials: 40}'"


def _storage(sweep: Sweep) -> Iterator[tuple[str, str]]:
    storage = sweep.file.storage
    if storage and not storage.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///", "${")):
        yield "storage", "must be postgresql://USER:${NAME}@HOST/DATABASE or sqlite:////PATH/FILE.db, or empty"
    password = re.match(r"[^:/]+://[^:/@\s]*:([^@\s]*)@", storage)
    if password is not None and not re.fullmatch(r"(\$\{\w+\})*", password[1]):
        yield (
            "storage",
            "holds a password, which would stand in the study's files; set an environment variable to it and write "
            "postgresql://USER:${NAME}@HOST/DATABASE",
        )


def _combinations(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Values that are fine alone: a sample of points that a trial may be at, and the start."""
    space = Space(sweep.dimensions)
    if sweep.file.start:
        outside = space.outside(sweep)
        if outside:
            yield "start", f"{outside}; widen its line below search, or set start to false"
    for point in space.sample(SAMPLED_POINTS):
        wrong = space.impossible(sweep, point)
        if wrong:
            yield "search", wrong
            return
