from pathlib import Path

import cv2
import numpy as np
import pytest

from saccade.datasets.check import CheckReport, check_dataset
from saccade.datasets.layout import load_dataset
from saccade.datasets.lineage import dataset_uses
from saccade.datasets.official import OFFICIAL, unlike_official
from saccade.datasets.prepare import prepare
from saccade.datasets.sources import read_splits
from saccade.errors import DataError

VIDEOS = {"v_A_g01_c01": 17, "v_A_g01_c02": 18, "v_B_g01_c01": 20, "v_A_g02_c01": 17, "v_B_g02_c01": 30}


def _jpeg(grey: int = 90, width: int = 43) -> bytes:
    return cv2.imencode(".jpg", np.full((32, width, 3), grey, dtype=np.uint8))[1].tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound dataset: three training videos of group 1, two test videos of group 2."""
    folder = tmp_path / "data" / "mine"
    for name, frames in VIDEOS.items():
        (folder / "jpegs_256" / name).mkdir(parents=True)
        for number in range(1, frames + 1):
            (folder / "jpegs_256" / name / f"{number:06d}.jpg").write_bytes(_jpeg(number))
    (folder / "split").mkdir()
    (folder / "split" / "classInd.txt").write_text("1 A\n2 B\n")
    for part, group in (("train", "g01"), ("test", "g02")):
        lines = [f"{name[2]}/{name}.avi\n" for name in VIDEOS if group in name]
        (folder / "split" / f"{part}list01.txt").write_text("".join(lines))
    (folder / "scan_idx_7").mkdir()
    for name in VIDEOS:
        (folder / "scan_idx_7" / f"{name}.txt").write_text("24 0 7\n3 8 17\n")
    return folder


def _check(folder: Path, **options: object) -> CheckReport:
    return check_dataset(folder, workers=2, **options)  # type: ignore[arg-type]


def test_a_sound_dataset_and_what_a_run_says_of_it(folder: Path) -> None:
    report = _check(folder)
    assert report.findings == {}
    data = load_dataset(folder.parent, "mine", split=1, grid_num=7, scanpaths=True, min_frames=16)
    assert str(report).splitlines() == [
        f"{folder}: 5 videos, 102 frames",
        f"split 1: 3 training, 2 test videos, digest {data.digest}",
        "scan_idx_7: 5 files",
        f"scan_idx_7, split 1: digest of the training rows {data.scanpath_digest}",
        report.facts[-1],
        "nothing wrong was found",
    ]
    uses = list(dataset_uses(data, split=1, grid_num=7))
    assert [(use.name, use.context, use.digest) for use in uses] == [
        ("mine split 1 train", "train", data.digest),
        ("mine split 1 test", "test", data.digest),
        ("mine split 1 scan_idx_7", "scanpaths", data.scanpath_digest),
    ]
    assert [use.profile for use in uses] == [
        {"videos": 3, "frames": 55, "classes": 2},
        {"videos": 2, "frames": 47, "classes": 2},
        {"videos": 3, "fixations": 6},
    ]
    assert {use.source for use in uses} == {str(folder)}
    # What is held out is no other dataset.
    held = load_dataset(
        folder.parent, "mine", split=1, grid_num=7, scanpaths=False, min_frames=16, validation=["*_c02"]
    )
    assert list(dataset_uses(held, split=1, grid_num=7)) == uses[:2]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; give that of a dataset"):
        _check(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    report = _check(tmp_path / "empty")
    assert report.findings["folders that cannot be read"] == ["jpegs_256: No such file or directory"]
    assert "no such folder" in report.findings["split lists that cannot be used"][0]


def _cases(report: CheckReport) -> dict[str, list[str]]:
    return {kind.partition(" (")[0]: cases for kind, cases in report.findings.items()}


def test_frames_in_every_sort_of_trouble(folder: Path) -> None:
    frames = folder / "jpegs_256"
    (frames / "v_A_g01_c01" / "000017.jpg").write_bytes(_jpeg()[:200])
    (frames / "v_A_g01_c01" / "000001.jpg").write_bytes(b"GIF89a")
    (frames / "v_A_g01_c02" / "000009.jpg").write_bytes(b"")
    (frames / "v_A_g02_c01" / "000005.jpg").unlink()
    (frames / "v_B_g01_c01" / "000020.jpg").write_bytes(_jpeg(width=44))
    (frames / "v_B_g02_c01" / "000013.jpg").write_bytes(_jpeg()[:-40])  # in the middle: only when looked at
    (frames / "v_C.partial").mkdir()
    shallow = [
        "v_A_g01_c01: 000001.jpg is cut off or no JPEG (6 bytes)",
        "v_A_g01_c01: 000017.jpg is cut off or no JPEG (200 bytes)",
        "v_A_g01_c02: 000009.jpg is empty",
        "v_A_g02_c01: nothing between 000004.jpg and 000006.jpg",
        "v_B_g01_c01: 000020.jpg is 44 x 32 px, others are 43 x 32",
    ]
    found = _cases(_check(folder))
    assert found.pop("frames that cannot be used") == shallow
    assert found.pop("videos half written") == ["v_C.partial"]
    assert found.pop("videos with fewer usable frames") == ["v_A_g02_c01 (15)"]
    assert [case.split(" run over")[0] for case in found.pop("scanpath rows that cannot be used")] == [
        "scan_idx_7/v_A_g02_c01.txt:2: frames 8 to 17"
    ]
    assert found == {}
    deep = _cases(_check(folder, deep=True))["frames that cannot be used"]
    size = len(_jpeg()) - 40
    assert [case for case in deep if case not in shallow] == [
        "v_A_g01_c02: 000009.jpg is empty (0 bytes)",
        f"v_B_g02_c01: 000013.jpg is cut off or no JPEG ({size} bytes)",
    ]


def test_videos_without_frames_or_in_another_order(folder: Path) -> None:
    for path in (folder / "jpegs_256" / "v_A_g01_c01").iterdir():
        path.unlink()
    (folder / "jpegs_256" / "v_B_g01_c01" / "000002.jpg").rename(folder / "jpegs_256" / "v_B_g01_c01" / "2.jpg")
    report = _check(folder)
    assert [case.partition(":")[0] for case in report.findings["frames that cannot be used"]] == [
        "v_A_g01_c01",
        "v_B_g01_c01",
    ]
    assert report.facts[1] == "split 1: no digest, since v_B_g01_c01 cannot be used"


def test_lists_and_videos_that_do_not_agree(folder: Path) -> None:
    (folder / "jpegs_256" / "v_B_g02_c01").rename(folder / "jpegs_256" / "v_D_g01_c01")
    (folder / "split" / "classInd.txt").write_text("1 A\n2 B\n3 C\n")
    with open(folder / "split" / "testlist01.txt", "a") as file:
        file.write("C/v_C_g03_c01.avi\nA/v_a_G01_c02.avi\nA/v_A_g01_c09.avi\n")
    assert _cases(_check(folder)) == {
        "listed videos that are not there": ["v_B_g02_c01", "v_C_g03_c01", "v_a_G01_c02", "v_A_g01_c09"],
        "classes without a video": ["C"],
        "videos that no split lists": ["v_D_g01_c01"],
        "videos both in training and test": ["split 1: v_a_g01_c02"],
    }
    assert "listed videos that are not there" not in _check(folder, only_present=True).findings
    (folder / "split" / "trainlist02.txt").write_text("A/v_A_g01_c01.avi\nA/v_A_g01_c01.avi\n")
    (folder / "split" / "testlist02.txt").write_text("A/v_A_g02_c01.avi\n")
    wrong = _check(folder).findings["split lists that cannot be used"]
    assert len(wrong) == 1
    assert "trainlist02.txt:2: video 'v_A_g01_c01' is listed already" in wrong[0]
    assert _check(folder, split=3).findings["split lists that cannot be used"] == [
        f"{folder / 'split'}: has no split 3; it has 1, 2"
    ]


def test_groups_of_ucf101_are_not_divided(folder: Path) -> None:
    classes = ["ApplyEyeMakeup", "A", "B", *(f"C{number}" for number in range(97)), "YoYo"]
    (folder / "split" / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(classes, start=1)))
    found = _check(folder, only_present=True).findings
    assert found == {
        "split lists unlike the official ones": [
            "split 1 lists 3 training and 2 test videos, UCF101 has 9537 and 3783",
            "5 videos are listed, UCF101 has 13320",
        ]
    }
    (folder / "split" / "testlist01.txt").write_text("A/v_A_g01_c02.avi\nB/v_B_g02_c01.avi\nB/v_B_g01_c09.avi\n")
    (folder / "split" / "trainlist01.txt").write_text("A/v_A_g01_c01.avi\nB/v_B_g01_c01.avi\n")
    divided = _check(folder, only_present=True).findings["groups both in training and test"]
    assert divided == ["split 1: v_a_g01", "split 1: v_b_g01"]


def test_scanpaths_in_every_sort_of_trouble(folder: Path) -> None:
    rows = folder / "scan_idx_7"
    (rows / "v_A_g01_c01.txt").write_text("49 0 7\n")
    (rows / "v_A_g01_c02.txt").write_text("")
    (rows / "v_B_g01_c01.txt").unlink()
    (rows / "v_B_g02_c01.txt").write_text("24 28 31\n")
    (rows / "v_Z.txt").write_text("24 0 3\n")
    report = _check(folder)
    found = _cases(report)
    assert [
        case.partition("; ")[0].partition(", whose")[0] for case in found.pop("scanpath rows that cannot be used")
    ] == [
        "scan_idx_7/v_A_g01_c01.txt:1: cell 49 is not on the grid",
        "scan_idx_7/v_B_g02_c01.txt:1: frames 28 to 31 run over the video's end",
    ]
    assert found == {
        "training videos without a scanpath": ["split 1, scan_idx_7: v_B_g01_c01"],
        "scanpaths without a fixation": ["scan_idx_7: v_A_g01_c02"],
        "scanpaths of no listed video": ["scan_idx_7: v_Z"],
    }
    assert not any("digest of the training rows" in fact for fact in report.facts)


def test_many_cases_are_counted_and_a_few_named(folder: Path) -> None:
    for number in range(12):
        (folder / "jpegs_256" / f"extra_{number:02d}").mkdir()
    text = str(_check(folder))
    assert (
        "\nvideos that no split lists: 12\n  extra_00\n  extra_01\n  extra_02\n  extra_03\n  extra_04\n  and 7" in text
    )
    assert "nothing wrong" not in text


def test_the_official_numbers(shared_data: Path) -> None:
    for word, official in OFFICIAL.items():
        lists = shared_data / "splits" / word
        if not lists.is_dir():
            pytest.skip(f"no official lists in {lists}")
        assert unlike_official(official, read_splits(lists)) == []
        assert {len(each.train) + len(each.test) + len(each.unused) for each in read_splits(lists).values()} == {
            official.videos
        }


def test_a_real_subset(shared_data: Path, tmp_path: Path) -> None:
    clips, lists = shared_data / "ucf101_mini" / "videos" / "PushUps", shared_data / "splits" / "ucf101"
    if not clips.is_dir() or not lists.is_dir():
        pytest.skip(f"no UCF101 clips and official lists in {shared_data}")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "PushUps").mkdir()
    for name in ("v_PushUps_g14_c01.avi", "v_PushUps_g01_c01.avi"):
        (tmp_path / "videos" / "PushUps" / name).symlink_to(clips / name)
    prepare([tmp_path / "videos", lists], tmp_path / "mini", short_side=32, workers=1)
    report = _check(tmp_path / "mini", deep=True)
    assert report.facts[0].endswith("frames, split lists of UCF101")
    assert {kind: len(cases) for kind, cases in report.findings.items()} == {
        "listed videos that are not there": 13318,
        "classes without a video": 100,
    }
    assert _check(tmp_path / "mini", only_present=True).findings == {}
