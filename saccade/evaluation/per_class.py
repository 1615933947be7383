"""How each class did: a table for people and spreadsheets."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saccade.atomic import write_text

__all__ = ["COLUMNS", "write_per_class"]

COLUMNS = ("class", "videos", "right", "recall", "precision", "mostly_mistaken_for", "times")


def write_per_class(path: Path, counts: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
    """Write a CSV with a row for each class that has videos, the worst recognised first.

    Args:
        path: The file.
        counts: Videos of each class (row) taken for each class (column), `[K, K]`.
        classes: Their names.
    """
    videos, taken, right = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    recall = right / np.maximum(videos, 1)
    mistaken = counts - np.diag(right)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for k in np.argsort(recall, kind="stable"):
        if videos[k]:
            other = int(mistaken[k].argmax())
            times = int(mistaken[k, other])
            precision = f"{right[k] / taken[k]:.4f}" if taken[k] else ""  # no video was taken for it
            table.writerow(
                [classes[k], videos[k], right[k], f"{recall[k]:.4f}", precision, classes[other] * bool(times), times]
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
