"""`prepare` on what the official sites ship: archives of videos, lists, frames and scanpaths."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import rarfile

from saccade.datasets.frames import list_frames
from saccade.datasets.layout import load_dataset
from saccade.datasets.official import OFFICIAL
from saccade.datasets.prepare import PrepareReport, prepare
from saccade.errors import DataError

Write = Callable[..., Path]
Cut = Callable[[Path, int], list[Path]]
LISTS = {
    "ucfTrainTestlist/classInd.txt": b"1 walk\n2 HandstandPushups\n",
    "ucfTrainTestlist/trainlist01.txt": (
        b"walk/v_walk_g01_c01.avi 1\nHandstandPushups/v_HandStandPushups_g01_c01.avi 2\n"
    ),
    "ucfTrainTestlist/testlist01.txt": b"walk/v_walk_g02_c01.avi\nHandstandPushups/v_HandStandPushups_g02_c01.avi\n",
}
VIDEOS = {
    "UCF-101/walk/v_walk_g01_c01.avi": 18,
    "UCF-101/walk/v_walk_g02_c01.avi": 19,
    "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi": 20,
    "UCF-101/HandStandPushups/v_HandstandPushups_g02_c01.avi": 21,
}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bytes]:
    """Bytes of a video with so many frames."""

    def make(frames: int) -> bytes:
        path = tmp_path_factory.mktemp("video") / "x.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
        for number in range(frames):
            writer.write(np.full((48, 64, 3), 6 * number, dtype=np.uint8))
        writer.release()
        return path.read_bytes()

    return make


@pytest.fixture(scope="module")
def members(video: Callable[[int], bytes]) -> dict[str, bytes]:
    return {name: video(frames) for name, frames in VIDEOS.items()}


def _prepare(given: list[Path], out: Path, **options: object) -> PrepareReport:
    return prepare(given, out, **({"short_side": 32, "workers": 1} | options))  # type: ignore[arg-type]


def _counts(out: Path) -> dict[str, int]:
    return {path.name: len(list_frames(path)) for path in sorted((out / "jpegs_256").iterdir())}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["rar", "zip", "zip parts", "folder", "download folder"])
def test_ucf101_in_any_form(
    tmp_path: Path, members: dict[str, bytes], write_rar: Write, write_zip: Write, cut: Cut, kind: str
) -> None:
    """Both spellings of HandstandPushups, of the class and of its videos, are one."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    lists = write_zip(downloads / "UCF101TrainTestSplits-RecognitionTask.zip", LISTS)
    videos = downloads / f"UCF101.{kind[:3]}"
    if kind == "folder":
        videos = downloads / "UCF-101"
        for name, data in members.items():
            path = downloads / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    elif kind.startswith("zip"):
        write_zip(videos, members)
    else:
        videos = write_rar(downloads / "UCF101.rar", members)
    given = [videos, lists]
    if kind == "zip parts":
        given = [lists, *cut(videos, 3)]
    elif kind == "download folder":
        given = [downloads]
    report = _prepare(given, tmp_path / "data" / "UCF101", workers=2 if kind == "rar" else 1)
    assert (report.written, report.frames, report.classes) == (4, 78, 2)
    assert report.absent == {1: (0, 0)}
    assert _names(tmp_path / "data" / "UCF101") == ["jpegs_256", "prepare.json", "sources.txt", "split"]
    assert list(_counts(tmp_path / "data" / "UCF101").values()) == [20, 21, 18, 19]
    dataset = load_dataset(tmp_path / "data", "UCF101", split=1, grid_num=7, scanpaths=False, min_frames=16)
    assert [(v.name, v.label, v.frames) for v in dataset.train] == [
        ("v_walk_g01_c01", 0, 18),
        ("v_HandStandPushups_g01_c01", 1, 20),
    ]
    assert [(v.name, v.label, v.frames) for v in dataset.test] == [
        ("v_walk_g02_c01", 0, 19),
        ("v_HandStandPushups_g02_c01", 1, 21),
    ]
    assert _prepare(given, tmp_path / "data" / "UCF101").already_there == 4


