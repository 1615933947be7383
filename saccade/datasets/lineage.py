"""What a run says about the data that it uses, for the tracking server to show and compare."""

from collections.abc import Iterator
from dataclasses import dataclass

from saccade.datasets.layout import Dataset, scanpath_folder

__all__ = ["DatasetUse", "dataset_uses"]


@dataclass(frozen=True, slots=True)
class DatasetUse:
    """Part of a dataset, and what a run does with it."""

    name: str
    digest: str
    """As `saccade data check` prints it."""
    context: str
    """train, test or scanpaths."""
    source: str
    """Folder of the dataset."""
    profile: dict[str, int]
    """Counts. Like the digest they do not depend on what the run holds out of the training list."""


def dataset_uses(data: Dataset, *, split: int, grid_num: int) -> Iterator[DatasetUse]:
    """Both parts of a split, and the scanpath rows if they are read.

    The server tells datasets by name and digest, so the two parts, which share the split's digest, have two names.
    """
    folder = str(data.train[0].frame_dir.absolute().parents[1])
    for context, videos in (("train", (*data.train, *data.validation)), ("test", data.test)):
        profile = {
            "videos": len(videos),
            "frames": sum(video.frames for video in videos),
            "classes": len(data.classes),
        }
        yield DatasetUse(f"{data.name} split {split} {context}", data.digest, context, folder, profile)
    if data.scanpath_digest:
        rows = {"videos": len(data.train), "fixations": sum(len(video.fixations) for video in data.train)}
        name = f"{data.name} split {split} {scanpath_folder(grid_num)}"
        yield DatasetUse(name, data.scanpath_digest, "scanpaths", folder, rows)
