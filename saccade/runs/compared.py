"""`saccade runs compare` from the runs' names to its text and its picture."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from saccade.errors import RunError
from saccade.runs.compare import MOST_PANELS, compare_text, curve_metrics, groups_text, score_metrics
from saccade.runs.find import all_runs, find_folder, find_runs
from saccade.runs.pictures import draw_groups, draw_overlay
from saccade.runs.record import RunRecord, local_record
from saccade.runs.seeds import group_runs
from saccade.runs.tables import label

__all__ = ["compare_groups", "compare_runs", "find_to_compare"]


def find_to_compare(
    runs_root: Path, refs: Sequence[str], experiment: str | None, *, everything: bool
) -> list[RunRecord]:
    """The runs that are named, or all finished ones of an experiment, or of all of them.

    Raises:
        RunError: Fewer than two, or one that cannot be found.
    """
    if refs and experiment is not None:
        raise RunError("saccade runs compare: give RUN... or --experiment, not both")
    if refs:
        found = find_runs(runs_root, refs)
    elif everything or experiment is not None:
        problems: list[str] = []
        found = all_runs(runs_root, experiment=experiment, status="FINISHED", warn=problems.append)[::-1]
        if problems:  # With runs missing, the statistics would be others.
            raise RunError(problems[0])
    else:
        found = []
    if len(found) < 2:
        what = f"{len(found)} finished run{'s' * (len(found) != 1)} found" if not refs else "only one run given"
        raise RunError(f"saccade runs compare: {what}; it takes two: RUN RUN..., or --experiment NAME")
    return found


def compare_runs(records: Sequence[RunRecord], runs_root: Path, metrics: Sequence[str], out: Path) -> str:
    """Compare runs one by one; writes the picture and returns the text."""
    text = compare_text(records)
    shown = curve_metrics(records, metrics)
    if not shown:
        return f"{text}\n\nno curves to draw: no metric of these runs changes"
    names = [f"{label(place)}: {record.name}, {record.id}" for place, record in enumerate(records)]
    curves = {name: record.curves for name, record in zip(names, records, strict=True)}
    draw_overlay(out, curves, shown[:MOST_PANELS])
    return f"{text}\n\ncurves: {out}{_more(shown[MOST_PANELS:])}"


def compare_groups(records: Sequence[RunRecord], runs_root: Path, metrics: Sequence[str], out: Path) -> str:
    """Compare groups of seeds; writes the picture and returns the text."""
    groups = group_runs(records, _source(records, runs_root))
    scores = score_metrics(records, metrics)
    if not scores:
        raise RunError("saccade runs compare: these runs have no metrics yet; name others")
    text = groups_text(groups, scores)
    members = [record for group in groups for record in group.runs.values()]
    moving = curve_metrics(members)
    curves = [name for name in moving if name in metrics or (not metrics and name not in scores)]
    points = [name for name in scores if name not in moving or not metrics]
    room = max(0, MOST_PANELS - len(points))
    draw_groups(out, groups, points[:MOST_PANELS], curves[:room])
    return f"{text}\n\npicture: {out}{_more([*points[MOST_PANELS:], *curves[room:]])}"


def _more(left: Sequence[str]) -> str:
    return f"  ({len(left)} more metrics have no room; choose with --metric: {left[0]}, ...)" if left else ""


def _source(records: Sequence[RunRecord], runs_root: Path) -> Callable[[str], RunRecord | None]:
    """Looks up the run that another started from: among those at hand, then on this machine; each only once."""
    known: dict[str, RunRecord | None] = {record.id: record for record in records}

    def source(ref: str) -> RunRecord | None:
        if ref not in known:
            known[ref] = None
            with suppress(RunError):  # damaged or ambiguous: then the weights are just another setting
                run = find_folder(runs_root, ref)
                known[ref] = local_record(run) if run is not None else None
        return known[ref]

    return source
