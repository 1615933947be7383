import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from saccade.datasets.extract import frame_size
from saccade.datasets.frames import list_frames, read_frames
from saccade.datasets.layout import load_dataset
from saccade.datasets.prepare import PrepareReport, prepare
from saccade.errors import DataError


def _write_video(path: Path, *, frames: int = 20, width: int = 64, height: int = 48, codec: str = "MJPG") -> Path:
    """A video whose n-th frame is plain grey of value 6 n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (width, height))
    for number in range(frames):
        writer.write(np.full((height, width, 3), 6 * number, dtype=np.uint8))
    writer.release()
    return path


def _cut_off(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for person in ("ann", "bob"):
        _write_video(folder / "walk" / f"{person}_walk.avi")
        _write_video(folder / "jump" / f"{person}_jump.mp4", codec="mp4v")
    return folder


def _prepare(videos: Path, out: Path, **options: object) -> PrepareReport:
    given: dict[str, object] = {"test_pattern": ["bob_*"], "short_side": 32, "workers": 1} | options
    return prepare([videos], out, **given)  # type: ignore[arg-type]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_frames_and_lists_by_hand(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "mine"
    report = _prepare(videos, out)
    assert _names(out) == ["jpegs_256", "prepare.json", "sources.txt", "split"]
    assert _names(out / "jpegs_256") == ["ann_jump", "ann_walk", "bob_jump", "bob_walk"]
    assert list_frames(out / "jpegs_256" / "ann_walk") == tuple(f"{n:06d}.jpg" for n in range(1, 21))
    frames = read_frames([out / "jpegs_256" / "ann_walk" / f"{n:06d}.jpg" for n in range(1, 21)])
    assert frames.shape == (20, 32, 43, 3)  # 64 x 48 with the short side at 32 is 42.67 wide
    assert np.abs(frames.mean(axis=(1, 2, 3)) - 6 * np.arange(20)).max() < 3
    assert (out / "split" / "classInd.txt").read_text() == "1 jump\n2 walk\n"
    assert (out / "split" / "trainlist01.txt").read_text() == "jump/ann_jump.mp4 1\nwalk/ann_walk.avi 2\n"
    assert (out / "split" / "testlist01.txt").read_text() == "jump/bob_jump.mp4\nwalk/bob_walk.avi\n"
    assert (report.classes, report.written, report.already_there, report.frames) == (2, 4, 0, 80)
    assert "4 videos (80 frames)" in str(report)


def test_the_result_can_be_loaded(videos: Path, tmp_path: Path) -> None:
    _prepare(videos, tmp_path / "data" / "mine")
    dataset = load_dataset(tmp_path / "data", "mine", split=1, grid_num=7, scanpaths=False, min_frames=16)
    assert [(v.name, v.label, v.frames) for v in dataset.train] == [("ann_jump", 0, 20), ("ann_walk", 1, 20)]
    assert [v.name for v in dataset.test] == ["bob_jump", "bob_walk"]


def test_processes_give_the_same_as_one(videos: Path, tmp_path: Path) -> None:
    _prepare(videos, tmp_path / "one", workers=1)
    assert _prepare(videos, tmp_path / "two", workers=2).written == 4
    (tmp_path / "one" / "sources.txt").unlink()  # in the order in which videos were finished
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_going_on_after_an_interruption(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    _prepare(videos, out)
    kept = out / "jpegs_256" / "ann_walk" / "000001.jpg"
    before = kept.stat().st_mtime_ns
    # As a kill leaves it: a video half written under its temporary name.
    (out / "jpegs_256" / "bob_walk").rename(out / "jpegs_256" / "bob_walk.partial")
    (out / "jpegs_256" / "bob_walk.partial" / "000021.jpg").write_bytes(b"stale")
    report = _prepare(videos, out)
    assert (report.written, report.already_there) == (1, 3)
    assert kept.stat().st_mtime_ns == before
    assert len(list_frames(out / "jpegs_256" / "bob_walk")) == 20
    assert "bob_walk.partial" not in _names(out / "jpegs_256")
    assert _prepare(videos, out).already_there == 4


@pytest.mark.parametrize(
    ("before", "after"),
    [((320, 240), (341, 256)), ((180, 144), (320, 256)), ((144, 180), (256, 320)), ((256, 256), (256, 256))],
)
def test_frame_size_by_hand(before: tuple[int, int], after: tuple[int, int]) -> None:
    assert frame_size(*before, 256) == after


def test_other_frames_than_before_are_refused(videos: Path, tmp_path: Path) -> None:
    _prepare(videos, tmp_path / "mine")
    with pytest.raises(DataError, match=r"was prepared with .*32.*asked for .*40"):
        _prepare(videos, tmp_path / "mine", short_side=40)
    (tmp_path / "mine" / "prepare.json").write_text("{")
    with pytest.raises(DataError, match="was prepared with unreadable"):
        _prepare(videos, tmp_path / "mine")


def test_a_folder_of_something_else_is_left_alone(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(DataError, match="holds files"):
        _prepare(videos, tmp_path / "mine")
    assert _names(tmp_path / "mine") == ["thesis.tex"]


def _break_some(videos: Path) -> None:
    (videos / "walk" / "ann_walk.avi").write_bytes(b"this is no video")
    _cut_off(videos / "jump" / "bob_jump.mp4", 0.6)  # its table of contents stands at the end
    _write_video(videos / "walk" / "cut_walk.avi", frames=40)
    _cut_off(videos / "walk" / "cut_walk.avi", 0.7)
    (videos / "walk" / "zero_walk.mkv").touch()


def test_broken_videos_stop_after_the_others_are_done(videos: Path, tmp_path: Path) -> None:
    _break_some(videos)
    with pytest.raises(DataError, match=r"bob_jump\.mp4: cannot be opened.*; 3 more videos are broken; .*skip"):
        _prepare(videos, tmp_path / "mine", workers=2)
    assert _names(tmp_path / "mine" / "jpegs_256") == ["ann_jump", "bob_walk"]
    assert not (tmp_path / "mine" / "split").exists()


def test_broken_videos_can_be_left_out(videos: Path, tmp_path: Path) -> None:
    _break_some(videos)
    report = _prepare(videos, tmp_path / "mine", on_error="skip")
    assert [path.name for path, _ in report.skipped] == [
        "bob_jump.mp4",
        "ann_walk.avi",
        "cut_walk.avi",
        "zero_walk.mkv",
    ]
    assert "is cut off: 2" in report.skipped[2][1]
    assert "left out 4 broken videos" in str(report)
    lines = (tmp_path / "mine" / "skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(path) for path, _ in report.skipped]
    assert (tmp_path / "mine" / "split" / "trainlist01.txt").read_text() == "jump/ann_jump.mp4 1\n"
    assert (tmp_path / "mine" / "split" / "testlist01.txt").read_text() == "walk/bob_walk.avi\n"
    # Put right, they come in, and the list of the broken ones goes.
    for name in ("ann_walk", "cut_walk"):
        _write_video(videos / "walk" / f"{name}.avi")
    (videos / "walk" / "zero_walk.mkv").unlink()
    _write_video(videos / "jump" / "bob_jump.mp4", codec="mp4v")
    assert _prepare(videos, tmp_path / "mine").written == 3
    assert not (tmp_path / "mine" / "skipped.txt").exists()


def test_a_full_disk(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if path.name == "000007.jpg":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(DataError, match="cannot be written: No space left on device; free some space"):
        _prepare(videos, tmp_path / "mine", on_error="skip")
    assert _names(tmp_path / "mine" / "jpegs_256") == []


NAMES = ("50% off", "a#1", "%06d", "ключ", "tom & jerry (2)", "v1.2", "take 12")


def test_unusual_names(tmp_path: Path) -> None:
    for name in NAMES:
        _write_video(tmp_path / "videos" / "Überraschung 100%" / f"{name}.avi")
    _write_video(tmp_path / "videos" / "b" / "test one.AVI")
    report = _prepare(tmp_path / "videos", tmp_path / "data" / "mine", test_pattern=["test *"], workers=2)
    assert report.written == 8
    dataset = load_dataset(tmp_path / "data", "mine", split=1, grid_num=7, scanpaths=False, min_frames=16)
    assert sorted(v.name for v in dataset.train) == sorted(NAMES)
    assert {v.label for v in dataset.train} == {1}
    assert dataset.classes == ("b", "Überraschung 100%")


def test_other_files_are_reported(videos: Path, tmp_path: Path) -> None:
    (videos / "readme.txt").touch()
    (videos / "walk" / "thumbs.db").touch()
    (videos / "walk" / "._ann_walk.avi").touch()
    (videos / "walk" / "deeper").mkdir()
    (videos / "walk" / "deeper" / "ann_again.avi").touch()
    report = _prepare(videos, tmp_path / "mine")
    assert [path.name for path in report.ignored] == ["readme.txt", "._ann_walk.avi", "thumbs.db", "ann_again.avi"]
    assert "ignored 4 other files" in str(report)


def _no_videos(folder: Path) -> None:
    (folder / "walk").mkdir(parents=True)
    (folder / "walk" / "a.txt").touch()


def _flat(folder: Path) -> None:
    _write_video(folder / "a.avi")


def _same_name(folder: Path) -> None:
    (folder / "walk").mkdir(parents=True)
    (folder / "jump").mkdir()
    (folder / "walk" / "a.avi").touch()
    (folder / "jump" / "a.mp4").touch()


def _space_at_the_end(folder: Path) -> None:
    (folder / "walk").mkdir(parents=True)
    (folder / "walk" / "a .avi").touch()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda _: None, "no such folder; give the one that holds a folder of videos for each class"),
        (_no_videos, "holds no video; expected"),
        (_flat, r"a\.avi: this video is in no class folder"),
        (_same_name, r"walk/a\.avi: has the same video name as .*jump/a\.mp4"),
        (_space_at_the_end, "'a ' has a space at an end"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, make: object, what: str) -> None:
    make(tmp_path / "videos")  # type: ignore[operator]
    with pytest.raises(DataError, match=what):
        _prepare(tmp_path / "videos", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"test_pattern": ["tom_*"]}, r"'tom_\*' matches no video; they are named like ann_jump"),
        ({"test_pattern": ["bob_*", "tom_*"]}, r"'tom_\*' matches no video"),
        ({"test_pattern": ["*"]}, "match all 4 videos"),
        ({"test_pattern": []}, "give one of the two"),
        ({"splits": Path("x")}, "give one of the two"),
        ({"short_side": 0}, "short side 0 px; it must be 16 to 4096"),
        ({"quality": 0}, "JPEG quality 0"),
        ({"splits": Path("/absent"), "test_pattern": []}, "/absent: no such folder"),
    ],
)
def test_bad_arguments(videos: Path, tmp_path: Path, options: dict[str, object], what: str) -> None:
    with pytest.raises(DataError, match=what):
        _prepare(videos, tmp_path / "mine", **options)
    assert not (tmp_path / "mine").exists()


def test_the_dataset_does_not_lie_among_the_videos(videos: Path) -> None:
    for out in (videos, videos / "walk" / "data"):
        with pytest.raises(DataError, match="cannot lie within"):
            _prepare(videos, out)


def _official(folder: Path, **contents: str) -> Path:
    folder.mkdir()
    for name, text in contents.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


def test_official_lists_of_ucf_style(videos: Path, tmp_path: Path) -> None:
    splits = _official(
        tmp_path / "lists",
        classInd="1 walk\r\n2 Jump\r\n",
        trainlist01="walk/ann_walk.avi 1\r\nwalk/eve_walk.avi 1\r\nJump/ann_jump.avi 2\r\n",
        testlist01="walk/bob_walk.avi\r\n",
        trainlist02="walk/bob_walk.avi 1\r\n",
        testlist02="walk/ann_walk.avi\r\nwalk/tom_walk.avi\r\n",
    )
    (splits / "readme.txt").touch()
    report = _prepare(videos, tmp_path / "data" / "mine", splits=splits, test_pattern=[])
    assert _names(tmp_path / "data" / "mine" / "jpegs_256") == ["ann_jump", "ann_walk", "bob_walk"]
    assert [path.name for path in report.unlisted] == ["bob_jump.mp4"]
    assert report.absent == {1: (1, 0), 2: (0, 1)}
    assert "split 1: 1 training, 0 test, split 2: 0 training, 1 test): set data.only_present" in str(report)
    copied = tmp_path / "data" / "mine" / "split"
    assert _names(copied) == ["classInd.txt", "testlist01.txt", "testlist02.txt", "trainlist01.txt", "trainlist02.txt"]
    for name in _names(copied):
        assert (copied / name).read_bytes() == (splits / name).read_bytes()
    options = {"grid_num": 7, "scanpaths": False, "min_frames": 16, "only_present": True}
    dataset = load_dataset(tmp_path / "data", "mine", split=1, **options)  # type: ignore[arg-type]
    assert [(v.name, v.label) for v in dataset.train] == [("ann_walk", 0), ("ann_jump", 1)]


def test_official_lists_without_broken_videos(videos: Path, tmp_path: Path) -> None:
    (videos / "walk" / "ann_walk.avi").write_bytes(b"this is no video")
    splits = _official(
        tmp_path / "lists",
        walk_test_split1="eve_walk.avi 1 \nann_walk.avi 1 \nbob_walk.avi 2 \n",
        jump_test_split1="ann_jump.avi 1 \nbob_jump.avi 2 \n",
    )
    _prepare(videos, tmp_path / "mine", splits=splits, test_pattern=[], on_error="skip")
    copied = tmp_path / "mine" / "split"
    assert (copied / "walk_test_split1.txt").read_text() == "eve_walk.avi 1 \nbob_walk.avi 2 \n"
    assert (copied / "jump_test_split1.txt").read_text() == "ann_jump.avi 1 \nbob_jump.avi 2 \n"


def test_official_lists_that_do_not_fit(videos: Path, tmp_path: Path) -> None:
    other = _official(tmp_path / "other", classInd="1 A\n", trainlist01="A/x.avi\n", testlist01="A/y.avi\n")
    with pytest.raises(DataError, match="its lists name none of the 4 videos, such as"):
        _prepare(videos, tmp_path / "mine", splits=other, test_pattern=[])
    moved = _official(tmp_path / "moved", classInd="1 A\n", trainlist01="A/x.avi\n", testlist01="A/ann_walk.avi\n")
    with pytest.raises(DataError, match=r"ann_walk\.avi: is listed as 'A' in .*testlist01\.txt:1"):
        _prepare(videos, tmp_path / "mine", splits=moved, test_pattern=[])
    wrong = _official(tmp_path / "wrong", classInd="1 A\n", trainlist01="A/x.avi 2\n", testlist01="A/y.avi\n")
    with pytest.raises(DataError, match=r"trainlist01\.txt:1"):
        _prepare(videos, tmp_path / "mine", splits=wrong, test_pattern=[])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no split lists"):
        _prepare(videos, tmp_path / "mine", splits=tmp_path / "empty", test_pattern=[])
    assert not (tmp_path / "mine").exists()


def test_new_lists_replace_the_old_ones(videos: Path, tmp_path: Path) -> None:
    _prepare(videos, tmp_path / "mine")
    _prepare(videos, tmp_path / "mine", test_pattern=["ann_*"])
    assert (tmp_path / "mine" / "split" / "testlist01.txt").read_text() == "jump/ann_jump.mp4\nwalk/ann_walk.avi\n"
    splits = _official(tmp_path / "lists", walk_test_split1="ann_walk.avi 1\nbob_walk.avi 2\n")
    _prepare(videos, tmp_path / "mine", splits=splits, test_pattern=[])
    assert _names(tmp_path / "mine" / "split") == ["walk_test_split1.txt"]
    assert json.loads((tmp_path / "mine" / "prepare.json").read_text())["short_side"] == 32


def test_real_clips(tmp_path: Path) -> None:
    shared = Path(os.environ.get("SACCADE_SHARED", Path(__file__).parents[3] / "shared")) / "data"
    clip = shared / "ucf101_mini" / "videos" / "PushUps" / "v_PushUps_g14_c01.avi"
    lists = shared / "splits" / "ucf101"
    if not clip.is_file() or not lists.is_dir():
        pytest.skip(f"the real clips are not in {shared} (set SACCADE_SHARED)")
    folder = tmp_path / "videos" / "PushUps"
    folder.mkdir(parents=True)
    (folder / clip.name).symlink_to(clip)
    report = prepare([tmp_path / "videos"], tmp_path / "mine", splits=lists, workers=1)
    assert report.frames == 103
    assert report.absent[1] == (9536, 3783)
    frames = read_frames(sorted((tmp_path / "mine" / "jpegs_256" / clip.stem).iterdir())[:2])
    assert frames.shape == (2, 256, 341, 3)
    # The decoded picture, shrunk to 8 x 8, is the original's: nothing was turned, swapped or cut.
    capture = cv2.VideoCapture(str(clip))
    original = capture.read()[1][..., ::-1]
    small = [
        cv2.resize(np.ascontiguousarray(image), (8, 8), interpolation=cv2.INTER_AREA) for image in (frames[0], original)
    ]
    assert np.abs(small[0].astype(int) - small[1]).max() < 6
