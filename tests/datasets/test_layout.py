import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from saccade.datasets.layout import Dataset, load_dataset
from saccade.errors import DataError
from saccade.gaze.scanpath import Fixation

TRAIN = {"v_A_g01_c01": 30, "v_B_g01_c01": 25, "v_A_g02_c01": 20, "v_B_g02_c01": 17}
TEST = {"v_A_g03_c01": 40, "v_B_g03_c01": 22}


def _class_of(name: str) -> str:
    return name.split("_")[1]


def _write_frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"{number:06d}.jpg").write_bytes(b"x" * (100 + number))


def _write(root: Path, train: Mapping[str, int] = TRAIN, test: Mapping[str, int] = TEST, name: str = "DS") -> Path:
    """A dataset of videos with so many frames each; the frames are no pictures, for the layout does not look."""
    folder = root / name
    (folder / "split").mkdir(parents=True)
    (folder / "scan_idx_7").mkdir()
    (folder / "split" / "classInd.txt").write_text("1 A\n2 B\n")
    (folder / "split" / "trainlist01.txt").write_text("".join(f"{_class_of(n)}/{n}.avi\n" for n in train))
    (folder / "split" / "testlist01.txt").write_text("".join(f"{_class_of(n)}/{n}.avi\n" for n in test))
    for video, count in {**train, **test}.items():
        _write_frames(folder / "jpegs_256" / video, count)
    for video in train:
        (folder / "scan_idx_7" / f"{video}.txt").write_text("24.0 0 7\n3 8 15\n")
    return folder


def _load(root: Path, **changes: Any) -> Dataset:
    options: dict[str, Any] = {"split": 1, "grid_num": 7, "scanpaths": True, "min_frames": 16} | changes
    return load_dataset(root, options.pop("dataset", "DS"), **options)


