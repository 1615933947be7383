"""`saccade runs compare`: what differs between runs, or between groups of seeds, side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence

from saccade.amounts import duration
from saccade.errors import RunError
from saccade.runs.record import MACHINE_METRICS, RunRecord
from saccade.runs.seeds import CONFIDENCE, FEW_SEEDS, Group, PairedTest, Summary, holm, paired_test, pairs, summarise
from saccade.runs.tables import difference, is_hit_rate, label, number, score, table_text

__all__ = ["MOST_PANELS", "compare_text", "curve_metrics", "groups_text", "score_metrics"]

MOST_PANELS = 12
SIGNIFICANT = 0.05
_ORDER = ("test/", "val/", "best/", "baseline/", "pretrain/", "linear_probe/", "finetune/", "clusters/0/", "clusters/")
_SHORT_COMMIT = 10
_ABSENT = "-"


def compare_text(records: Sequence[RunRecord]) -> str:
    """Runs, the settings in which they differ, what else differs, and their metrics, side by side."""
    names = [label(place) for place, _ in enumerate(records)]
    runs = [[name, record.id, record.name, record.status] for name, record in zip(names, records, strict=True)]
    parts = [table_text([["", "run", "name", "status"], *runs])]
    different = differing({name: record.settings for name, record in zip(names, records, strict=True)})
    different.pop("name", None)
    parts.append(_table("Settings in which they differ", ["setting", *names], different))
    facts = differing({name: _facts(record) for name, record in zip(names, records, strict=True)})
    parts.append(_table("What else differs", ["", *names], facts))
    parts.append(_metrics(names, records))
    return "\n\n".join(parts)


def differing(columns_: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Keys whose value is not the same in all columns: key -> values; a key that one lacks stands as "-" there."""
    keys = dict.fromkeys(key for column in columns_.values() for key in column)
    rows = {key: [column.get(key, _ABSENT) for column in columns_.values()] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _table(title: str, head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    if not rows:
        return f"{title}\n  none"
    return f"{title}\n" + table_text([head, *([key, *row] for key, row in rows.items())], indent="  ")


def _facts(record: RunRecord) -> dict[str, str]:
    tags = record.tags
    dirty = " with changes" if tags.get("git_dirty") == "true" else ""
    return {
        "status": ", ".join(filter(None, [record.status, tags.get("saccade.ended", "")])),
        "code": tags.get("git_commit", _ABSENT)[:_SHORT_COMMIT] + dirty,
        "data digest": tags.get("dataset_digest", _ABSENT),
        "host": tags.get("host", _ABSENT),
        "device": tags.get("device", _ABSENT),
        "took": duration(record.seconds),
    }


def _metrics(names: Sequence[str], records: Sequence[RunRecord]) -> str:
    """Last values, those that differ only."""
    keys = _ordered(key for record in records for key in record.last if not key.startswith(MACHINE_METRICS))
    two = len(records) == 2
    rows = [["metric (last value)", *names, *(["B - A"] if two else [])]]
    equal = 0
    for key in keys:
        values = [record.last.get(key) for record in records]
        if all(same_value(value, values[0]) for value in values):
            equal += 1
            continue
        cells = [_ABSENT if value is None else score(key, value) for value in values]
        if two:
            both = values[0] is not None and values[1] is not None
            cells.append(difference(key, values[1] - values[0]) if both else "")  # type: ignore[operator]
        rows.append([key, *cells])
    words = f"{equal} metric{'s are' if equal != 1 else ' is'} the same in all of them" if equal else ""
    if len(rows) == 1:
        return "Metrics in which they differ\n  " + (f"none: {words}" if words else "none: there are no metrics yet")
    table = table_text(rows, right=range(1, len(rows[0])), indent="  ")
    return f"Metrics in which they differ\n{table}" + (f"\n  ({words})" if words else "")


def same_value(one: float | None, other: float | None) -> bool:
    """Equal to the bit; NaN equals NaN."""
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def _ordered(keys: Iterable[str]) -> list[str]:
    """Each once, the most telling first."""

    def rank(key: str) -> tuple[int, str]:
        return next((place for place, start in enumerate(_ORDER) if key.startswith(start)), len(_ORDER)), key

    return sorted(set(keys), key=rank)


# Seeds ---------------------------------------------------------------------------------------------------------------


def score_metrics(records: Sequence[RunRecord], chosen: Sequence[str] = ()) -> list[str]:
    """Metrics to judge by: those chosen, else the scores on test and validation videos, else the loss.

    Raises:
        RunError: No run has a chosen one.
    """
    there = {key for record in records for key in record.last}
    _check_chosen(chosen, there)
    scores = _ordered(key for key in there if key.startswith(("test/", "val/")) and "/split" not in key)
    return list(chosen) or scores or [key for key in ("pretrain/loss",) if key in there]


def _check_chosen(chosen: Sequence[str], there: set[str]) -> None:
    for key in chosen:
        if key not in there:
            some = ", ".join(_ordered(there)[:8]) or "none at all"
            raise RunError(f"--metric {key}: none of these runs has it; there are: {some}{', ...' * (len(there) > 8)}")


def curve_metrics(records: Sequence[RunRecord], chosen: Sequence[str] = ()) -> list[str]:
    """Metrics worth a panel of curves: those chosen, else all that change within some run.

    Raises:
        RunError: No run has a chosen one.
    """
    there = {key for record in records for key in record.curves}
    _check_chosen(chosen, there)
    if chosen:
        return list(chosen)
    moving = {key for record in records for key, (_, values) in record.curves.items() if len(set(values)) > 1}
    return _ordered(key for key in moving if not key.startswith(MACHINE_METRICS) and key != "epoch")


def groups_text(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """Means over seeds, and what of the differences between groups is more than chance."""
    rows = [["", "name", "runs", "seeds"]]
    for group in groups:
        seeds = " ".join("/".join(map(str, seed)) for seed in group.runs)
        rows.append([group.label, group.name, str(len(group.runs)), seeds])
    parts = ["Groups of runs that are equal but for the seed\n" + table_text(rows, indent="  ")]
    remarks = "\n".join(f"  {text}" for group in groups for text in _remarks(group))
    parts += [remarks] if remarks else []
    if len(groups) > 1:
        different = differing({group.label: group.settings for group in groups})
        head = ["setting", *(group.label for group in groups)]
        parts.append(_table("Settings in which the groups differ", head, different))
    summaries = [
        [metric, group.label, *_summary(metric, summarise(values))]
        for metric in metrics
        for group in groups
        if (values := _finite(group.values(metric).values()))
    ]
    head = ["metric", "group", "n", "mean", "std", f"{CONFIDENCE:.0%} interval of the mean"]
    parts.append("Over the seeds\n" + table_text([head, *summaries], right=(2, 3, 4, 5), indent="  "))
    if len(groups) > 1:
        parts.append(_tests(groups, metrics))
    return "\n\n".join(parts)


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _remarks(group: Group) -> list[str]:
    remarks = []
    if group.left_out:
        remarks.append(f"{group.label}: only the latest run of a seed counts; left out: {', '.join(group.left_out)}")
    for what, words in (("git_commit", "commits"), ("host", "machines")):
        found = sorted({record.tags.get(what, "")[:_SHORT_COMMIT] or "none" for record in group.runs.values()})
        if len(found) > 1:
            remarks.append(f"{group.label}: its runs come from {len(found)} {words}: {', '.join(found)}")
    unfinished = [record.id for record in group.runs.values() if record.status != "FINISHED"]
    if unfinished:
        remarks.append(f"{group.label}: not finished: {', '.join(unfinished)}")
    return remarks


def _summary(metric: str, found: Summary) -> list[str]:
    if found.n < 2:
        return [str(found.n), score(metric, found.mean), _ABSENT, "needs 2 seeds"]
    interval = f"{score(metric, found.low)} .. {score(metric, found.high)}"
    return [str(found.n), score(metric, found.mean), _spread(metric, found.std), interval]


def _spread(metric: str, std: float) -> str:
    return f"{100 * std:.1f} %" if is_hit_rate(metric) else number(std, 3)


def _tests(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """Every two groups in every metric, seed by seed."""
    several = len(groups) > 2
    rows = [["metric", "groups", "n", "difference", f"{CONFIDENCE:.0%} interval", "t", "p", "so"]]
    for metric in metrics:
        tests = [(one, other, paired_test(one.values(metric), other.values(metric))) for one, other in pairs(groups)]
        corrected = holm([test.p for _, _, test in tests])
        for (one, other, test), p in zip(tests, corrected, strict=True):
            rows.append([metric, f"{other.label} - {one.label}", *_test(metric, one, other, test, p)])
    words = (
        "Paired by seed: mean of the differences between runs of the same seed, Student's paired t-test, two-sided; "
        "hit rates in points" + (f"; p corrected for {len(pairs(groups))} pairs (Holm)" if several else "")
    )
    few = any(1 < int(row[2]) < FEW_SEEDS for row in rows[1:])
    hint = f"\n  n below {FEW_SEEDS} is small: only large differences can show; more seeds narrow the interval" * few
    return f"{words}\n" + table_text(rows, right=(2, 3, 4, 5, 6), indent="  ") + hint


def _test(metric: str, one: Group, other: Group, test: PairedTest, p: float) -> list[str]:
    if test.n == 0:
        return ["0", *[_ABSENT] * 4, "no common seed: nothing to pair"]
    mean = difference(metric, test.mean)
    if test.n == 1:
        return ["1", mean, *[_ABSENT] * 3, "one common seed says nothing; 2 are needed, 5 are better"]
    interval = f"{difference(metric, test.low)} .. {difference(metric, test.high)}"
    if math.isnan(test.p):
        so = "the same in every seed" if test.mean == 0 else "the same difference in every seed: no spread to test by"
        return [str(test.n), mean, interval, _ABSENT, _ABSENT, so]
    so = "no difference shown"
    if p < SIGNIFICANT:
        so = f"{other.label} is {'higher' if test.mean > 0 else 'lower'} than {one.label}"
    return [str(test.n), mean, interval, f"{test.t:.2f}", f"{p:.3f}" if p >= 0.001 else f"{p:.1e}", so]
