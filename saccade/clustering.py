"""The record of a clustering: metrics, and a table that says for every fixation which cluster it is in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saccade.datasets.layout import Video
from saccade.metrics import cluster_agreement
from saccade.prototypes import Prototypes

__all__ = ["cluster_metrics", "write_clustering"]

_ROWS = pa.schema(
    [
        ("video", pa.string()),
        ("fixation", pa.int64()),
        ("class", pa.string()),
        ("clustering", pa.int64()),
        ("cluster", pa.int64()),
        ("distance", pa.float32()),
        ("cluster_density", pa.float32()),
    ]
)


def cluster_metrics(current: Sequence[Prototypes], previous: Sequence[Prototypes]) -> dict[str, float]:
    """What the UI shows of each clustering: how tight it is, and how much of the previous one it keeps."""
    values: dict[str, float] = {}
    for i, prototypes in enumerate(current):
        values[f"clusters/{i}/objective"] = prototypes.objective
        values[f"clusters/{i}/nonempty"] = prototypes.nonempty
        values[f"clusters/{i}/density_mean"] = prototypes.density_mean
        if previous:
            ari, nmi = cluster_agreement(previous[i].assignment, prototypes.assignment)
            values[f"clusters/{i}/ari_to_previous"], values[f"clusters/{i}/nmi_to_previous"] = ari, nmi
    return values


def write_clustering(
    folder: Path, clusterings: Sequence[Prototypes], videos: Sequence[Video], classes: Sequence[str], focus_num: int
) -> None:
    """Write `assignments.parquet` (a row for each fixation and clustering) and `centroids_<i>.npy` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    slots = np.arange(len(videos) * focus_num)
    names = pa.array([video.name for video in videos])
    labels = pa.array([classes[video.label] for video in videos])
    video = pa.array(slots // focus_num)
    with pq.ParquetWriter(folder / "assignments.parquet", _ROWS) as writer:  # one clustering in memory at a time
        for i, prototypes in enumerate(clusterings):
            columns = {
                "video": names.take(video),
                "fixation": slots % focus_num,
                "class": labels.take(video),
                "clustering": np.full(len(slots), i),
                "cluster": prototypes.assignment,
                "distance": prototypes.distance,
                "cluster_density": prototypes.density[prototypes.assignment],
            }
            writer.write_table(pa.table(columns, schema=_ROWS))
            np.save(folder / f"centroids_{i}.npy", prototypes.centroids)
