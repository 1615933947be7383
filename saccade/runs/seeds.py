"""Runs that are equal but for the seed, as groups: their means, how sure those are, and tests between groups.

Pure functions on numbers below, so that they can be checked by hand; the grouping reads `RunRecord`s.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from saccade.runs.record import PLACE_SETTINGS, RunRecord
from saccade.runs.tables import label

__all__ = ["FEW_SEEDS", "Group", "PairedTest", "Seeds", "Summary", "group_runs", "holm", "paired_test", "summarise"]

Seeds = tuple[int, ...]
"""A run's seed, and that of the run whose encoder it started from, if it did."""
CONFIDENCE = 0.95
FEW_SEEDS = 5
"""With fewer pairs only large differences can show."""


@dataclass(frozen=True)
class Summary:
    """What several seeds say of one metric."""

    n: int
    mean: float
    std: float
    """Of the sample, with n - 1 below; NaN for one value."""
    low: float
    """Of the confidence interval of the mean; NaN for one value."""
    high: float


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and 95 % confidence interval of a mean (Student's t, n - 1 degrees of freedom)."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Summary(n, mean, math.nan, math.nan, math.nan)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _critical(n - 1) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)


def _critical(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


@dataclass(frozen=True)
class PairedTest:
    """Whether one group differs from another, seed by seed (Student's paired t-test, two-sided)."""

    n: int
    """Seeds that both groups have."""
    mean: float
    """Of the differences, second group less first; NaN without a common seed."""
    low: float
    high: float
    t: float
    p: float
    """NaN when there is nothing to test: fewer than two pairs, or the same difference in all of them."""


def paired_test(first: Mapping[Seeds, float], second: Mapping[Seeds, float]) -> PairedTest:
    """Compare two groups by the seeds that both have; a seed whose value is NaN in one of them does not count."""
    common = [seed for seed in first if seed in second and not math.isnan(first[seed] + second[seed])]
    differences = [second[seed] - first[seed] for seed in common]
    if not differences:
        return PairedTest(0, *[math.nan] * 5)
    found = summarise(differences)
    # Equal differences, but for rounding, have no spread to test against.
    if found.n < 2 or found.std <= 1e-12 * max(map(abs, differences)):
        return PairedTest(found.n, found.mean, found.low, found.high, math.nan, math.nan)
    from scipy.stats import ttest_rel

    result = ttest_rel([second[seed] for seed in common], [first[seed] for seed in common])
    return PairedTest(found.n, found.mean, found.low, found.high, float(result.statistic), float(result.pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979); NaN stays and does not count."""
    order = sorted((value, place) for place, value in enumerate(values) if not math.isnan(value))
    corrected, highest = list(values), 0.0
    for rank, (value, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * value))
        corrected[place] = highest
    return corrected


@dataclass(frozen=True)
class Group:
    """Runs that are equal but for the seed."""

    label: str
    """A, B, ..."""
    name: str
    runs: Mapping[Seeds, RunRecord]
    """The latest for each seed."""
    left_out: tuple[str, ...]
    """Ids of earlier runs of a seed that is there already."""
    settings: Mapping[str, str]
    """What they have in common, place and seed left out."""

    def values(self, metric: str) -> dict[Seeds, float]:
        """Last value of a metric by seed, where there is one."""
        return {seed: run.last[metric] for seed, run in self.runs.items() if metric in run.last}


def group_runs(records: Sequence[RunRecord], source: Callable[[str], RunRecord | None]) -> list[Group]:
    """Sort runs into groups, in the order in which they are given.

    Runs on encoders of runs that differ in nothing but the seed are of one group: three fine-tunings, each of another
    pre-training.

    Args:
        records: The runs.
        source: Gives the run that `encoder.weights` names, or None.
    """
    found: dict[tuple[tuple[str, str], ...], list[tuple[Seeds, RunRecord]]] = {}
    for record in records:
        settings, seeds = _identity(record, source)
        found.setdefault(tuple(sorted(settings.items())), []).append((seeds, record))
    groups = []
    for place, (key, members) in enumerate(found.items()):
        latest: dict[Seeds, RunRecord] = {}
        for seeds, record in sorted(members, key=lambda member: member[1].created):
            latest[seeds] = record
        left_out = tuple(record.id for seeds, record in members if latest[seeds] is not record)
        runs = dict(sorted(latest.items()))
        groups.append(Group(label(place), next(iter(runs.values())).name, runs, left_out, dict(key)))
    return groups


def _identity(record: RunRecord, source: Callable[[str], RunRecord | None]) -> tuple[dict[str, str], Seeds]:
    """All that decides on a run's result but the seed, and the seeds."""
    settings = {key: value for key, value in record.settings.items() if not key.startswith(PLACE_SETTINGS)}
    seeds: Seeds = (int(settings.pop("seed")),)
    settings["data digest"] = record.tags.get("dataset_digest", "")
    if "weights_sha256" in record.tags:  # The same weights may lie at different places.
        settings["encoder.weights"] = f"sha256 {record.tags['weights_sha256'][:12]}"
    given = record.settings["encoder.weights"]
    first = source(given) if given else None
    if first is not None and first.id != record.id:
        of_first, more = _identity(first, source)
        settings |= {f"encoder.weights: {key}": value for key, value in of_first.items()}
        settings["encoder.weights"] = "of runs that differ in their seed"
        seeds += more
    return settings, seeds


def pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Every two groups, in their order."""
    return list(combinations(groups, 2))
