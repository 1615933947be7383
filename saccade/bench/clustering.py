"""`saccade bench clustering`: k-means as here beside the published setting, and a memory bank of many slots."""

import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean, median
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from saccade.bench.measure import Report, Row, cpu_seconds, one_thread
from saccade.engine import ranks
from saccade.errors import DataError
from saccade.losses import updated_slots
from saccade.memory_bank import MemoryBank
from saccade.plan.peak import PeakMemory
from saccade.prototypes import Prototypes, fit_prototypes
from saccade.rng import derive_seed, generator
from saccade.sampling import draw_below
from saccade.spec import ContrastSpec, PretrainSpec, PrototypeSpec, SaccadeSpec

__all__ = ["bench_clustering", "bench_slots"]

Floats = npt.NDArray[np.float32]
Result = TypeVar("Result")

_SLOTS = 28_611
"""UCF101's 9,537 training videos of split 1, of 3 fixations each."""
_SEED = 632
_ROWS = 65_536
"""Features that are made at a time."""
_SAMPLED = 100
"""Points per centroid that a clustering of many slots trains on."""


def bench_clustering(
    features: Path | None = None, *, seeds: int = 5, points: int = _SLOTS, dim: int = 512, num_clusters: int = 1500
) -> Report:
    """Measure k-means beside the published setting, its time and its objective, each with several seeds.

    Args:
        features: A .npy file of features `[N, D]` in float32; None: made ones, `points` of `dim` dimensions.
        seeds: How many.
        points: N.
        dim: D.
        num_clusters: K.

    Raises:
        DataError: There are no such features.
    """
    sets: dict[str, Callable[[], Floats]] = {
        "features without structure": partial(unstructured, points, dim),
        "clustered features": partial(clustered, points, dim),
    }
    if features is not None:
        sets = {features.name: partial(_load, features, num_clusters)}
    report = Report("clustering", {"num_clusters": num_clusters, "seeds": seeds, "threads": 1})
    with threadpool_limits(1), one_thread():
        for name, make in sets.items():
            report.rows += _beside_published(name, make(), num_clusters, seeds)
    return report


def bench_slots(slots: int, *, dim: int = 512, num_clusters: int = 1500, sampled: int = _SAMPLED) -> Report:
    """Measure a memory bank of many slots on the CPU: its making, a step's part of it, a clustering, and the memory.

    With several processes, of the first of them: each has its part of the bank, and the first one alone clusters.

    Args:
        slots: N.
        dim: D.
        num_clusters: K.
        sampled: Points per centroid that k-means trains on.
    """
    settings: dict[str, object] = {
        "slots": slots,
        "dim": dim,
        "num_clusters": num_clusters,
        "points per centroid": sampled,
        "processes": ranks.size(),
        "threads": 1,
    }
    report = Report("clustering", settings)
    with threadpool_limits(1), one_thread(), PeakMemory() as peak:
        before = peak.bytes
        bank, making = _timed(lambda: MemoryBank(slots, dim, torch.Generator().manual_seed(_SEED), split=True))
        steps = [_timed(partial(_step, bank, step))[1] for step in range(5)]
        after_bank = peak.bytes
        if not ranks.first():
            return report
        features = clustered(slots, dim)
        fit = partial(fit_prototypes, features, num_clusters, seeding="kmeans++", seed=_SEED, temperature=0.07)
        found, clustering = _timed(partial(fit, max_points_per_centroid=sampled))
        after = peak.bytes
    assert found.nonempty > num_clusters // 2
    group = f"{slots:,} slots of {dim}"
    times = {
        "making the memory bank": making,
        "a step: negatives drawn and read, slots updated": median(steps),
        "a clustering: k-means on a sample, then all slots": clustering,
    }
    report.rows += [Row(f"{group}: time", name, value, "s", None, (value,)) for name, value in times.items()]
    sizes = {
        "process before": before,
        "most with the memory bank": after_bank,
        "most with bank, features and clustering": after,
        "of which bank and features": bank.rows.nbytes + features.nbytes,
    }
    report.rows += [
        Row(f"{group}: memory", name, size / 2**20, "MiB", None, (size / 2**20,)) for name, size in sizes.items()
    ]
    return report


