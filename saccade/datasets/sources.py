"""Video files below class folders, and the split lists that go with them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from saccade.datasets.splits import VIDEO_SUFFIXES, Split, read_split, split_files, video_name
from saccade.errors import DataError

__all__ = ["Source", "find_sources", "listed_sources", "official_lists", "own_lists"]


@dataclass(frozen=True, slots=True)
class Source:
    """A video file."""

    name: str
    class_name: str
    path: Path


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "." and path.is_file()


def _check_names(source: Source) -> None:
    for name in (source.name, source.class_name):
        # The lists hold one name a line, stripped.
        if name != name.strip() or any(ord(letter) < 32 for letter in name):
            raise DataError(f"{source.path}: {name!r} has a space at an end or a control character; rename it")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{str(source.path)!r}: {name!r} is not UTF-8; rename it") from None
    if source.name.endswith(".partial"):
        raise DataError(f"{source.path}: names ending with .partial are taken for unfinished work; rename it")


def find_sources(videos: Path) -> tuple[list[Source], list[Path]]:
    """Videos below `videos/<Class>/`, sorted by class and name, and everything else that lies there.

    Raises:
        DataError: There is no video in a class folder, one outside, or two have the same name.
    """
    if not videos.is_dir():
        raise DataError(f"{videos}: no such folder; give the one that holds a folder of videos for each class")
    sources: list[Source] = []
    ignored: list[Path] = []
    loose: list[Path] = []
    for child in sorted(videos.iterdir()):
        if not child.is_dir() or child.name[0] == ".":
            (loose if _is_video(child) else ignored).append(child)
            continue
        for path in sorted(child.iterdir()):
            if _is_video(path):
                sources.append(Source(video_name(path.name), child.name, path))
            else:
                ignored.append(path)
    if loose:
        raise DataError(
            f"{loose[0]}: this video is in no class folder; it must be {videos / '<Class>' / loose[0].name}"
        )
    if not sources:
        suffixes = " ".join(VIDEO_SUFFIXES)
        raise DataError(f"{videos}: holds no video; expected {videos / '<Class>' / '<video>'} with one of {suffixes}")
    seen: dict[str, Source] = {}
    for source in sources:
        _check_names(source)
        earlier = seen.setdefault(source.name, source)
        if earlier is not source:
            raise DataError(f"{source.path}: has the same video name as {earlier.path}; rename one")
    return sources, ignored


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


def listed_sources(
    sources: Sequence[Source], splits: Path
) -> tuple[list[Source], list[Source], dict[int, tuple[int, int]]]:
    """Match videos on disk with official lists.

    Returns:
        Videos that a list names, those that none does, and for each split how many of its training and test videos are
        not on disk.

    Raises:
        DataError: The lists are wrong, no video is in them, or one is listed in another class than its folder's.
    """
    every: dict[int, Split] = {number: read_split(splits, number) for number in split_files(splits)}
    if not every:
        read_split(splits, 1)  # raises: what an empty folder lacks
    known = {
        entry.name.casefold(): entry for split in every.values() for entry in (*split.train, *split.test, *split.unused)
    }
    listed = [source for source in sources if source.name.casefold() in known]
    if not listed:
        raise DataError(f"{splits}: its lists name none of the {len(sources)} videos, such as {sources[0].path}")
    for source in listed:
        entry = known[source.name.casefold()]
        if entry.class_name.casefold() != source.class_name.casefold():
            raise DataError(f"{source.path}: is listed as {entry.class_name!r} in {entry.place}; move it, or drop it")
    there = {source.name.casefold() for source in listed}

    def absent(split: Split) -> tuple[int, int]:
        train, test = (sum(e.name.casefold() not in there for e in part) for part in (split.train, split.test))
        return train, test

    unlisted = [source for source in sources if source.name.casefold() not in known]
    return listed, unlisted, {number: absent(split) for number, split in every.items()}


def official_lists(splits: Path, leave_out: Collection[str]) -> dict[str, bytes]:
    """Contents of official lists, byte for byte but for the lines of the videos to leave out."""
    folded = {name.casefold() for name in leave_out}
    dropped: dict[Path, set[int]] = {}
    paths: dict[str, Path] = {}
    for number, lists in split_files(splits).items():
        split = read_split(splits, number)
        for entry in (*split.train, *split.test, *split.unused):
            if entry.name.casefold() in folded:
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