def _hmdb(tmp_path: Path, video: Callable[[int], bytes], write_rar: Write) -> list[Path]:
    inner = {}
    lists = {}
    for name in ("brush_hair", "wave"):
        # As the site has them: a folder in the archive of each class.
        clips = {f"{name}/#{n} & ünï_{name}_{n}.avi": video(17 + n) for n in range(3)}
        if name == "wave":
            clips = {clip.partition("/")[2]: data for clip, data in clips.items()}
        inner[f"{name}.rar"] = write_rar(tmp_path / "made" / f"{name}.rar", clips).read_bytes()
        lines = "".join(f"#{n} & ünï_{name}_{n}.avi {flag} \n" for n, flag in enumerate((1, 2, 0)))
        lists[f"testTrainMulti_7030_splits/{name}_test_split1.txt"] = lines.encode()
    shutil.rmtree(tmp_path / "made")
    outer = write_rar(tmp_path / "downloads" / "hmdb51_org.rar", inner)
    return [outer, write_rar(tmp_path / "downloads" / "test_train_splits.rar", lists)]


@pytest.mark.parametrize("alone", [False, True])
def test_hmdb51_an_archive_of_archives(
    tmp_path: Path, video: Callable[[int], bytes], write_rar: Write, alone: bool
) -> None:
    given = _hmdb(tmp_path, video, write_rar)
    out = tmp_path / "data" / "HMDB51"
    report = _prepare([given[0].parent] if alone else given, out)
    assert (report.written, report.frames, report.classes) == (6, 108, 2)
    # Nothing of the unpacked archives is left, and nothing lies anywhere else.
    assert _names(out) == ["jpegs_256", "prepare.json", "sources.txt", "split"]
    assert sorted(_names(tmp_path)) == ["data", "downloads"]
    dataset = load_dataset(tmp_path / "data", "HMDB51", split=1, grid_num=7, scanpaths=False, min_frames=16)
    assert [(v.name, v.label, v.frames) for v in dataset.train] == [
        ("#0 & ünï_brush_hair_0", 0, 17),
        ("#0 & ünï_wave_0", 1, 17),
    ]
    assert [v.frames for v in dataset.test] == [18, 18]


def test_nested_archives_stay_until_all_is_done(
    tmp_path: Path, video: Callable[[int], bytes], write_rar: Write
) -> None:
    given = _hmdb(tmp_path, video, write_rar)
    broken = write_rar(given[0].parent / "more.rar", {"wave/#2 & ünï_wave_2.avi": b"no video"})
    given[0].parent.joinpath("hmdb51_org.rar").rename(tmp_path / "hmdb51_org.rar")
    with pytest.raises(DataError, match="has the same video name as"):
        _prepare([tmp_path / "hmdb51_org.rar", broken, given[1]], tmp_path / "out")
    assert _names(tmp_path / "out" / "unpacked" / "hmdb51_org") == ["brush_hair.rar", "wave.rar"]
    assert _prepare([tmp_path / "hmdb51_org.rar", given[1]], tmp_path / "out").written == 6
    assert not (tmp_path / "out" / "unpacked").exists()


def test_without_a_program_for_nested_archives(
    tmp_path: Path, write_rar: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = write_rar(tmp_path / "wave.rar", {"wave/a.avi": b"x"}, method=3).read_bytes()
    outer = write_rar(tmp_path / "hmdb51_org.rar", {"wave.rar": inner})
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    with pytest.raises(DataError, match=r"wave\.rar: to read RAR archives one of the programs unrar, 7z.*by hand"):
        _prepare([outer], tmp_path / "out", test_pattern=["a"])


# The zips of the release ---------------------------------------------------------------------------------------------


def _frames(names: dict[str, int]) -> dict[str, bytes]:
    picture = cv2.imencode(".jpg", np.full((32, 43, 3), 99, dtype=np.uint8))[1].tobytes()
    return {
        f"jpegs_256/{name}/frame{n:06d}.jpg": picture + bytes(n) for name, count in names.items() for n in range(count)
    }


CLIPS = {
    "v_walk_g01_c01": 18,
    "v_walk_g02_c01": 17,
    "v_HandstandPushups_g01_c01": 17,
    "v_HandStandPushups_g02_c01": 19,
}


def test_frames_in_parts_and_scanpaths(tmp_path: Path, write_zip: Write, cut: Cut) -> None:
    parts = cut(write_zip(tmp_path / "ucf101_jpegs_256.zip", _frames(CLIPS), zipfile.ZIP_STORED), 3)
    lists = write_zip(tmp_path / "lists.zip", LISTS)
    rows = write_zip(tmp_path / "scan_idx_7.zip", {f"scan_idx_7/{name}.txt": b"24 0 7\n" for name in CLIPS})
    out = tmp_path / "data" / "UCF101"
    report = _prepare([parts[0], lists], out)
    assert (report.written, report.frames, report.classes) == (4, 71, 2)
    assert _counts(out) == CLIPS
    stored = (out / "jpegs_256" / "v_walk_g01_c01" / "frame000017.jpg").read_bytes()
    assert stored == _frames(CLIPS)["jpegs_256/v_walk_g01_c01/frame000017.jpg"]
    # Rows may come later, and alone.
    assert _prepare([rows], out).scanpaths == {7: 4}
    dataset = load_dataset(tmp_path / "data", "UCF101", split=1, grid_num=7, scanpaths=True, min_frames=16)
    assert [len(video.fixations) for video in dataset.train] == [1, 1]
    # Stopped half-way, it goes on.
    shutil.rmtree(out / "jpegs_256" / "v_walk_g02_c01")
    (out / "jpegs_256" / "v_walk_g02_c01.partial").mkdir()
    report = _prepare([*parts, lists, rows], out)
    assert (report.written, report.already_there, report.scanpaths) == (1, 3, {7: 4})
    assert "copied 4 files to scan_idx_7" in str(report)
    assert _counts(out) == CLIPS


def test_a_damaged_frame(tmp_path: Path, write_zip: Write) -> None:
    path = write_zip(tmp_path / "jpegs_256.zip", _frames(CLIPS), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"v_walk_g02_c01/frame000003.jpg") + 200] ^= 1
    path.write_bytes(data)
    lists = write_zip(tmp_path / "lists.zip", LISTS)
    with pytest.raises(DataError, match=r"jpegs_256\.zip/jpegs_256/v_walk_g02_c01: cannot be read from its archive"):
        _prepare([path, lists], tmp_path / "out")
    assert _names(tmp_path / "out" / "jpegs_256") == sorted(set(CLIPS) - {"v_walk_g02_c01"})


