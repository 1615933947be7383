"""Split lists and scanpath rows made wrong: refused with their line, or read as what stands there, line by line."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.datasets.splits import Entry, Split, read_split, split_files
from saccade.errors import DataError
from saccade.gaze.scanpath import Fixation, read_scanpath

from .mutations import Mutation, Refusal, fuzzed, mutate, mutations, read, refused

UCF = {
    "classInd.txt": b"1 ApplyLipstick\n2 HandstandPushups\n3 Yo Yo\n",
    "trainlist01.txt": b"ApplyLipstick/v_A_g01_c01.avi 1\nHandstandPushups/v_H_g01_c01.avi 2\nYo Yo/v Y.mp4 3\n",
    "testlist01.txt": b"ApplyLipstick/v_A_g02_c01.avi\nHandstandPushups/v_H_g02_c01.avi\nYo Yo/v 7.avi\n",
}
HMDB = {
    "brush_hair_test_split1.txt": b"a.avi 1 \nb c.avi 2 \nd.avi 0 \n",
    "wave_test_split1.txt": b"e.avi 1 \nf.avi 2 \n#20 ('g').avi 1 \n",
}
TOKENS = (
    *(b"1 ", b" 1", b" 2\n", b"ApplyLipstick", b"applylipstick/", b"v_A_g01_c01.avi", b"a.avi 1\n", b".avi", b".AVI"),
    *(b"/", b"../", b"./", b"\\", "\u2003".encode(), "\xa0".encode(), b"9" * 5000, b"n" * 300),
)


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    known = ["avi", "mp4", "mkv", "mov", "webm", "mpg", "mpeg", "m4v", "wmv", "flv", "3gp"]
    return stem if dot and suffix.lower() in known else name


def stands_there(entry: Entry, part: str, split: Split) -> None:
    """The line of an entry, read once more."""
    line = entry.path.read_bytes().decode("utf-8-sig").split("\n")[entry.line - 1].strip()
    assert split.classes[entry.label] == entry.class_name
    assert not {"/", "\0", "\n"} & set(entry.name)
    assert entry.name not in ("", ".", "..")
    if entry.path.name.endswith(f"list{entry.path.stem[-2:]}.txt"):
        class_name, _, rest = line.partition("/")
        assert folded(class_name) == folded(entry.class_name)
        assert entry.path.name.startswith(part)
        words = rest.split()
        number = words[-1] if len(words) > 1 and words[-1].isdecimal() else None
        assert number is None or int(number) == entry.label + 1
        file = rest if number is None else rest[: rest.rindex(number)].rstrip()
    else:
        file, word = line[:-1].rstrip(), line[-1]
        assert entry.path.name == f"{entry.class_name}_test_split1.txt"
        assert {"0": "unused", "1": "train", "2": "test"}[word] == part
    assert without_suffix(file) == entry.name


@pytest.mark.parametrize("lists", [UCF, HMDB], ids=["ucf", "hmdb"])
@fuzzed(60, 900)
@given(st.integers(0, 2), mutations(TOKENS))
def test_split_lists(tmp_path: Path, lists: dict[str, bytes], which: int, changes: list[Mutation]) -> None:
    folder = tmp_path / "split"
    folder.mkdir(exist_ok=True)
    for name, content in lists.items():
        (folder / name).write_bytes(content)
    wrong = sorted(lists)[which % len(lists)]
    (folder / wrong).write_bytes(mutate(lists[wrong], changes))
    split = read("split lists", lambda: read_split(folder, 1), DataError)
    if isinstance(split, Refusal):
        assert split.message.startswith(str(folder))
        return
    parts = {"train": split.train, "test": split.test, "unused": split.unused}
    names = [entry.name for entries in parts.values() for entry in entries]
    assert len(names) == len(set(names))
    assert split.train
    assert split.test
    for part, entries in parts.items():
        for entry in entries:
            stands_there(entry, part, split)
    # As bytes: read as text, a carriage return within a line would end it.
    contents = [(folder / name).read_bytes().decode("utf-8-sig") for name in lists if name != "classInd.txt"]
    assert len(names) == sum(bool(line.strip()) for content in contents for line in content.split("\n"))


@fuzzed(40, 300)
@given(st.sampled_from(sorted(UCF)), mutations((b"0", b"01", b"_test_split", "\u0661".encode()), most=2))
def test_names_of_lists(tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[Mutation]) -> None:
    folder = tmp_path_factory.mktemp("split")
    for each, content in UCF.items():
        (folder / each).write_bytes(content)
    other = mutate(name.encode(), changes).replace(b"/", b"").replace(b"\0", b"")[:250]
    if other not in (b"", b".", b".."):
        (folder / name).rename(folder / other.decode("utf-8", "surrogateescape"))
    found = read("names of lists", lambda: (split_files(folder), read_split(folder, 1)), DataError)
    assert isinstance(found, Refusal) or len(found[1].train) == 3


ROWS = b"24 0 12\n25.0 12.0 30.0\n48 30 39\n0 39 40\n"
GRID, FRAMES = 7, 40


@fuzzed(120, 1200)
@given(mutations((b"24 0 12\n", b"0", b"-", b".", b"1e1", b"6.5", b"0x1", "\u0664".encode(), "\u2003".encode())))
def test_scanpath_rows(tmp_path: Path, changes: list[Mutation]) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(mutate(ROWS, changes))
    rows = read("scanpath rows", lambda: read_scanpath(path, GRID, FRAMES), DataError)
    if isinstance(rows, Refusal):
        assert rows.message.startswith(str(path))
        return
    stands = [line.split() for line in path.read_bytes().decode("utf-8-sig").rstrip().split("\n")]
    stands = [] if stands == [[]] else stands
    assert rows == tuple(Fixation(*(int(float(word)) for word in words)) for words in stands)
    assert all(float(word) == int(float(word)) for words in stands for word in words)
    assert all(0 <= row.cell < GRID**2 and 0 <= row.start <= row.end <= FRAMES for row in rows)
    assert all(row.start < FRAMES for row in rows)


def test_hostile_lists(tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()

    def lists(name: str, content: bytes) -> str:
        for each, usual in UCF.items():
            (folder / each).write_bytes(content if each == name else usual)
        return refused("hostile lists", lambda: read_split(folder, 1))

    assert "is not '<id> <Class>'" in lists("classInd.txt", b"9" * 5000 + b" A\n")
    assert "not the name" in lists("trainlist01.txt", b"ApplyLipstick/../../etc/passwd 1\n")
    assert "not the name" in lists("testlist01.txt", b"ApplyLipstick/.. 1\n")
    assert "longer than" in lists("trainlist01.txt", b"ApplyLipstick/" + b"n" * 300 + b".avi 1\n")
    assert "larger than" in lists("trainlist01.txt", b"\n" * (1 << 25))
    assert "UTF-8" in lists("trainlist01.txt", b"ApplyLipstick/\xff.avi 1\n")
    rows = tmp_path / "v.txt"
    rows.write_bytes(b"0 0 1\n" * 3_000_000)
    refused("hostile rows", lambda: read_scanpath(rows, GRID), "larger than")