def test_everything_by_hand(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    dataset = _load(tmp_path)
    assert (dataset.name, dataset.classes) == ("DS", ("A", "B"))
    assert [(v.name, v.label, v.frames) for v in dataset.train] == [
        ("v_A_g01_c01", 0, 30),
        ("v_B_g01_c01", 1, 25),
        ("v_A_g02_c01", 0, 20),
        ("v_B_g02_c01", 1, 17),
    ]
    assert [(v.name, v.label, v.frames) for v in dataset.test] == [("v_A_g03_c01", 0, 40), ("v_B_g03_c01", 1, 22)]
    assert dataset.validation == ()
    assert dataset.train[0].frame_dir == folder / "jpegs_256" / "v_A_g01_c01"
    assert dataset.train[0].fixations == (Fixation(24, 0, 7), Fixation(3, 8, 15))
    assert dataset.test[0].fixations == ()
    assert len(dataset.digest) == 32
    assert int(dataset.digest, 16) >= 0


def test_the_root_may_be_a_string(tmp_path: Path) -> None:
    _write(tmp_path)
    assert (
        load_dataset(str(tmp_path), "DS", split=1, grid_num=7, scanpaths=False, min_frames=16).train[0].fixations == ()
    )


def test_other_files_among_the_frames_do_not_count(tmp_path: Path) -> None:
    video = _write(tmp_path) / "jpegs_256" / "v_A_g01_c01"
    (video / "000031.JPEG").write_bytes(b"x")
    (video / "._000001.jpg").write_bytes(b"x")
    (video / "Thumbs.db").write_bytes(b"x")
    assert _load(tmp_path).train[0].frames == 31


def test_the_digest_does_not_depend_on_the_place(tmp_path: Path) -> None:
    _write(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert _load(tmp_path / "one").digest == _load(tmp_path / "two").digest


def test_the_digest_follows_what_it_should(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    digests = [_load(tmp_path).digest]

    def differs(**changes: Any) -> bool:
        digests.append(_load(tmp_path, **changes).digest)
        return len(set(digests)) == len(digests)

    assert differs(exclude=["v_B_g02_c01"])
    (folder / "jpegs_256" / "v_A_g03_c01" / "000001.jpg").write_bytes(b"y" * 500)
    assert differs()
    _write_frames(folder / "jpegs_256" / "extra", 3)
    assert not differs()
    digests.pop()
    os.rename(folder / "jpegs_256" / "extra" / "000001.jpg", folder / "jpegs_256" / "v_B_g03_c01" / "000023.jpg")
    assert differs()
    lists = folder / "split" / "trainlist01.txt"
    lists.write_text("\n".join(reversed(lists.read_text().split())))
    assert differs()
    (folder / "split" / "classInd.txt").write_text("1 B\n2 A\n")
    assert differs()


def test_the_digest_is_of_the_videos_however_they_are_used(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    first = _load(tmp_path)
    others = [_load(tmp_path, validation=["*_g01_*"]), _load(tmp_path, scanpaths=False)]
    assert {other.digest for other in others} == {first.digest}
    assert others[1].scanpath_digest == ""
    assert others[1].identity == first.digest
    (folder / "scan_idx_7" / "v_A_g02_c01.txt").write_text("25 0 7\n3 8 15\n")
    changed = _load(tmp_path)
    assert changed.digest == first.digest
    assert len({first.scanpath_digest, others[0].scanpath_digest, changed.scanpath_digest}) == 3
    assert changed.identity == f"{first.digest} {changed.scanpath_digest}"


def test_validation_is_taken_out_of_training(tmp_path: Path) -> None:
    _write(tmp_path)
    dataset = _load(tmp_path, validation=["*_g02_*"])
    assert [v.name for v in dataset.train] == ["v_A_g01_c01", "v_B_g01_c01"]
    assert [v.name for v in dataset.validation] == ["v_A_g02_c01", "v_B_g02_c01"]
    assert all(video.fixations == () for video in dataset.validation)
    assert len(dataset.test) == 2


@pytest.mark.parametrize(
    ("patterns", "what"),
    [
        (["*_g09_*"], r"'\*_g09_\*' matches no training video; they are named like v_A_g01_c01"),
        (["*_g01_*", "*_g03_*"], r"'\*_g03_\*' matches no training video"),
        (["*"], "holds out all 4 training videos"),
        (["*_g01_*", "*_g02_*"], "holds out all 4"),
    ],
)
def test_bad_validation(tmp_path: Path, patterns: list[str], what: str) -> None:
    _write(tmp_path)
    with pytest.raises(DataError, match=rf"data\.validation: .*{what}"):
        _load(tmp_path, validation=patterns)


def test_a_missing_video(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    shutil.rmtree(folder / "jpegs_256" / "v_A_g02_c01")
    with pytest.raises(DataError) as caught:
        _load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'split' / 'trainlist01.txt'}:3: ")
    assert str(folder / "jpegs_256" / "v_A_g02_c01") in message
    assert "data.only_present" in message
    assert [v.name for v in _load(tmp_path, only_present=True).train] == ["v_A_g01_c01", "v_B_g01_c01", "v_B_g02_c01"]
    assert len(_load(tmp_path, exclude=["v_A_g02_c01"]).train) == 3
    shutil.rmtree(folder / "jpegs_256" / "v_A_g01_c01")
    with pytest.raises(DataError, match=r":1: .*\(and those of 1 more training videos\)"):
        _load(tmp_path)


@pytest.mark.parametrize(("part", "what"), [(TRAIN, "none of the 4 training"), (TEST, "none of the 2 test")])
def test_only_present_leaves_nothing(tmp_path: Path, part: dict[str, int], what: str) -> None:
    folder = _write(tmp_path)
    for video in part:
        shutil.rmtree(folder / "jpegs_256" / video)
    with pytest.raises(DataError, match=what):
        _load(tmp_path, only_present=True)


def test_a_video_must_have_one_frame_more_than_a_clip(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    assert len(_load(tmp_path, min_frames=16).train) == 4
    (folder / "jpegs_256" / "v_B_g02_c01" / "000017.jpg").unlink()
    with pytest.raises(DataError, match=r"than a clip's 16 in v_B_g02_c01 \(15\); .*data\.exclude"):
        _load(tmp_path)
    assert len(_load(tmp_path, exclude=["v_B_g02_c01"]).train) == 3


def test_a_folder_without_frames_is_never_passed_over(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    for frame in (folder / "jpegs_256" / "v_B_g03_c01").iterdir():
        frame.unlink()
    for only_present in (False, True):
        with pytest.raises(DataError, match=r"v_B_g03_c01: holds no \.jpg"):
            _load(tmp_path, only_present=only_present)


def test_excluding_what_is_not_there(tmp_path: Path) -> None:
    _write(tmp_path)
    with pytest.raises(DataError, match=r"no video 'v_A_g01_c01\.avi' in the split; did you mean v_A_g01_c01\?"):
        _load(tmp_path, exclude=["v_A_g01_c01.avi"])


def test_scanpaths_that_are_missing_or_wrong(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    rows = folder / "scan_idx_7" / "v_A_g02_c01.txt"
    rows.write_text("3 0 21\n")
    with pytest.raises(DataError, match=r"v_A_g02_c01\.txt:1: .*20 frames"):
        _load(tmp_path)
    rows.unlink()
    with pytest.raises(DataError, match=r"scan_idx_7/v_A_g02_c01\.txt: no scanpath .*saccade\.source"):
        _load(tmp_path)
    assert len(_load(tmp_path, validation=["*_A_g02_*"]).train) == 3
    assert _load(tmp_path, scanpaths=False).train[0].fixations == ()
    with pytest.raises(DataError, match=r"scan_idx_5: the folder of scanpath rows is not there"):
        _load(tmp_path, grid_num=5)


def test_folders_that_are_missing(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    with pytest.raises(DataError, match=rf"{tmp_path / 'UCF'}: the dataset is not there; {tmp_path} has DS"):
        _load(tmp_path, dataset="UCF")
    with pytest.raises(DataError, match=r"no such folder, so no DS in it; set data\.root"):
        _load(tmp_path / "absent")
    shutil.rmtree(folder / "jpegs_256")
    with pytest.raises(DataError, match="jpegs_256: the folder of frames is not there"):
        _load(tmp_path)
    shutil.rmtree(folder / "split")
    with pytest.raises(DataError, match="split: no such folder"):
        _load(tmp_path)


def test_another_spelling_on_disk(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    for path in (folder / "jpegs_256" / "v_A_g01_c01", folder / "scan_idx_7" / "v_A_g01_c01.txt"):
        path.rename(path.with_name(path.name.replace("v_A", "V_a")))
    video = _load(tmp_path).train[0]
    assert (video.name, video.frame_dir.name, len(video.fixations)) == ("v_A_g01_c01", "V_a_g01_c01", 2)


def test_a_folder_is_never_two_videos(tmp_path: Path) -> None:
    folder = _write(tmp_path, test={**TEST, "V_A_g01_c01": 20})
    shutil.rmtree(folder / "jpegs_256" / "V_A_g01_c01")
    with pytest.raises(DataError, match=r"testlist01\.txt:3: the frames of 'V_A_g01_c01' are not in"):
        _load(tmp_path)


def test_frames_whose_numbers_are_not_padded(tmp_path: Path) -> None:
    video = _write(tmp_path) / "jpegs_256" / "v_A_g01_c01"
    for number, frame in enumerate(sorted(video.iterdir()), start=1):
        frame.rename(video / f"frame{number}.jpg")
    with pytest.raises(DataError, match=r"sorted by name, frame2\.jpg follows frame19\.jpg; pad"):
        _load(tmp_path)


def test_hmdb_style(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    for path in (folder / "split").iterdir():
        path.unlink()
    (folder / "split" / "run_test_split1.txt").write_text("v_A_g01_c01.avi 1\nv_A_g02_c01.avi 0\nv_A_g03_c01.avi 2\n")
    (folder / "split" / "wave_test_split1.txt").write_text("v_B_g01_c01.avi 1\nv_B_g03_c01.avi 2\n")
    shutil.rmtree(folder / "jpegs_256" / "v_A_g02_c01")
    dataset = _load(tmp_path, scanpaths=False)
    assert [(v.name, v.label) for v in dataset.train] == [("v_A_g01_c01", 0), ("v_B_g01_c01", 1)]
    assert [(v.name, v.label) for v in dataset.test] == [("v_A_g03_c01", 0), ("v_B_g03_c01", 1)]


def test_the_bar_is_shown_on_request_when_reading_takes_long(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path)
    _load(tmp_path, show_progress=True)
    assert capfd.readouterr().err == ""  # over in a moment
    monkeypatch.setattr("saccade.progress._SILENT_SECONDS", 0.0)
    _load(tmp_path)
    assert capfd.readouterr().err == ""
    _load(tmp_path, show_progress=True)
    assert "6/6" in capfd.readouterr().err
