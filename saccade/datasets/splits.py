"""Official split lists: which videos train and which test, and their classes.

Two styles. UCF101: `classInd.txt` with `<1-based id> <Class>`, `trainlist0N.txt` and `testlist0N.txt` with
`<Class>/<video>.avi <id>`, where the id may be absent. HMDB51: one `<class>_test_split<N>.txt` per class with
`<video>.avi <0|1|2>` (1 train, 2 test, 0 unused), classes in alphabetical order. Labels count from 0 here.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.errors import DataError, shorten

__all__ = [
    "VIDEO_SUFFIXES",
    "Entry",
    "Split",
    "checked_name",
    "folded",
    "is_split_list",
    "name_fault",
    "names_on_disk",
    "read_split",
    "shown",
    "split_files",
    "split_numbers",
    "video_name",
]

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp")
"""Ends of file names, in either case, that are no part of a video's name."""

_CLASSES = "classInd.txt"
_UCF = re.compile(r"(train|test)list([0-9]+)\.txt")
_HMDB = re.compile(r"(.+)_test_split([0-9]+)\.txt")
_HMDB_PARTS = {"0": "unused", "1": "train", "2": "test"}
_MAX_BYTES = 1 << 24
"""No official list has a tenth of it."""
_NO_LETTER = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
"""Unicode's categories Cc and Cs."""
_MAX_NAME_BYTES = 240
"""File systems take 255, and what is made of a video gets an ending on top, such as `.txt.partial`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a split list."""

    name: str
    """Video name: the file name without its video suffix."""
    class_name: str
    """As in `Split.classes`."""
    label: int
    """Class, from 0."""
    path: Path
    """The list."""
    line: int
    """Line in it, from 1."""

    @property
    def place(self) -> str:
        """Where it stands, for messages: `trainlist01.txt:7` with its folders."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Split:
    """One official division of a dataset."""

    classes: tuple[str, ...]
    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    unused: tuple[Entry, ...]
    """Listed, but in neither part (HMDB51's 0)."""


def video_name(file_name: str) -> str:
    """File name without its video suffix; other dots belong to the name."""
    stem, dot, suffix = file_name.rpartition(".")
    return stem if dot + suffix.lower() in VIDEO_SUFFIXES else file_name


def is_split_list(file_name: str) -> bool:
    """Whether a file is one of a set of split lists, by its name."""
    return file_name == _CLASSES or any(pattern.fullmatch(file_name) for pattern in (_UCF, _HMDB))


def folded(name: str) -> str:
    """What names of one video have in common: neither case nor the way accents are composed, which macOS changes."""
    return unicodedata.normalize("NFC", name).casefold()


def name_fault(name: str) -> str:
    """Why a name cannot be one of a video or class, which becomes that of a folder and a line of a list; else empty."""
    if "/" in name or name in {"", ".", ".."}:
        return "is not a name"
    if name != name.strip(" \xa0") or _NO_LETTER.search(name):
        return "has a space at an end, a control character or bytes that are not UTF-8"
    length = len(name.encode())
    return f"is longer than {_MAX_NAME_BYTES} bytes ({length})" if length > _MAX_NAME_BYTES else ""


def names_on_disk(entries: Sequence[Entry], present: Iterable[str]) -> dict[str, str]:
    """Name on disk of each listed video that is there, in any spelling (see `folded`) when the exact one is not.

    UCF101 has videos named v_HandStandPushups_* and v_HandstandPushups_*, depending on the copy. A name that another
    listed video has exactly is never taken, so that no video can stand in two places.
    """
    names = set(present)
    listed = {entry.name for entry in entries}
    spelt: dict[str, list[str]] = {}
    for name in names - listed:
        spelt.setdefault(folded(name), []).append(name)
    found = {}
    for entry in entries:
        others = spelt.get(folded(entry.name), [])
        if entry.name in names:
            found[entry.name] = entry.name
        elif len(others) == 1:
            found[entry.name] = others.pop()
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank, stripped."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: this split list cannot be read as UTF-8 text: {error}; save it as UTF-8") from error
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path}: is larger than {_MAX_BYTES >> 20} MiB, which no split list is")
    # Not splitlines(), which also cuts at separators that may stand in a file's name.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _read_classes(path: Path) -> tuple[str, ...]:
    ids: dict[int, int] = {}
    names: dict[str, int] = {}
    for number, line in _lines(path):
        words = line.split(None, 1)
        if len(words) != 2 or not re.fullmatch("[0-9]{1,9}", words[0]):
            raise DataError(f"{path}:{number}: {shown(line)} is not '<id> <Class>'")
        fault = name_fault(words[1])
        if fault:
            raise DataError(f"{path}:{number}: the class {shown(words[1])} {fault}")
        if int(words[0]) in ids:
            raise DataError(
                f"{path}:{number}: id {words[0]} was given before in line {ids[int(words[0])]}; correct one"
            )
        if words[1] in names:
            raise DataError(
                f"{path}:{number}: class {shown(words[1])} was named before in line {names[words[1]]}; remove one"
            )
        ids[int(words[0])], names[words[1]] = number, number
    if sorted(ids) != list(range(1, len(ids) + 1)):
        missing = min(set(range(1, len(ids) + 2)) - set(ids))
        raise DataError(f"{path}: {len(ids)} classes, but no id {missing}; the ids must be 1 to {len(ids)}")
    if not ids:
        raise DataError(f"{path}: names no class; a line is '<id> <Class>', ids from 1")
    return tuple(name for _, name in sorted(zip(ids, names, strict=True)))


