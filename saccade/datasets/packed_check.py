"""What is wrong with a dataset's packed stores, all of it and not only the first fault."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from saccade.amounts import bytes_text
from saccade.datasets.digest import content_digest
from saccade.datasets.frames import FrameFolder
from saccade.datasets.packed import PackedStore, is_store, open_store
from saccade.datasets.splits import Split, names_on_disk
from saccade.errors import DataError
from saccade.progress import progress

__all__ = ["StoresReport", "check_stores"]


@dataclass
class StoresReport:
    """What a dataset's stores hold and what is wrong with them."""

    facts: list[str] = field(default_factory=list)
    findings: dict[str, list[str]] = field(default_factory=dict)
    """Kind of fault -> its cases."""
    videos: dict[str, FrameFolder] = field(default_factory=dict)
    """Of the first store that can be used."""
    changes: str = ""
    """What that store has changed (`Settings.changes`)."""

    def find(self, kind: str, cases: Sequence[str]) -> None:
        if cases:
            self.findings.setdefault(kind, []).extend(cases)


def check_stores(
    folder: Path,
    tree: Mapping[str, FrameFolder],
    splits: Mapping[int, Split],
    *,
    deep: bool,
    workers: int | None,
) -> StoresReport:
    """Open every store, compare it with the folders of frames, and read frames of it.

    Args:
        folder: The dataset's.
        tree: Its videos' folders of frames; empty when there are none any more.
        splits: Its official splits.
        deep: Compare the checksums of every frame, not only of the first and the last one of each video.
        workers: Threads; None: one per core.
    """
    report = StoresReport()
    there = sorted(path.name for path in folder.glob("packed_*") if path.is_dir())
    half = [name for name in there if is_store(name.removesuffix(".partial")) and name.endswith(".partial")]
    report.find("packed stores half written", half)
    for name in filter(is_store, there):
        try:
            store = open_store(folder / name)
        except DataError as error:
            report.find("packed stores that cannot be used", [str(error)])
            continue
        videos = {video: store.frames_of(video) for video in store.names}
        if not report.videos:
            report.videos, report.changes = videos, store.settings.changes
        report.facts.append(
            f"{name}: {len(videos)} videos, {store.num_frames} frames, {bytes_text(store.bytes)}"
            + (f", changed: {store.settings.changes}" if store.settings.changes else "")
        )
        report.find("packed frames that are damaged", _damaged(store, deep=deep, workers=workers))
        report.find("packed videos unlike their folders of frames", _unlike(name, videos, tree))
        report.facts += _digests(store, videos, splits)
    return report


def _damaged(store: PackedStore, *, deep: bool, workers: int | None) -> list[str]:
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        done = pool.map(partial(_faults, store, deep=deep), store.names)
        shown = progress(done, desc=f"checking {store.settings.name}", unit="video", total=len(store.names))
        return [f"{store.settings.name}: {fault}" for faults in shown for fault in faults]


def _faults(store: PackedStore, name: str, *, deep: bool) -> list[str]:
    damaged = set(store.damaged(name, every=deep))
    faults = [f"frame {number} of {name}: its CRC-32 differs" for number in sorted(damaged)]
    count = store.frames_of(name).count
    for number in range(count) if deep else sorted({0, count - 1}):
        if number not in damaged:
            try:
                store.read(name, [number])
            except DataError as error:
                faults.append(str(error).partition(f"{store.folder}/")[2].partition(";")[0])
    return faults


def _unlike(name: str, packed: Mapping[str, FrameFolder], tree: Mapping[str, FrameFolder]) -> list[str]:
    if not tree:
        return []
    cases = [f"{name}: {video} is not in it" for video in sorted(tree.keys() - packed.keys())]
    cases += [f"{name}: {video} has no folder" for video in sorted(packed.keys() - tree.keys())]
    for video in sorted(tree.keys() & packed.keys()):
        if (packed[video].count, packed[video].sizes) != (tree[video].count, tree[video].sizes):
            cases.append(f"{name}: {video} was packed from other frames")
    return cases


def _digests(store: PackedStore, videos: Mapping[str, FrameFolder], splits: Mapping[int, Split]) -> list[str]:
    facts = []
    for number, split in splits.items():
        found = names_on_disk([*split.train, *split.test, *split.unused], videos)
        parts = {
            part: [entry for entry in entries if entry.name in found]
            for part, entries in (("train", split.train), ("test", split.test))
        }
        scanned = {entry.name: videos[found[entry.name]] for entries in parts.values() for entry in entries}
        digest = content_digest(split.classes, parts, scanned, changes=store.settings.changes)
        facts.append(f"{store.settings.name}, split {number}: digest {digest}")
    return facts