def test_scanpaths_that_would_end_up_elsewhere(tmp_path: Path, write_zip: Write) -> None:
    frames, lists = write_zip(tmp_path / "f.zip", _frames(CLIPS)), write_zip(tmp_path / "l.zip", LISTS)
    out = tmp_path / "data" / "x"
    _prepare([frames, lists], out)
    evil = write_zip(tmp_path / "scan_idx_7.zip", {"scan_idx_7/../../../evil.txt": b"24 0 7\n"})
    with pytest.raises(DataError, match="leads out of the archive"):
        _prepare([evil], out)
    assert sorted(_names(tmp_path)) == ["data", "f.zip", "l.zip", "scan_idx_7.zip"]


def test_what_does_not_go_together(tmp_path: Path, members: dict[str, bytes], write_zip: Write) -> None:
    frames, lists = write_zip(tmp_path / "f.zip", _frames(CLIPS)), write_zip(tmp_path / "l.zip", LISTS)
    videos = write_zip(tmp_path / "v.zip", members)
    out = tmp_path / "out"
    for given, options, what in (
        ([frames, videos, lists], {}, r"holds frames, but .*v\.zip/.*\.avi is a video; give one or the other"),
        ([frames], {}, "give one of the two"),
        ([frames], {"test_pattern": ["*_g02_*"]}, "give one of the two"),
        ([lists], {}, r"l\.zip: holds no video; expected"),
        ([], {}, "which videos"),
        ([videos], {"official": OFFICIAL["ucf101"]}, "split lists of UCF101 are missing: give UCF101TrainTestSplits"),
        ([videos, lists], {"official": OFFICIAL["hmdb51"]}, "2 classes, walk to .*not the split lists of HMDB51"),
        ([tmp_path / "absent.rar"], {}, r"absent\.rar: no such file"),
        ([tmp_path / "l.zip", tmp_path / "v.zip"], {"splits": tmp_path / "v.zip"}, r"v\.zip: no such folder"),
    ):
        with pytest.raises(DataError, match=what):
            _prepare(given, out, **options)
        assert not (out / "jpegs_256").exists()
    _prepare([videos, lists], out)
    with pytest.raises(DataError, match=r"was prepared with .*short_side.*asked for .*frames"):
        _prepare([frames, lists], out)
    both = tmp_path / "both"
    for number in (1, 2):
        write_zip(tmp_path / f"{number}.zip", {name.replace("ucf", f"{number}"): LISTS[name] for name in LISTS})
    with pytest.raises(DataError, match="holds split lists, but so does"):
        _prepare([videos, tmp_path / "1.zip", tmp_path / "2.zip"], both)


# A source that changes -----------------------------------------------------------------------------------------------


