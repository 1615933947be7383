import os
import unicodedata
from pathlib import Path

import pytest

from saccade.datasets.splits import name_fault, read_split, split_numbers, video_name
from saccade.errors import DataError


def _lists(folder: Path, **contents: str) -> Path:
    for name, text in contents.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


def _ucf(folder: Path, train: str, test: str = "B/t.avi\n", classes: str = "1 A\n2 B\n") -> Path:
    return _lists(folder, classInd=classes, trainlist01=train, testlist01=test)


def _shared_lists(name: str) -> Path:
    shared = Path(os.environ.get("SACCADE_SHARED", Path(__file__).parents[3] / "shared"))
    folder = shared / "data" / "splits" / name
    if not folder.is_dir():
        pytest.skip(f"the official lists are not in {folder} (set SACCADE_SHARED)")
    return folder


def test_ucf_lists_by_hand(tmp_path: Path) -> None:
    split = read_split(_ucf(tmp_path, "B/x.avi 2\r\nA/y.avi 1\r\n\r\nA/z.avi\r\n", classes="1 A\r\n2 B\r\n"), 1)
    assert split.classes == ("A", "B")
    assert [(e.name, e.class_name, e.label, e.line) for e in split.train] == [
        ("x", "B", 1, 1),
        ("y", "A", 0, 2),
        ("z", "A", 0, 4),
    ]
    assert [(e.name, e.label) for e in split.test] == [("t", 1)]
    assert split.test[0].place == f"{tmp_path / 'testlist01.txt'}:1"


def test_classes_go_by_id_not_by_line(tmp_path: Path) -> None:
    split = read_split(_ucf(tmp_path, "A/x.avi\n", classes="2 A\n3 C\n1 B\n"), 1)
    assert split.classes == ("B", "A", "C")
    assert split.train[0].label == 1


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("A/my video.avi 1", "my video"),
        ("A/take 12.avi", "take 12"),
        ("A/take.12", "take.12"),
        ("A/100% #1 (final).mp4 1", "100% #1 (final)"),
        ("A/ключ\u2028.mkv 1", "ключ\u2028"),
        ("A/v1.2.AVI 1", "v1.2"),
        ("A/x.webm\t1", "x"),
        ("a/x.mov 1", "x"),
    ],
)
def test_names_of_all_kinds(tmp_path: Path, line: str, name: str) -> None:
    (entry,) = read_split(_ucf(tmp_path, f"{line}\n"), 1).train
    assert (entry.name, entry.class_name, entry.label) == (name, "A", 0)


def test_class_names_with_spaces(tmp_path: Path) -> None:
    split = read_split(_ucf(tmp_path, "Brush Hair/x.avi 2\n", "A/t.avi", classes="1 A\n2 Brush Hair\n"), 1)
    assert split.train[0].class_name == "Brush Hair"


def test_another_spelling_of_a_class_only_when_it_is_clear(tmp_path: Path) -> None:
    classes = "1 HandstandPushups\n2 B\n"
    split = read_split(_ucf(tmp_path, "HandStandPushups/v_HandStandPushups_g01_c01.avi 1\n", classes=classes), 1)
    assert split.train[0].class_name == "HandstandPushups"
    assert split.train[0].name == "v_HandStandPushups_g01_c01"
    with pytest.raises(DataError, match="class 'BB' is not in"):
        read_split(_ucf(tmp_path, "BB/x.avi\n", classes="1 Bb\n2 bB\n3 B\n"), 1)
    assert read_split(_ucf(tmp_path, "bB/x.avi\n", classes="1 Bb\n2 bB\n3 B\n"), 1).train[0].label == 1


