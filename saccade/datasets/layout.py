"""A dataset in the published layout, read and checked before anything is computed from it.

`<root>/<dataset>/jpegs_256/<video>/*.jpg` frames, `<root>/<dataset>/split/` official lists,
`<root>/<dataset>/scan_idx_<G>/<video>.txt` scanpath rows of the training videos.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saccade.datasets.digest import content_digest, scanpath_digest
from saccade.datasets.frames import (
    Empty,
    FrameFolder,
    list_frames,
    new_array,
    read_files,
    read_frames,
    scan_frames,
)
from saccade.datasets.links import refuse_links_out
from saccade.datasets.packed import PackedStore, open_store
from saccade.datasets.splits import Entry, Split, names_on_disk, read_split
from saccade.errors import DataError
from saccade.gaze.fixations import usable_length
from saccade.gaze.scanpath import Fixation, read_scanpath
from saccade.progress import progress

__all__ = ["FRAMES_FOLDER", "SPLIT_FOLDER", "Dataset", "Video", "check_folder", "load_dataset", "scanpath_folder"]

FRAMES_FOLDER = "jpegs_256"
SPLIT_FOLDER = "split"
_NAMED = 5
"""How many videos a message names at most."""


@dataclass(frozen=True, slots=True)
class Video:
    """One video on disk."""

    name: str
    label: int
    """Class, from 0."""
    frame_dir: Path
    """Folder of its frames; of those in a packed store, what it would be."""
    frames: int
    """How many there are."""
    fixations: tuple[Fixation, ...]
    """Rows of its scanpath; none for validation and test videos."""
    store: PackedStore | None = field(default=None, compare=False, repr=False)
    """Where its frames are, when not in a folder."""

    def read(self, numbers: Sequence[int], empty: Empty = new_array) -> npt.NDArray[np.uint8]:
        """Frames by their numbers, from 0: RGB `[len(numbers), H, W, 3]`, in memory that `empty` gives.

        Raises:
            DataError: One is unreadable, or there are not as many any more as there were; names the file.
        """
        if self.store is not None:
            return self.store.read(self.frame_dir.name, numbers, empty)
        return read_frames(self._paths(numbers), empty)

    def files(self, numbers: Sequence[int]) -> Sequence[bytes | memoryview]:
        """The same as JPEG files, not decoded; of a store that has such.

        Raises:
            DataError: One is unreadable or cut off, or there are not as many any more as there were; names the file.
        """
        if self.store is not None:
            return self.store.files(self.frame_dir.name, numbers)
        return read_files(self._paths(numbers))

    def _paths(self, numbers: Sequence[int]) -> list[str]:
        paths = list_frames(self.frame_dir)
        if len(paths) != self.frames:
            raise DataError(
                f"{self.frame_dir}: holds {len(paths)} frames, but had {self.frames} when the run began; "
                "restore them and resume, or start a new run"
            )
        folder = os.fspath(self.frame_dir)
        return [f"{folder}/{paths[number]}" for number in numbers]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The videos of one split."""

    name: str
    classes: tuple[str, ...]
    train: tuple[Video, ...]
    validation: tuple[Video, ...]
    """Held out of the training list."""
    test: tuple[Video, ...]
    digest: str
    """Of classes, training list, test list and frames: see `content_digest`. Held-out videos count as training."""
    scanpath_digest: str = ""
    """Of the training videos' scanpath rows; empty when none were read."""

    @property
    def identity(self) -> str:
        """Digests of all that a run can learn from: videos, and scanpath rows if it reads them."""
        return " ".join(filter(None, (self.digest, self.scanpath_digest)))


def scanpath_folder(grid_num: int) -> str:
    """Name of the folder of the scanpath rows for a grid."""
    return f"scan_idx_{grid_num}"