class _ClassFinder:
    """Finds a class by its name, in any spelling (see `folded`) when the exact one is not there."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self._exact = {name: label for label, name in enumerate(classes)}
        self._folded: dict[str, list[int]] = {}
        for label, name in enumerate(classes):
            self._folded.setdefault(folded(name), []).append(label)

    def find(self, name: str) -> int | None:
        if name in self._exact:
            return self._exact[name]
        # UCF101 has the class HandstandPushups and videos named v_HandStandPushups_*; copies mix the two.
        candidates = self._folded.get(folded(name), [])
        return candidates[0] if len(candidates) == 1 else None


def checked_name(file_name: str, place: str) -> str:
    """Name of a video from its file's name.

    Raises:
        DataError: It could not be the name of a folder; `place` says where it stands.
    """
    name = video_name(file_name)
    fault = name_fault(name)
    if fault:
        raise DataError(f"{place}: {shown(file_name)} is not the name of a video file: it {fault}")
    return name


def shown(text: str) -> str:
    """A piece of a list for the middle of a message."""
    return f"'{shorten(text, 200)}'"


def _ucf_entry(line: str, path: Path, number: int, finder: _ClassFinder) -> Entry:
    place = f"{path}:{number}"
    # Names may hold spaces, so the last word is an id only when it is a number.
    words = line.rsplit(None, 1)
    file_name, given = (words[0], words[1]) if len(words) == 2 and words[1].isdecimal() else (line, "")
    class_name, slash, file_name = file_name.partition("/")
    if not slash or not class_name:
        raise DataError(f"{place}: {shown(line)} is not '<Class>/<video>.avi' with or without an id")
    label = finder.find(class_name)
    if label is None:
        raise DataError(f"{place}: class {shown(class_name)} is not in {path.with_name(_CLASSES)}; add it there")
    if given and given.lstrip("0") != str(label + 1):
        raise DataError(
            f"{place}: id {shown(given)[1:-1]} is given, but {path.with_name(_CLASSES)} has {shown(class_name)} as "
            f"{label + 1}; correct one of them"
        )
    return Entry(checked_name(file_name, place), finder.classes[label], label, path, number)


def split_files(folder: Path) -> dict[int, dict[str, Path]]:
    """The lists of each split number: parts "train" and "test" for UCF101's style, class names for HMDB51's.

    Raises:
        DataError: The folder does not exist, or two of its files are one list.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; split lists belong there (see data/README.md)")
    pattern = _UCF if (folder / _CLASSES).is_file() else _HMDB
    found: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        lists = found.setdefault(int(match[2]), {})
        if match[1] in lists:
            raise DataError(f"{path}: is the same list as {lists[match[1]].name}; remove one")
        lists[match[1]] = path
    return dict(sorted(found.items()))


def split_numbers(folder: Path) -> tuple[int, ...]:
    """Numbers of the splits in a folder."""
    return tuple(split_files(folder))


def _read_ucf(folder: Path, lists: dict[str, Path], number: int) -> Split:
    finder = _ClassFinder(_read_classes(folder / _CLASSES))
    parts = {}
    for part in ("train", "test"):
        if part not in lists:
            raise DataError(
                f"{folder}: there is no {part}list{number:02d}.txt beside {next(iter(lists.values())).name}; add it"
            )
        parts[part] = tuple(_ucf_entry(line, lists[part], at, finder) for at, line in _lines(lists[part]))
    return Split(finder.classes, parts["train"], parts["test"], ())


def _read_hmdb(folder: Path, every: dict[int, dict[str, Path]], number: int) -> Split:
    classes = tuple(sorted({name for lists in every.values() for name in lists}))
    parts: dict[str, list[Entry]] = {part: [] for part in _HMDB_PARTS.values()}
    for label, class_name in enumerate(classes):
        if class_name not in every[number]:
            raise DataError(
                f"{folder}: there is no {class_name}_test_split{number}.txt, though other "
                "splits have that class; add it"
            )
        path = every[number][class_name]
        for at, line in _lines(path):
            words = line.rsplit(None, 1)
            if len(words) != 2 or words[1] not in _HMDB_PARTS:
                raise DataError(f"{path}:{at}: {shown(line)} is not '<video>.avi <0, 1 or 2>'")
            entry = Entry(checked_name(words[0], f"{path}:{at}"), class_name, label, path, at)
            parts[_HMDB_PARTS[words[1]]].append(entry)
    return Split(classes, tuple(parts["train"]), tuple(parts["test"]), tuple(parts["unused"]))


def _check_once(split: Split) -> None:
    seen: dict[str, Entry] = {}
    for entry in (*split.train, *split.test, *split.unused):
        earlier = seen.setdefault(entry.name, entry)
        if earlier is not entry:
            raise DataError(f"{entry.place}: video {entry.name!r} is listed already in {earlier.place}; remove one")


def read_split(folder: Path, number: int) -> Split:
    """Read and check one official split, in the order of its lists.

    Args:
        folder: Holds the lists; the style is UCF101's when it has a classInd.txt, else HMDB51's.
        number: N of the split.

    Raises:
        DataError: Lists are missing or malformed, disagree, or name a video twice; names the file and line.
    """
    every = split_files(folder)
    if not every:
        raise DataError(
            f"{folder}: holds no split lists; expected {_CLASSES} with trainlist01.txt and testlist01.txt, "
            f"or <class>_test_split1.txt"
        )
    if number not in every:
        raise DataError(f"{folder}: has no split {number}; it has {', '.join(map(str, every))}")
    ucf = (folder / _CLASSES).is_file()
    split = _read_ucf(folder, every[number], number) if ucf else _read_hmdb(folder, every, number)
    _check_once(split)
    for part, entries in (("training", split.train), ("test", split.test)):
        if not entries:
            raise DataError(f"{folder}: split {number} lists no {part} video; give it some")
    return split
