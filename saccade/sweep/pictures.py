"""Pictures of a study: history, importances, parallel coordinates, slices, or a front of compromises."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from saccade.sweep.spec import Sweep
from saccade.sweep.standing import Standing, short_names

__all__ = ["draw_study"]

_DPI = 120


def draw_study(folder: Path, sweep: Sweep, now: Standing) -> list[str]:
    """Draw what can be drawn of the trials so far; returns the names of the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    from optuna.visualization import matplotlib as plots

    folder.mkdir(parents=True, exist_ok=True)
    study = _renamed(sweep, now)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    varied = [name for name in short_names(sweep).values() if len({trial.params.get(name) for trial in complete}) > 1]
    wanted: dict[str, Callable[[], Any]] = {}
    if len(sweep.file.objective) == 1:
        metric = sweep.file.objective[0].metric
        if complete:
            wanted["history.png"] = lambda: plots.plot_optimization_history(study, target_name=metric)
        if varied:
            wanted["slices.png"] = lambda: plots.plot_slice(study, params=varied, target_name=metric)
        if len(varied) > 1:
            wanted["parallel_coordinates.png"] = lambda: plots.plot_parallel_coordinate(
                study, params=varied, target_name=metric
            )
        common = [name for name in varied if all(name in trial.params for trial in complete)]
        if common and len(complete) > 3 and len({trial.value for trial in complete}) > 1:
            wanted["importances.png"] = lambda: plots.plot_param_importances(study, params=common, target_name=metric)
        if any(trial.intermediate_values for trial in study.trials):
            wanted["within_training.png"] = lambda: plots.plot_intermediate_values(study)
    elif len(sweep.file.objective) == 2 and complete:
        names = [each.metric for each in sweep.file.objective]
        wanted["front.png"] = lambda: plots.plot_pareto_front(study, target_names=names)
    for name, draw in wanted.items():
        _draw(folder / name, draw, sweep.file.objective[0].metric)
    return list(wanted)


def _draw(path: Path, draw: Callable[[], Any], metric: str) -> None:
    from matplotlib import pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)  # a logarithmic axis, say, with one value
        draw()
    figure = plt.gcf()
    if path.stem == "slices":
        figure.set_size_inches(3.0 * len(figure.axes), 4.5)
        for axes in figure.axes:
            if axes.get_xscale() == "log":  # Labels between the powers of ten stand close to each other.
                axes.tick_params(axis="x", which="both", labelrotation=60, labelsize=8)
    else:
        figure.set_size_inches(9.0, 5.5)
    if path.stem == "within_training":
        figure.axes[0].set(xlabel="epoch", ylabel=metric)
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")
    plt.close("all")


def _renamed(sweep: Sweep, now: Standing) -> optuna.Study:
    """A copy of the study whose parameters have short names, as they have room in a picture."""
    names = short_names(sweep)
    study = optuna.create_study(
        directions=[each.direction for each in sweep.file.objective],
        study_name=sweep.file.name,
        storage=optuna.storages.InMemoryStorage(),
    )
    for trial in now.trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        copy = optuna.trial.create_trial(
            state=trial.state,
            values=trial.values,
            params={names[path]: value for path, value in trial.params.items()},
            distributions={names[path]: each for path, each in trial.distributions.items()},
            intermediate_values=trial.intermediate_values,
        )
        study.add_trial(copy)
    return study