def _names_in(folder: Path, *, wanted: str) -> list[str]:
    """Names in a folder that must be there."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        pass
    parent = folder.parent
    there = sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else None
    if there is None:
        raise DataError(f"{parent}: no such folder, so no {folder.name} in it; set data.root and data.dataset")
    listed = ", ".join(there[:20]) or "no folder"
    raise DataError(f"{folder}: {wanted} is not there; {parent} has {listed}; take one of these, or make it")


def _without_excluded(split: Split, exclude: Sequence[str]) -> tuple[list[Entry], list[Entry]]:
    listed = {entry.name for entry in (*split.train, *split.test, *split.unused)}
    for name in exclude:
        if name not in listed:
            near = get_close_matches(name, listed, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; it must be the name of a listed video"
            raise DataError(f"data.exclude: no video {name!r} in the split{hint}")
    train = [entry for entry in split.train if entry.name not in exclude]
    return train, [entry for entry in split.test if entry.name not in exclude]


def _only_with_frames(
    entries: list[Entry], found: dict[str, str], folder: Path, *, only_present: bool, part: str
) -> list[Entry]:
    absent = [entry for entry in entries if entry.name not in found]
    if absent and not only_present:
        more = f" (and those of {len(absent) - 1} more {part} videos)" if len(absent) > 1 else ""
        raise DataError(
            f"{absent[0].place}: the frames of {absent[0].name!r} are not in {folder / absent[0].name}{more}; "
            f"add them, or set data.only_present to true or list the video in data.exclude"
        )
    present = [entry for entry in entries if entry.name in found]
    if not present:
        raise DataError(
            f"{folder}: holds the frames of none of the {len(entries)} {part} videos of the split; write "
            "them there, or choose another data.split"
        )
    return present


def _check_lengths(entries: Sequence[Entry], scanned: dict[str, FrameFolder], min_frames: int) -> None:
    lengths = {entry.name: scanned[entry.name].count for entry in entries}
    empty = [name for name in lengths if not lengths[name]]
    if empty:
        more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(
            f"{scanned[empty[0]].folder}: holds no .jpg{more}; write its frames, or list it in data.exclude"
        )
    short = [name for name in lengths if usable_length(lengths[name]) < min_frames]
    if short:
        named = ", ".join(f"{name} ({usable_length(lengths[name])})" for name in short[:_NAMED])
        more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
        raise DataError(
            f"{scanned[short[0]].folder.parent}: fewer usable frames (all but the last) than a clip's {min_frames} in "
            f"{named}{more}; shorten clip.frames, or list them in data.exclude"
        )


def _divide(train: list[Entry], patterns: Sequence[str]) -> tuple[list[Entry], list[Entry]]:
    for pattern in patterns:
        if not any(fnmatchcase(entry.name, pattern) for entry in train):
            raise DataError(
                f"data.validation: {pattern!r} matches no training video; they are named like {train[0].name}"
            )
    held = {entry.name for entry in train if any(fnmatchcase(entry.name, pattern) for pattern in patterns)}
    if len(held) == len(train):
        raise DataError(
            f"data.validation: {list(patterns)} holds out all {len(train)} training videos; leave some to train"
        )
    return [e for e in train if e.name not in held], [e for e in train if e.name in held]


def _fixations(
    entries: Sequence[Entry], scanned: dict[str, FrameFolder], dataset_folder: Path, grid_num: int
) -> dict[str, tuple[Fixation, ...]]:
    """Rows of every training video."""
    folder = dataset_folder / scanpath_folder(grid_num)
    files = [name for name in _names_in(folder, wanted="the folder of scanpath rows") if name.endswith(".txt")]
    found = names_on_disk(entries, (name.removesuffix(".txt") for name in files))
    absent = [entry for entry in entries if entry.name not in found]
    if absent:
        more = f", and {len(absent) - 1} more are missing" if len(absent) > 1 else ""
        raise DataError(
            f"{folder / (absent[0].name + '.txt')}: no scanpath for this training video{more}; make them, or set "
            f"saccade.source to random"
        )
    return {
        entry.name: read_scanpath(folder / f"{found[entry.name]}.txt", grid_num, scanned[entry.name].count)
        for entry in entries
    }


def _videos(
    entries: Sequence[Entry],
    scanned: dict[str, FrameFolder],
    rows: dict[str, tuple[Fixation, ...]],
    packed: PackedStore | None,
) -> tuple[Video, ...]:
    return tuple(
        Video(e.name, e.label, scanned[e.name].folder, scanned[e.name].count, rows.get(e.name, ()), packed)
        for e in entries
    )


def check_folder(root: Path | str, dataset: str) -> None:
    """Refuse a dataset whose folder is not there, in no time: for before a run is begun.

    Raises:
        DataError: Says what is there instead.
    """
    _names_in(Path(root) / dataset, wanted="the dataset")


def _scan(
    entries: Sequence[Entry], found: dict[str, str], frames_folder: Path, dataset: Path, *, show_progress: bool
) -> dict[str, FrameFolder]:
    names = [entry.name for entry in entries]
    shown = progress(names, desc="reading folders", unit="video") if show_progress else names
    return {name: scan_frames(frames_folder / found[name], dataset) for name in shown}


def load_dataset(
    root: Path | str,
    dataset: str,
    *,
    split: int,
    grid_num: int,
    scanpaths: bool,
    only_present: bool = False,
    exclude: Sequence[str] = (),
    validation: Sequence[str] = (),
    min_frames: int,
    store: str = "frames",
    show_progress: bool = False,
) -> Dataset:
    """Find, check and count everything of one split; whatever is wrong is an error here and not hours later.

    Args:
        root: Folder that holds the datasets.
        dataset: Name of the dataset's folder.
        split: N of the official split.
        grid_num: G of the scanpath rows.
        scanpaths: Whether training videos need scanpath rows.
        only_present: Leave out listed videos without a folder of frames.
        exclude: Names of videos to leave out.
        validation: Patterns (fnmatch) of the training videos to hold out.
        min_frames: T, frames of a clip; no video may have fewer usable ones.
        store: Where frames are read from: "frames", their folders, or the name of a packed store.
        show_progress: Show how far the reading of the folders is.

    Raises:
        DataError: Anything that is missing, malformed or contradictory; names the file.
    """
    check_folder(root, dataset)
    folder = Path(root) / dataset
    frames_folder = folder / (FRAMES_FOLDER if store == "frames" else store)
    for each in (folder / SPLIT_FOLDER, frames_folder, *([folder / scanpath_folder(grid_num)] * scanpaths)):
        refuse_links_out(each, folder)
    packed = None if store == "frames" else open_store(frames_folder)
    lists = read_split(folder / SPLIT_FOLDER, split)
    train, test = _without_excluded(lists, exclude)
    listed = (*lists.train, *lists.test, *lists.unused)
    present = _names_in(frames_folder, wanted="the folder of frames") if packed is None else packed.names
    found = names_on_disk(listed, present)
    train = _only_with_frames(train, found, frames_folder, only_present=only_present, part="training")
    test = _only_with_frames(test, found, frames_folder, only_present=only_present, part="test")
    if packed is None:
        scanned = _scan((*train, *test), found, frames_folder, folder, show_progress=show_progress)
    else:
        scanned = {entry.name: packed.frames_of(found[entry.name]) for entry in (*train, *test)}
    _check_lengths((*train, *test), scanned, min_frames)
    changes = "" if packed is None else packed.settings.changes
    digest = content_digest(lists.classes, {"train": train, "test": test}, scanned, changes=changes)
    train, held = _divide(train, validation)
    rows = _fixations(train, scanned, folder, grid_num) if scanpaths else {}
    parts = {"train": train, "validation": held, "test": test}
    videos = {part: _videos(entries, scanned, rows, packed) for part, entries in parts.items()}
    rows_digest = scanpath_digest(rows) if scanpaths else ""
    return Dataset(dataset, lists.classes, **videos, digest=digest, scanpath_digest=rows_digest)
