"""Videos to prepare, and the split lists that go with them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from saccade.datasets.splits import Split, folded, name_fault, read_split, split_files
from saccade.errors import DataError

__all__ = ["Match", "Source", "check_sources", "match_lists", "official_lists", "own_lists", "read_splits"]


@dataclass(frozen=True, slots=True)
class Source:
    """A video: a file, a member of an archive, or frames that an archive holds."""

    name: str
    class_name: str
    """Empty for frames, whose class only the split lists can say."""
    path: Path
    """Where it is, for messages: for a member, its archive's path and its own."""
    size: int
    """Bytes, unpacked."""
    mark: str
    """See `InputFile.mark`."""
    archive: Path | None = None
    members: tuple[str, ...] = ()
    """Names in the archive: one video, or frames."""

    @property
    def has_frames(self) -> bool:
        """Whether the members are frames."""
        return not self.class_name

    @property
    def stamp(self) -> str:
        """What to note beside something made from it, for `differs_from`."""
        return f"{self.size} {self.mark}"

    def differs_from(self, stamp: str) -> bool:
        """Whether it is not what it was when the stamp was taken; a file may since have been packed or unpacked."""
        size, _, mark = stamp.partition(" ")
        same_kind = mark.partition(":")[0] == self.mark.partition(":")[0]
        return size != str(self.size) or (same_kind and mark != self.mark)


def _check_name(name: str, path: Path) -> None:
    # The lists hold one name a line, stripped.
    fault = name_fault(name) or ("has a space at an end" if name != name.strip() else "")
    if fault:
        raise DataError(f"{path}: {name!r} {fault}; rename it")


def check_sources(sources: Sequence[Source]) -> None:
    """Refuse names that cannot be those of folders or stand in lists, and names that come twice.

    Raises:
        DataError: Names the video.
    """
    seen: dict[str, Source] = {}
    for source in sources:
        _check_name(source.name, source.path)
        if source.class_name:
            _check_name(source.class_name, source.path)
        if source.name.endswith(".partial"):
            raise DataError(f"{source.path}: names ending with .partial are taken for unfinished work; rename it")
        earlier = seen.setdefault(source.name, source)
        if earlier is not source:
            raise DataError(f"{source.path}: has the same video name as {earlier.path}; remove or rename one")


def _file_name(source: Source) -> str:
    return f"{source.class_name}/{source.path.name}"


def own_lists(sources: Sequence[Source], test_pattern: Sequence[str]) -> dict[str, str]:
    """Contents of the three UCF101-style lists for a division by patterns on the video names.

    Raises:
        DataError: A pattern matches nothing, or training or test would be empty.
    """
    for pattern in test_pattern:
        if not any(fnmatchcase(source.name, pattern) for source in sources):
            raise DataError(f"test pattern {pattern!r} matches no video; they are named like {sources[0].name}")
    classes = sorted({source.class_name for source in sources})
    ids = {name: number for number, name in enumerate(classes, start=1)}
    tests = {source.name for source in sources if any(fnmatchcase(source.name, pattern) for pattern in test_pattern)}
    if len(tests) == len(sources):
        raise DataError(f"test patterns {list(test_pattern)} match all {len(sources)} videos; leave some to train on")
    contents = {
        "classInd.txt": [f"{number} {name}" for name, number in ids.items()],
        "trainlist01.txt": [f"{_file_name(s)} {ids[s.class_name]}" for s in sources if s.name not in tests],
        "testlist01.txt": [_file_name(s) for s in sources if s.name in tests],
    }
    return {name: "\n".join(lines) + "\n" for name, lines in contents.items()}


def read_splits(splits: Path) -> dict[int, Split]:
    """Every official split of a folder, by its number.

    Raises:
        DataError: The lists are wrong, or there are none.
    """
    return {number: read_split(splits, number) for number in split_files(splits) or (1,)}


@dataclass(frozen=True, slots=True)
class Match:
    """Videos against official lists."""

    listed: list[Source]
    unlisted: list[Source]
    """Videos that no list names."""
    classes: frozenset[str]
    """Of the listed videos."""
    absent: dict[int, tuple[int, int]]
    """For each split: how many of its training and test videos are not there."""


def match_lists(sources: Sequence[Source], splits: Mapping[int, Split], folder: Path) -> Match:
    """Match videos with the splits of a folder, in any spelling (see `splits.folded`).

    Raises:
        DataError: No video is in the lists, or one is listed in another class than its folder's.
    """
    known = {
        folded(entry.name): entry for split in splits.values() for entry in (*split.train, *split.test, *split.unused)
    }
    listed = [source for source in sources if folded(source.name) in known]
    if not listed:
        raise DataError(
            f"{folder}: its lists name none of the {len(sources)} videos, such as {sources[0].path}; give the lists "
            "of these videos"
        )
    for source in listed:
        entry = known[folded(source.name)]
        if source.class_name and folded(entry.class_name) != folded(source.class_name):
            raise DataError(f"{source.path}: is listed as {entry.class_name!r} in {entry.place}; move it, or drop it")
    there = {folded(source.name) for source in listed}

    def absent(split: Split) -> tuple[int, int]:
        train, test = (sum(folded(e.name) not in there for e in part) for part in (split.train, split.test))
        return train, test

    return Match(
        listed,
        unlisted=[source for source in sources if folded(source.name) not in known],
        classes=frozenset(known[name].class_name for name in there),
        absent={number: absent(split) for number, split in splits.items()},
    )


def official_lists(splits: Path, leave_out: Collection[str]) -> dict[str, bytes]:
    """Contents of official lists, byte for byte but for the lines of the videos to leave out."""
    left_out = {folded(name) for name in leave_out}
    dropped: dict[Path, set[int]] = {}
    paths: dict[str, Path] = {}
    for number, lists in split_files(splits).items():
        split = read_split(splits, number)
        for entry in (*split.train, *split.test, *split.unused):
            if folded(entry.name) in left_out:
                dropped.setdefault(entry.path, set()).add(entry.line)
        paths |= {path.name: path for path in lists.values()}
    if (splits / "classInd.txt").is_file():
        paths["classInd.txt"] = splits / "classInd.txt"
    contents = {}
    for name, path in paths.items():
        lines = path.read_bytes().split(b"\n")
        kept = [line for at, line in enumerate(lines, start=1) if at not in dropped.get(path, set())]
        contents[name] = b"\n".join(kept)
    return contents