def test_a_replaced_video_is_written_anew(tmp_path: Path, video: Callable[[int], bytes], write_zip: Write) -> None:
    folder = tmp_path / "videos" / "walk"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / f"{name}.avi").write_bytes(video(18))
    out = tmp_path / "out"
    _prepare([tmp_path / "videos"], out, test_pattern=["b"])
    assert _prepare([tmp_path / "videos"], out, test_pattern=["b"]).already_there == 2
    (folder / "a.avi").write_bytes(video(23))
    report = _prepare([tmp_path / "videos"], out, test_pattern=["b"])
    assert (report.written, report.replaced, report.already_there) == (1, 1, 1)
    assert "wrote 1 of these videos anew, since their sources have changed" in str(report)
    assert _counts(out) == {"a": 23, "b": 18}
    # The same file, now in an archive, is no other.
    packed = write_zip(tmp_path / "v.zip", {f"walk/{path.name}": path.read_bytes() for path in folder.iterdir()})
    assert _prepare([packed], out, test_pattern=["b"]).already_there == 2
    # Datasets from before this was noted are taken as they are.
    (out / "sources.txt").unlink()
    os.utime(folder / "b.avi", ns=(1, 1))
    assert _prepare([tmp_path / "videos"], out, test_pattern=["b"]).already_there == 2


# Real clips and lists ------------------------------------------------------------------------------------------------


def _real(shared_data: Path) -> tuple[Path, Path]:
    clips, lists = shared_data / "ucf101_mini" / "videos", shared_data / "splits"
    if not clips.is_dir() or not lists.is_dir():
        pytest.skip(f"no UCF101 clips and official lists in {shared_data}")
    return clips, lists


def test_real_ucf101_as_shipped(
    shared_data: Path, tmp_path: Path, write_rar: Write, write_zip: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, lists = _real(shared_data)
    names = [path / f"v_{path.name}_g{group}_c01.avi" for path in sorted(clips.iterdir())[:2] for group in ("01", "14")]
    members = {f"UCF-101/{path.parent.name}/{path.name}": path.read_bytes() for path in names}
    cut_off = f"UCF-101/{names[1].parent.name}/{names[1].name}"
    members[cut_off] = members[cut_off][: len(members[cut_off]) // 2]
    rar = write_rar(tmp_path / "UCF101.rar", members)
    zipped = write_zip(
        tmp_path / "UCF101TrainTestSplits-RecognitionTask.zip",
        {f"ucfTrainTestlist/{path.name}": path.read_bytes() for path in (lists / "ucf101").iterdir()},
    )
    ucf101, out = OFFICIAL["ucf101"], tmp_path / "UCF101"
    report = _prepare([rar, zipped], out, official=ucf101, on_error="skip")
    assert (report.written, report.classes) == (3, 2)
    assert [(path.name, "cut off" in fault) for path, fault in report.skipped] == [(names[1].name, True)]
    said = capsys.readouterr().err
    assert "UCF101 is not complete here: 4 of 13320 videos; 99 of 101 classes have none, such as ApplyEyeMakeup" in said
    (tmp_path / "damaged").mkdir()
    for path in (lists / "ucf101").iterdir():
        text = path.read_text()
        shorter = text.rpartition("\n")[0].rpartition("\n")[0] if path.name == "trainlist02.txt" else text
        (tmp_path / "damaged" / path.name).write_text(shorter)
    with pytest.raises(DataError, match=r"split 2 lists 958\d training and 3734 test videos, UCF101 has 9586 and 3734"):
        _prepare([rar], tmp_path / "other", official=ucf101, splits=tmp_path / "damaged")


def test_real_hmdb51_lists(shared_data: Path, tmp_path: Path, video: Callable[[int], bytes], write_rar: Write) -> None:
    _, lists = _real(shared_data)
    files = {f"testTrainMulti_7030_splits/{p.name}": p.read_bytes() for p in (lists / "hmdb51").iterdir()}
    assert len(files) == 153
    names = [line.split()[0] for line in files["testTrainMulti_7030_splits/clap_test_split1.txt"].decode().splitlines()]
    odd = [name for name in names if not name.replace("_", "").replace(".avi", "").isalnum()][:2] or names[:2]
    inner = write_rar(tmp_path / "clap.rar", {f"clap/{name}": video(20) for name in odd})
    given = [inner, write_rar(tmp_path / "test_train_splits.rar", files)]
    report = _prepare(given, tmp_path / "HMDB51", official=OFFICIAL["hmdb51"])
    assert report.written == 2
    assert sum(report.absent[1]) in {5100, 5099, 5098}
    assert len(_names(tmp_path / "HMDB51" / "split")) == 153
