"""The per-class table, by hand."""

import csv
from pathlib import Path

import numpy as np

from saccade.evaluation.per_class import COLUMNS, write_per_class


def test_worst_classes_first_and_untested_ones_left_out(tmp_path: Path) -> None:
    # Class 1 has no video but is guessed once; nothing is taken for class 3.
    counts = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 2, 0]])
    path = tmp_path / "tables" / "t.csv"
    write_per_class(path, counts, ["walk", "run", 'jump, "high"', "bend"])
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        list(COLUMNS),
        ["bend", "2", "0", "0.0000", "", 'jump, "high"', "2"],
        ['jump, "high"', "2", "1", "0.5000", "0.3333", "walk", "1"],
        ["walk", "4", "3", "0.7500", "0.7500", "run", "1"],
    ]


def test_a_class_without_mistakes(tmp_path: Path) -> None:
    write_per_class(tmp_path / "t.csv", np.array([[2, 0], [0, 1]]), ["a", "b"])
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == ["a,2,2,1.0000,1.0000,,0", "b,1,1,1.0000,1.0000,,0"]
