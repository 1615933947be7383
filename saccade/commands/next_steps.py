"""`saccade` alone: what to do next, told by what is there."""

from pathlib import Path

__all__ = ["next_steps"]

Steps = list[tuple[str, str]]


def next_steps(data_root: Path = Path("data"), runs_root: Path = Path("runs")) -> str:
    """What there is below a folder of datasets and one of runs, and the commands that go on from there."""
    found, steps = _after_runs(runs_root) or _after_data(data_root, runs_root)
    width = max(len(command) for command, _ in steps)
    lines = [f"  {command:{width}}  {what}" for command, what in steps]
    elsewhere = (
        "" if Path("experiments").is_dir() else "\nSpecs are in experiments/ of the repository: go to its folder."
    )
    return "\n".join([found, *lines, "", f"All commands: saccade --help{elsewhere}"])


def _after_data(data_root: Path, runs_root: Path) -> tuple[str, Steps]:
    names = sorted(path.parent.name for path in data_root.glob("*/split"))
    if not names:
        return f"No videos below {data_root}/ yet.", [
            (f"saccade data toy {data_root}", "toy videos, made in seconds"),
            (f"saccade data prepare VIDEOS {data_root}/NAME --test 'lena_*'", "your own: a folder for each class"),
        ]
    name = "toy" if "toy" in names else names[0]
    spec = {"toy": "experiments/quickstart.yaml", "UCF101": "experiments/paper/r3d.yaml"}.get(
        name, f"experiments/weizmann.yaml --set name={name} --set data.dataset={name}"
    )
    steps = [
        (f"saccade plan {spec}", "what it will take"),
        (f"saccade run {spec}", "train, evaluate, track"),
    ]
    if not any((data_root / name).glob("scan_idx_*")):
        steps.insert(0, (f"saccade data scanpaths {data_root}/{name}", "where the eye rests in its videos"))
    return f"Videos below {data_root}/: {', '.join(names)}. No runs in {runs_root}/ yet.", steps


def _after_runs(runs_root: Path) -> tuple[str, Steps] | None:
    from saccade.run_dir import list_runs
    from saccade.tracking.shipping_state import ShippingState

    runs = list_runs(runs_root)
    if not runs:
        return None
    last, there = runs[-1], f"{len(runs)} run{'s' * (len(runs) != 1)} in {runs_root}/, the last one"
    show = (f"saccade runs show {last.id}", "what it is and what it found")
    if last.trainer_lives():
        return f"{there} at work.", [("saccade ui", "watch it in MLflow"), show]
    state = ShippingState.load(last.path)
    outcome = state.outcome if state is not None else None
    if outcome is None or outcome.status != "FINISHED":
        why = outcome.tags.get("saccade.ended", "") if outcome is not None else ""
        return f"{there} ended before its time{f' ({why})' * bool(why)}.", [
            (f"saccade run --resume {last.id}", "go on with it"),
            show,
            ("saccade doctor", "what is wrong with this machine, if anything is"),
        ]
    return f"{there} finished.", [
        ("saccade ui", "look at it in MLflow"),
        show,
        ("saccade runs compare --group seed", "runs side by side; over seeds"),
        ("saccade sweep sweeps/quickstart.yaml", "search for better settings"),
    ]
