"""Everything that is wrong with a dataset on disk, in one report: for people, after copying or preparing one.

`load_dataset` stops a run at the first fault that concerns it; this goes on and finds the others.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from saccade.datasets.digest import content_digest, scanpath_digest
from saccade.datasets.frame_faults import FrameReport, inspect_frames
from saccade.datasets.layout import FRAMES_FOLDER, SPLIT_FOLDER
from saccade.datasets.links import refuse_links_out
from saccade.datasets.official import Official, recognise, unlike_official
from saccade.datasets.packed import stores_of
from saccade.datasets.packed_check import check_stores
from saccade.datasets.splits import Entry, Split, names_on_disk, read_split, split_numbers
from saccade.errors import DataError
from saccade.gaze.fixations import usable_length
from saccade.gaze.scanpath import Fixation, read_scanpath
from saccade.progress import progress
from saccade.spec import ClipSpec

__all__ = ["CheckReport", "check_dataset"]

_NAMED = 5
"""How many cases of one finding are named."""
_SCANPATHS = re.compile(r"scan_idx_(\d+)")
_CLIP_FRAMES: int = ClipSpec.model_fields["frames"].default


@dataclass
class CheckReport:
    """What a dataset holds and what is wrong with it."""

    folder: Path
    facts: list[str] = field(default_factory=list)
    """A line each."""
    findings: dict[str, list[str]] = field(default_factory=dict)
    """Kind of fault -> its cases."""

    def find(self, kind: str, cases: Iterable[str]) -> None:
        """Note cases of a fault, if there are any."""
        cases = list(cases)
        if cases:
            self.findings.setdefault(kind, []).extend(cases)

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.facts[0]}", *self.facts[1:]]
        for kind, cases in self.findings.items():
            lines += [f"\n{kind}: {len(cases)}", *(f"  {case}" for case in cases[:_NAMED])]
            if len(cases) > _NAMED:
                lines.append(f"  and {len(cases) - _NAMED} more")
        return "\n".join(lines if self.findings else [*lines, "nothing wrong was found"])


@dataclass
class _OnDisk:
    """A dataset's videos as they are there."""

    splits: dict[int, Split]
    official: Official | None
    frames: dict[str, FrameReport]
    """By the name of the folder."""
    found: dict[str, str]
    """Folder of each listed video that is there."""
    changes: str
    """How frames differ from the JPEG files that there were, if only a packed store is left."""

    def present(self, entries: Sequence[Entry]) -> list[Entry]:
        return [entry for entry in entries if entry.name in self.found]

    def count(self, entry: Entry) -> int | None:
        """Frames of a listed video; None when that is not known."""
        frames = self.frames[self.found[entry.name]].frames if entry.name in self.found else None
        return frames.count if frames is not None else None


def check_dataset(
    folder: Path,
    *,
    split: int | None = None,
    only_present: bool = False,
    deep: bool = False,
    workers: int | None = None,
) -> CheckReport:
    """Check the lists, frames, packed stores and scanpaths of a dataset.

    Args:
        folder: `<root>/<dataset>`.
        split: Only this official split; None: all that are there.
        only_present: Listed videos may be absent: those that are there are all there should be.
        deep: Decode every frame and compare every checksum, not only of the first and the last frame of each video.
        workers: Threads; None: one per core.

    Raises:
        DataError: There is no such folder.
    """
    began = time.monotonic()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give that of a dataset, such as data/UCF101")
    report = CheckReport(folder)
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            refuse_links_out(path, folder)
        except DataError as error:
            report.find("links that lead out of the data root", [str(error)])
    splits = _splits(folder / SPLIT_FOLDER, split, report)
    only_packed = bool(stores_of(folder)) and not (folder / FRAMES_FOLDER).exists()
    frames = {} if only_packed else _frames(folder / FRAMES_FOLDER, report, deep=deep, workers=workers)
    tree = {name: found.frames for name, found in frames.items() if found.frames is not None}
    stores = check_stores(folder, tree, splits, deep=deep, workers=workers)
    for kind, cases in stores.findings.items():
        report.find(kind, cases)
    if only_packed:
        frames = {name: FrameReport(name, found) for name, found in stores.videos.items()}
        _lengths(frames, report)
    changes = stores.changes if only_packed else ""
    entries = {entry.name: entry for split in splits.values() for entry in (*split.train, *split.test, *split.unused)}
    disk = _OnDisk(splits, recognise(splits), frames, names_on_disk(list(entries.values()), frames), changes)
    _coverage(disk, list(entries.values()), report, only_present=only_present)
    decoded = "every frame" if deep else "first and last frame of every video"
    total = sum(found.frames.count for found in frames.values() if found.frames is not None)
    release = f", split lists of {disk.official.name}" if disk.official is not None else ""
    report.facts.append(f"{len(frames)} videos, {total} frames{release}")
    for number, lists in splits.items():
        _division(number, lists, disk.official, report)
        report.facts.append(_split_fact(number, lists, disk))
    report.facts += stores.facts
    _scanpaths(folder, disk, report)
    report.facts.append(f"decoded {decoded}, in {time.monotonic() - began:.0f} s")
    return report


# Frames --------------------------------------------------------------------------------------------------------------


