"""The best of a study as specs that `saccade run` takes, and the study that runs it over further seeds."""

from pathlib import Path

from optuna.trial import FrozenTrial

from saccade import atomic
from saccade.spec import Spec
from saccade.spec_reader import dump_spec, read_spec
from saccade.sweep.space import Space
from saccade.sweep.spec import Sweep, as_override
from saccade.sweep.standing import Standing
from saccade.sweep.worker import RUNS
from saccade.yaml_marks import to_yaml

__all__ = ["best_names", "spec_of", "write_best", "write_confirmation"]


def best_names(now: Standing) -> list[str]:
    """Files of the best specs: one, or one for each trial of the front."""
    return ["best.yaml"] if len(now.best) == 1 else [f"best-{trial.number:03d}.yaml" for trial in now.best]


def write_best(folder: Path, runs_root: Path, sweep: Sweep, now: Standing) -> list[Path]:
    """Write the specs of the best trials; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for trial, name in zip(now.best, best_names(now), strict=True):
        spec = spec_of(sweep, trial, runs_root).model_copy(update={"name": f"{sweep.file.name}-{Path(name).stem}"})
        atomic.write_text(folder / name, _header(sweep, trial, folder / name) + dump_spec(spec))
        written.append(folder / name)
    return written


def spec_of(sweep: Sweep, trial: FrozenTrial, runs_root: Path) -> Spec:
    """The spec that a trial ran with: that of its run, threads included, where this is at hand."""
    for run in trial.user_attrs.get(RUNS, [])[:1]:
        if (runs_root / run / "spec.yaml").exists():
            return read_spec(runs_root / run / "spec.yaml").model_copy(update={"then": ()})
    return sweep.trial_spec(Space(sweep.dimensions).decoded(trial.params))


def _header(sweep: Sweep, trial: FrozenTrial, path: Path) -> str:
    scores = zip(sweep.file.objective, trial.values or [], strict=True)
    point = Space(sweep.dimensions).decoded(trial.params)
    lines = [
        f"Purpose:  trial {trial.number} of the study {sweep.file.name} ({sweep.path.name}), one of its best",
        f"Command:  saccade run {path}",
        f"Score:    {', '.join(f'{each.metric} {value:.6g}' for each, value in scores)}",
        f"Searched: {', '.join(as_override(key, value) for key, value in point.items())}",
        f"Runs:     {' '.join(trial.user_attrs.get(RUNS, []))}",
    ]
    return "".join(f"# {line}\n" for line in lines)


def write_confirmation(folder: Path, sweep: Sweep, best: Path) -> Path:
    """Write the sweep that runs the best spec with seeds that the search has not seen; returns its file."""
    seed, used = read_spec(best).seed, sweep.file.seeds
    content = {
        "name": f"{sweep.file.name}-confirm",
        "experiment": best.name,
        "objective": [{"metric": each.metric, "direction": each.direction} for each in sweep.file.objective],
        "search": {"seed": [seed + used + place for place in range(sweep.file.confirm_seeds)]},
        "sampler": "grid",
        "start": False,
        "storage": sweep.file.storage,
        "lease": sweep.file.lease.model_dump(),
    }
    objective = content.pop("objective")
    assert isinstance(objective, list)
    shown = "".join(f"  - {{metric: {each['metric']}, direction: {each['direction']}}}\n" for each in objective)
    path = folder / "confirm.yaml"
    text = f"# The best spec of {sweep.file.name} with further seeds, made by its end.\nobjective:\n{shown}"
    atomic.write_text(path, text + to_yaml(content))
    return path
