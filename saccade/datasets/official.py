"""What the official releases of UCF101 and HMDB51 hold, to tell whether all of one is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from saccade.datasets.splits import Split
from saccade.errors import DataError

__all__ = ["OFFICIAL", "Official", "check_official", "recognise", "unlike_official"]


@dataclass(frozen=True, slots=True)
class Official:
    """One release."""

    name: str
    classes: int
    first_class: str
    last_class: str
    videos: int
    splits: Mapping[int, tuple[int, int]]
    """Training and test videos of each split."""
    lists: str
    """File that holds the split lists."""
    group: str = ""
    """Pattern of the videos' names, up to what tells clips of one group apart: the same persons in the same place, so a
    group is either trained or tested on. Empty: there are no groups."""


OFFICIAL = {
    # Soomro, Zamir, Shah, "UCF101", 2012, arXiv:1212.0402
    "ucf101": Official(
        "UCF101",
        101,
        "ApplyEyeMakeup",
        "YoYo",
        13320,
        {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)},
        "UCF101TrainTestSplits-RecognitionTask.zip",
        r"(.+_g\d+)_c\d+",
    ),
    # Kuehne et al., "HMDB", ICCV 2011; the paper counts 6849 clips, the release and its lists have 6766.
    "hmdb51": Official(
        "HMDB51",
        51,
        "brush_hair",
        "wave",
        6766,
        {1: (3570, 1530), 2: (3570, 1530), 3: (3570, 1530)},
        "test_train_splits.rar",
    ),
}
"""By the word that `saccade data prepare` takes."""


def recognise(splits: Mapping[int, Split]) -> Official | None:
    """The release that split lists belong to, by their classes."""
    classes = next((split.classes for split in splits.values()), ("",))
    for official in OFFICIAL.values():
        if (len(classes), classes[0], classes[-1]) == (official.classes, official.first_class, official.last_class):
            return official
    return None


def unlike_official(official: Official, splits: Mapping[int, Split]) -> list[str]:
    """How the given splits differ from the official ones, in numbers."""
    faults = []
    for number, split in splits.items():
        counts = (len(split.train), len(split.test))
        wanted = official.splits.get(number)
        if wanted is not None and counts != wanted:
            faults.append(
                f"split {number} lists {counts[0]} training and {counts[1]} test videos, {official.name} has "
                f"{wanted[0]} and {wanted[1]}"
            )
    return faults


def check_official(official: Official, splits: Mapping[int, Split], folder: Path) -> None:
    """Refuse split lists that are not the official ones.

    Raises:
        DataError: Other classes or other numbers of videos.
    """
    if recognise(splits) is not official:
        classes = next(iter(splits.values())).classes
        raise DataError(
            f"{folder}: has {len(classes)} classes, {classes[0]} to {classes[-1]}; these are not the split lists of "
            f"{official.name}, which {official.lists} holds"
        )
    missing = [f"there is no split {number}" for number in official.splits if number not in splits]
    faults = missing + unlike_official(official, splits)
    if faults:
        raise DataError(f"{folder}: {faults[0]}; take the lists from {official.lists} as they are")