@pytest.mark.parametrize(
    ("train", "what"),
    [
        ("A/x.avi 1\nA/y.avi 2\n", ":2: id 2 is given, but .* has 'A' as 1"),
        ("A/x.avi 1\nC/y.avi 1\n", ":2: class 'C' is not in"),
        ("A/x.avi 1\ny.avi 1\n", ":2: 'y.avi 1' is not"),
        ("A/x.avi 1\n/y.avi 1\n", ":2: '/y.avi 1' is not"),
        ("A/x.avi 1\nA/\n", ":2: '' is not the name"),
        ("A/x.avi 1\nA/.. 1\n", ":2: '..' is not the name"),
        ("A/x.avi 1\nA/b/y.avi 1\n", ":2: 'b/y.avi' is not the name"),
        ("A/x.avi 1\nA/x.mp4 1\n", r":2: video 'x' is listed already in .*trainlist01\.txt:1"),
        ("\n\n", "lists no training video"),
    ],
)
def test_bad_ucf_lists(tmp_path: Path, train: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_split(_ucf(tmp_path, train), 1)


def test_a_video_that_trains_and_tests(tmp_path: Path) -> None:
    what = r"testlist01\.txt:2: video 'x' is listed already in .*trainlist01\.txt:1"
    with pytest.raises(DataError, match=what):
        read_split(_ucf(tmp_path, "A/x.avi\n", "B/t.avi\nB/x.avi\n"), 1)


@pytest.mark.parametrize(
    ("classes", "what"),
    [
        ("1 A\n3 B\n", "no id 2; the ids must be 1 to 2"),
        ("0 A\n1 B\n", "no id 2"),
        ("1 A\n1 B\n", ":2: id 1 was given before in line 1"),
        ("1 A\n2 A\n", ":2: class 'A' was named before in line 1"),
        ("1 A\nB\n", ":2: 'B' is not"),
        ("1 A\ntwo B\n", ":2: 'two B' is not"),
        ("", "names no class"),
    ],
)
def test_bad_classes(tmp_path: Path, classes: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_split(_ucf(tmp_path, "A/x.avi\n", classes=classes), 1)


def test_hmdb_lists_by_hand(tmp_path: Path) -> None:
    _lists(
        tmp_path,
        wave_test_split1="a (1).avi 1 \nb.avi 2 \nc.avi 0 \n",
        climb_stairs_test_split1="d.avi 2\r\ne.avi 1\r\n",
        climb_stairs_test_split2="d.avi 1\ne.avi 2\n",
        wave_test_split2="b.avi 1\na (1).avi 2\nc.avi 1\n",
    )
    split = read_split(tmp_path, 1)
    assert split.classes == ("climb_stairs", "wave")
    assert [(e.name, e.label) for e in split.train] == [("e", 0), ("a (1)", 1)]
    assert [(e.name, e.label) for e in split.test] == [("d", 0), ("b", 1)]
    assert [(e.name, e.label) for e in split.unused] == [("c", 1)]
    assert split_numbers(tmp_path) == (1, 2)
    assert [e.name for e in read_split(tmp_path, 2).train] == ["d", "b", "c"]


@pytest.mark.parametrize("line", ["b.avi 3", "b.avi", "b.avi one", "2"])
def test_bad_hmdb_lines(tmp_path: Path, line: str) -> None:
    _lists(tmp_path, wave_test_split1=f"a.avi 1\n{line}\n")
    with pytest.raises(DataError, match=r"wave_test_split1\.txt:2: "):
        read_split(tmp_path, 1)


def test_a_video_in_two_hmdb_classes(tmp_path: Path) -> None:
    _lists(tmp_path, run_test_split1="a.avi 1\nb.avi 2\n", wave_test_split1="c.avi 1\na.avi 2\n")
    with pytest.raises(DataError, match=r"wave_test_split1\.txt:2: .*already in .*run_test_split1\.txt:1"):
        read_split(tmp_path, 1)


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    _ucf(tmp_path, "A/x.avi\n")
    _lists(tmp_path, trainlist03="A/x.avi\n")
    with pytest.raises(DataError, match=r"has no split 2; it has 1, 3"):
        read_split(tmp_path, 2)
    with pytest.raises(DataError, match=r"no testlist03\.txt beside trainlist03\.txt"):
        read_split(tmp_path, 3)


def test_an_hmdb_class_that_a_split_lacks(tmp_path: Path) -> None:
    _lists(tmp_path, run_test_split1="a.avi 1\nb.avi 2\n", run_test_split2="a.avi 1\n", wave_test_split1="c.avi 1\n")
    with pytest.raises(DataError, match=r"no wave_test_split2\.txt"):
        read_split(tmp_path, 2)


def test_folders_without_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no split lists"):
        read_split(tmp_path, 1)
    with pytest.raises(DataError, match="no such folder"):
        read_split(tmp_path / "absent", 1)


def test_one_list_under_two_names(tmp_path: Path) -> None:
    _ucf(tmp_path, "A/x.avi\n")
    _lists(tmp_path, trainlist1="A/x.avi\n")
    with pytest.raises(DataError, match="is the same list as"):
        read_split(tmp_path, 1)


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    _ucf(tmp_path, "A/x.avi\n")
    (tmp_path / "trainlist01.txt").write_bytes(b"A/\xe9.avi 1\n")
    with pytest.raises(DataError, match=r"trainlist01\.txt: this split list cannot be read as UTF-8"):
        read_split(tmp_path, 1)


def test_only_video_suffixes_are_taken_off() -> None:
    names = {"a.avi": "a", "a.MP4": "a", "a.b.mkv": "a.b", "a.b": "a.b", "a": "a", "a.avi.avi": "a.avi"}
    assert {name: video_name(name) for name in names} == names


def test_the_official_ucf101_lists() -> None:
    folder = _shared_lists("ucf101")
    sizes = {n: (len(read_split(folder, n).train), len(read_split(folder, n).test)) for n in split_numbers(folder)}
    assert sizes == {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
    split = read_split(folder, 1)
    assert len(split.classes) == 101
    assert (split.classes[0], split.classes[36], split.classes[100]) == ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
    assert len({entry.name for entry in (*split.train, *split.test)}) == 13320
    assert {e.label for e in split.train if e.name.startswith("v_HandStandPushups_")} == {36}


def test_the_official_hmdb51_lists() -> None:
    folder = _shared_lists("hmdb51")
    for number in (1, 2, 3):
        split = read_split(folder, number)
        assert (len(split.classes), len(split.train), len(split.test)) == (51, 3570, 1530)
        assert (split.classes[0], split.classes[50]) == ("brush_hair", "wave")
        assert len(split.train) + len(split.test) + len(split.unused) == 6766


def test_letters_that_no_name_has() -> None:
    refused = {number for number in range(1, 0xFFFF) if "control" in name_fault(f"a{chr(number)}b")}
    assert refused == {number for number in range(1, 0xFFFF) if unicodedata.category(chr(number)) in ("Cc", "Cs")}
