"""Kinetics (Carreira and Zisserman, 2017, arXiv:1705.07750) as a dataset: lists of its own form, then frames.

python docs/examples/dataset.py ANNOTATIONS VIDEOS data/Kinetics400

ANNOTATIONS holds train.csv and val.csv as published, with a header, label,youtube_id,time_start,time_end,split;
VIDEOS a folder for each class with <youtube_id>_<start>_<end>.mp4, seconds in six digits. Videos that are gone from
YouTube may be missing: set data.only_present in the spec.
"""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from saccade.datasets.prepare import prepare
from saccade.errors import DataError

PARTS = {"train.csv": "trainlist01.txt", "val.csv": "testlist01.txt"}


def split_lists(annotations: Path) -> dict[str, str]:
    """The official lists in UCF101's form: name of the file -> its text."""
    parts: dict[str, list[Mapping[str, str]]] = {}
    for file in PARTS:
        with (annotations / file).open(newline="", encoding="utf-8") as rows:
            parts[file] = list(csv.DictReader(rows))
    classes = sorted({row["label"] for rows in parts.values() for row in rows})
    lists = {"classInd.txt": [f"{number} {name}" for number, name in enumerate(classes, start=1)]}
    for file, rows in parts.items():
        lists[PARTS[file]] = [
            f"{row['label']}/{row['youtube_id']}_{int(row['time_start']):06}_{int(row['time_end']):06}.mp4"
            for row in rows
        ]
    return {name: "\n".join(lines) + "\n" for name, lines in lists.items()}


if __name__ == "__main__":
    annotations, videos, out = map(Path, sys.argv[1:])
    with TemporaryDirectory() as folder:
        for name, text in split_lists(annotations).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:
            print(prepare([videos], out, splits=Path(folder), on_error="skip"))
        except DataError as error:
            sys.exit(f"error: {error}")