def clustered(points: int, dim: int) -> Floats:
    """Features as those of videos: classes, groups of videos, videos, three fixations; a few directions matter most."""
    rng = generator(_SEED, "benchmark features")
    scales = (1 + np.arange(dim, dtype=np.float32)) ** -0.5
    scales /= np.linalg.norm(scales)

    def spread(rows: int, size: float) -> Floats:
        return size * scales * rng.standard_normal((rows, dim), np.float32)

    videos = -(-points // 3)
    groups = spread(101, 1.0)[np.arange(2500) % 101] + spread(2500, 0.7) + spread(1, 0.5)
    features = np.empty((points, dim), np.float32)
    for first in range(0, points, 3 * _ROWS):
        rows = features[first : first + 3 * _ROWS]
        own = groups[rng.integers(2500, size=min(_ROWS, videos - first // 3))]
        own += spread(len(own), 0.4)
        for fixation in range(3):
            part = rows[fixation::3]
            part[:] = own[: len(part)] + spread(len(part), 0.35)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return features


def unstructured(points: int, dim: int) -> Floats:
    """Points all over the sphere, which have no clusters."""
    features = generator(_SEED, "benchmark features").standard_normal((points, dim), np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features


def _load(path: Path, num_clusters: int) -> Floats:
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npy file of features ({error}); write one by numpy.save") from None
    if not isinstance(features, np.ndarray):
        raise DataError(f"{path}: is no single array; write one by numpy.save")
    if features.ndim != 2 or features.dtype != np.float32 or len(features) < num_clusters:
        raise DataError(
            f"{path}: holds {features.dtype} {list(features.shape)}; "
            f"features are float32 [N, D], at least {num_clusters} of them"
        )
    return np.asarray(features)


def _beside_published(name: str, features: Floats, num_clusters: int, seeds: int) -> list[Row]:
    """Time and objective of each way with the same seeds, in turns."""
    fit = partial(fit_prototypes, features, num_clusters, temperature=0.07)
    ways: dict[str, Callable[[int], float]] = {
        "published: 5 random starts in faiss": lambda seed: fit(seed=seed, seeding="random").objective,
        "as here: k-means++": lambda seed: fit(seed=seed, seeding="kmeans++").objective,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    objectives: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(PrototypeSpec().seed, PrototypeSpec().seed + seeds):
        for way, run in ways.items():
            objective, seconds = _timed(partial(run, seed))
            times[way].append(seconds)
            objectives[way].append(objective)
            # The published setting takes a minute of a core each time.
            print(f"{name}, seed {seed}, {way}: {seconds:.1f} s, {objective:.2f}", file=sys.stderr, flush=True)
    baseline = next(iter(ways))
    rows = []
    group = f"a clustering of {features.shape[0]} x {features.shape[1]}, {name}"
    for way, took in times.items():
        ratios = [slow / fast for slow, fast in zip(times[baseline], took, strict=True)]
        ratio = None if way == baseline else median(ratios)
        rows.append(Row(group, way, median(took), "s", ratio, tuple(took)))
    if torch.cuda.is_available():
        rows.append(_on_gpu(group, fit, seeds))
    ours = list(ways)[1]
    return rows + _objectives(f"its objective, {name}", objectives[baseline], objectives[ours])


def _objectives(group: str, published: list[float], ours: list[float]) -> list[Row]:
    above = [100 * (own / theirs - 1) for own, theirs in zip(ours, published, strict=True)]
    of_means = 100 * (mean(ours) / mean(published) - 1)
    unit = "% above the published"
    return [
        Row(group, "k-means++, mean of the seeds", of_means, unit, None, tuple(above)),
        Row(group, "k-means++, worst seed", max(above), unit, None, tuple(above)),
    ]


def _on_gpu(group: str, fit: Callable[..., Prototypes], seeds: int) -> Row:
    """All clusterings of the paper, features going there and prototypes coming back; by the clock."""
    clusterings, seed = len(PrototypeSpec().num_clusters), count(PrototypeSpec().seed)
    fit(seed=next(seed), seeding="kmeans++", device=torch.device("cuda"))
    values = []
    for _ in range(seeds):
        began = time.perf_counter()
        for _ in range(clusterings):
            fit(seed=next(seed), seeding="kmeans++", device=torch.device("cuda"))
        values.append(time.perf_counter() - began)
    return Row(group, f"on the GPU, {clusterings} clusterings", median(values), "s", None, tuple(values))


def _step(bank: MemoryBank, step: int) -> None:
    """What this process's share of the paper's batch does with the memory bank, but for the networks."""
    clips = PretrainSpec().batch_size * 2 * SaccadeSpec().focus_num
    seed = derive_seed(_SEED, "negatives", step)
    rng = torch.Generator().manual_seed(seed)
    slots = torch.randint(len(bank), (clips,), generator=rng)
    drawn = draw_below(len(bank), (clips, ContrastSpec().num_negatives), seed=seed, device=slots.device)
    rows, _ = torch.unique(ranks.own_rows(torch.cat([slots[:, None], drawn], dim=1)), return_inverse=True)
    assert bank.read(rows).shape == (len(rows), bank.shape[1])
    features = torch.randn(clips, bank.shape[1], generator=rng)
    bank.write(slots, updated_slots(bank.read(slots), slots, features, momentum=ContrastSpec().memory_momentum))


def _timed(function: Callable[[], Result]) -> tuple[Result, float]:
    found: list[Result] = []
    seconds = cpu_seconds(lambda: found.append(function()))
    return found[0], seconds