def _frames(folder: Path, report: CheckReport, *, deep: bool, workers: int | None) -> dict[str, FrameReport]:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        report.find("folders that cannot be read", [f"{folder.name}: {error.strerror}"])
        return {}
    report.find("videos half written", [name for name in names if name.endswith(".partial")])
    folders = [folder / name for name in names if not name.endswith(".partial")]
    # Threads do: decoding and the disk both leave Python to the others.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        done = pool.map(partial(inspect_frames, deep=deep), folders)
        found = {each.video: each for each in progress(done, desc="checking", unit="video", total=len(folders))}
    report.find("frames that cannot be used", [fault for each in found.values() for fault in each.faults])
    _lengths(found, report)
    return found


def _lengths(found: Mapping[str, FrameReport], report: CheckReport) -> None:
    report.find(
        f"videos with fewer usable frames (all but the last) than a clip of {_CLIP_FRAMES}",
        [
            f"{each.video} ({usable_length(each.frames.count)})"
            for each in found.values()
            if each.frames is not None and 0 <= usable_length(each.frames.count) < _CLIP_FRAMES
        ],
    )


# Lists ---------------------------------------------------------------------------------------------------------------


def _splits(folder: Path, only: int | None, report: CheckReport) -> dict[int, Split]:
    wrong = "split lists that cannot be used"
    splits = {}
    try:
        numbers = split_numbers(folder) if only is None else (only,)
    except DataError as error:
        report.find(wrong, [str(error)])
        return {}
    for number in numbers or (1,):
        try:
            splits[number] = read_split(folder, number)
        except DataError as error:
            report.find(wrong, [str(error)])
    return splits


def _coverage(disk: _OnDisk, entries: Sequence[Entry], report: CheckReport, *, only_present: bool) -> None:
    """Videos against lists, and lists against those of the release."""
    if not disk.splits:
        return
    if not only_present:
        without = {entry.class_name for entry in entries} - {entry.class_name for entry in disk.present(entries)}
        report.find("listed videos that are not there", [e.name for e in entries if e.name not in disk.found])
        report.find("classes without a video", sorted(without))
    report.find("videos that no split lists", sorted(set(disk.frames) - set(disk.found.values())))
    if disk.official is not None:
        listed = f"{len(entries)} videos are listed, {disk.official.name} has {disk.official.videos}"
        report.find(
            "split lists unlike the official ones",
            unlike_official(disk.official, disk.splits) + [listed] * (len(entries) != disk.official.videos),
        )


def _division(number: int, split: Split, official: Official | None, report: CheckReport) -> None:
    """Training and test must have nothing in common."""

    def shared(key: Callable[[Entry], str | None]) -> list[str]:
        train, test = ({key(entry) for entry in part} - {None} for part in (split.train, split.test))
        return sorted(f"split {number}: {name}" for name in train & test)

    def group(entry: Entry) -> str | None:
        match = re.fullmatch(official.group, entry.name) if official is not None and official.group else None
        return match[1].casefold() if match is not None else None

    # `read_split` has refused names that come twice exactly.
    report.find("videos both in training and test", shared(lambda entry: entry.name.casefold()))
    report.find("groups both in training and test", shared(group))


def _split_fact(number: int, split: Split, disk: _OnDisk) -> str:
    train, test = disk.present(split.train), disk.present(split.test)
    scanned = {}
    for entry in (*train, *test):
        frames = disk.frames[disk.found[entry.name]].frames
        if frames is None:
            return f"split {number}: no digest, since {disk.found[entry.name]} cannot be used"
        scanned[entry.name] = frames
    digest = content_digest(split.classes, {"train": train, "test": test}, scanned, changes=disk.changes)
    return f"split {number}: {len(train)} training, {len(test)} test videos, digest {digest}"


# Scanpaths -----------------------------------------------------------------------------------------------------------


def _scanpaths(folder: Path, disk: _OnDisk, report: CheckReport) -> None:
    for path in sorted(folder.iterdir()):
        grid = _SCANPATHS.fullmatch(path.name)
        if grid is not None and path.is_dir():
            _grid(path, int(grid[1]), disk, report)


def _grid(folder: Path, grid: int, disk: _OnDisk, report: CheckReport) -> None:
    """Files of one grid: every one against its video, and one for every training video."""
    files = sorted(name.removesuffix(".txt") for name in os.listdir(folder) if name.endswith(".txt"))
    entries = {e.name: e for split in disk.splits.values() for e in (*split.train, *split.test, *split.unused)}
    places = names_on_disk(list(entries.values()), files)
    rows: dict[str, tuple[Fixation, ...]] = {}
    for name, file in places.items():
        try:
            rows[name] = read_scanpath(folder / f"{file}.txt", grid, disk.count(entries[name]))
        except DataError as error:
            report.find("scanpath rows that cannot be used", [str(error).replace(f"{folder.parent}/", "")])
    report.facts.append(f"{folder.name}: {len(files)} files")
    for number, split in disk.splits.items():
        train = [entry.name for entry in disk.present(split.train)]
        missing = [name for name in train if name not in places]
        report.find(
            "training videos without a scanpath", [f"split {number}, {folder.name}: {name}" for name in missing]
        )
        if train and all(name in rows for name in train):
            digest = scanpath_digest({name: rows[name] for name in train})
            report.facts.append(f"{folder.name}, split {number}: digest of the training rows {digest}")
    report.find("scanpaths without a fixation", [f"{folder.name}: {name}" for name, found in rows.items() if not found])
    strange = sorted(set(files) - set(places.values())) if disk.splits else []
    report.find("scanpaths of no listed video", [f"{folder.name}: {name}" for name in strange])
