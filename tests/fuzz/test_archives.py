"""Archives, folders and videos made wrong: members come out whole or not at all, and nothing is written elsewhere."""

import io
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given

from saccade.datasets.archives import MemberError, open_archive
from saccade.datasets.check import check_dataset
from saccade.datasets.layout import load_dataset
from saccade.datasets.packed import Settings
from saccade.datasets.packed_plan import plan_pack
from saccade.datasets.prepare import prepare
from saccade.datasets.scanpaths import compute_scanpaths
from saccade.errors import DataError

from .mutations import Mutation, Refusal, fuzzed, mutate, mutations, read, refused

MEMBERS = {"v/A/a.avi": b"a" * 300, "v/B/b c.avi": bytes(range(256)) * 2, "v/B/d.txt": b"1 2 3\n"}
KINDS = {"stored": 0, "deflated": zipfile.ZIP_DEFLATED, "bz2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def unpacked(path: Path, folder: Path) -> dict[str, bytes]:
    """All members that come out, as `prepare` takes them out: one by one, to a name of its own choice."""
    found = {}
    archive = open_archive(path)
    for number, file in enumerate(archive.files()):
        try:
            archive.extract(file.member, folder / str(number))
        except MemberError as error:
            raise DataError(f"{file.place}: {error}") from None
        found[file.member] = (folder / str(number)).read_bytes()
        assert len(found[file.member]) == file.size
    return found


@pytest.mark.parametrize("kind", KINDS)
@fuzzed(50, 300)
@given(changes=mutations((b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"../", b"a.avi"), most=2))
def test_zips(tmp_path: Path, kind: str, changes: list[Mutation]) -> None:
    folder = tmp_path / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = tmp_path / "x.zip"
    path.write_bytes(mutate(zipped(MEMBERS, KINDS[kind]), changes))
    open_archive.cache_clear()
    found = read("zip", lambda: unpacked(path, folder), DataError)
    if not isinstance(found, Refusal):
        # A name may have changed, since nothing but the two places that it stands in tells; never a content.
        assert set(found.values()) <= set(MEMBERS.values())
    assert {each.name for each in tmp_path.iterdir()} == {"out", "x.zip"}


@fuzzed(60, 400)
@given(changes=mutations((b"Rar!\x1a\x07\x01\x00", b"Rar!\x1a\x07\x00", b"../"), most=2))
def test_rars(tmp_path: Path, write_rar: Callable[..., Path], changes: list[Mutation]) -> None:
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    path = write_rar(tmp_path / "x.rar", MEMBERS)
    path.write_bytes(mutate(path.read_bytes(), changes))
    open_archive.cache_clear()
    found = read("rar", lambda: unpacked(path, folder), DataError)
    assert isinstance(found, Refusal) or set(found.values()) <= set(MEMBERS.values())
    assert {each.name for each in tmp_path.iterdir()} == {"out", "x.rar"}


def test_bombs(tmp_path: Path) -> None:
    zeros = zipped({"A/a.avi": b"\0" * 280_000_000})
    (tmp_path / "x.zip").write_bytes(zeros)
    refused("bomb", lambda: prepare([tmp_path / "x.zip"], tmp_path / "data"), "claims to unpack to 0.3 GB", "its size")
    # Members that share their bytes: each entry of the directory is another name for the first.
    one = zipped({"A/0.avi": b"\0" * 4_000_000})
    start = one.index(b"PK\x01\x02")
    entry, end = one[start : one.index(b"PK\x05\x06")], one[one.index(b"PK\x05\x06") :]
    many = b"".join(entry.replace(b"A/0", b"%c/%c" % (65 + n // 26, 65 + n % 26)) for n in range(600))
    fields = (600).to_bytes(2, "little") * 2 + len(many).to_bytes(4, "little") + end[16:]
    (tmp_path / "600.zip").write_bytes(one[:start] + many + end[:8] + fields)
    refused("bomb", lambda: prepare([tmp_path / "600.zip"], tmp_path / "data", test_pattern=["A"]), "2.4 GB")
    # A bomb in an archive is looked at when it is opened.
    (tmp_path / "outer.zip").write_bytes(zipped({"in.zip": zeros}, 0))
    refused("bomb", lambda: prepare([tmp_path / "outer.zip"], tmp_path / "data"), "claims to unpack to 0.3 GB")
    # And what claims less than it is comes out no longer than it claims.
    small = zeros.replace((280_000_000).to_bytes(4, "little"), (4000).to_bytes(4, "little"))
    (tmp_path / "small.zip").write_bytes(small)
    refused("bomb", lambda: unpacked(tmp_path / "small.zip", tmp_path), "cannot be read from its archive")
    assert (tmp_path / "0").stat().st_size <= 4000


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_shorter_than_promised(tmp_path: Path, kind: str) -> None:
    """Whole, as its checksum says; but the size by which room was made for it is wrong."""
    whole = zipped({"A/a.avi": bytes(range(250))}, KINDS[kind])
    start = whole.index(b"PK\x01\x02") + 24  # the size in the directory's entry
    assert whole[start : start + 4] == (250).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(whole[:start] + (251).to_bytes(4, "little") + whole[start + 4 :])
    refused("hostile archive", lambda: unpacked(tmp_path / "x.zip", tmp_path), "has 250 bytes, and 251 were promised")


def test_archives_that_no_honest_one_is_like(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "x.zip"

    def said(members: list[tuple[str, bytes]], mode: int = 0o100644) -> str:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                archive.writestr(info, content)
        open_archive.cache_clear()
        return refused("hostile archive", lambda: prepare([path], tmp_path / "data"))

    assert "leads out of the archive" in said([("../../x.avi", b"x")])
    assert "leads out of the archive" in said([("/etc/x.avi", b"x")])
    assert "is a link" in said([("A/x.avi", b"/etc/passwd")], 0o120777)
    assert "is in the archive twice" in said([("A/x.avi", b"x"), ("A/x.avi", b"y")])
    recwarn.clear()  # of zipfile, which writes that but says so
    assert "longer than 240 bytes" in said([("A/" + "n" * 300 + ".avi", b"x")])
    assert "control character" in said([("A/a\nb.avi", b"x")])
    assert not (tmp_path / "data").exists()


# Videos --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of 12 frames, 32 x 24 px."""
    path = tmp_path_factory.mktemp("video") / "x.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (32, 24))
    for number in range(12):
        writer.write(np.full((24, 32, 3), 20 * number, np.uint8))
    writer.release()
    return path.read_bytes()


def prepared(tmp_path: Path, content: bytes) -> Path:
    """A dataset of one whole video and one with the given content."""
    for name, each in (("whole", WHOLE[0]), ("wrong", content)):
        (tmp_path / "videos" / "A").mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / "A" / f"{name}.avi").write_bytes(each)
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    prepare([tmp_path / "videos"], tmp_path / "data", test_pattern=["whole"], short_side=16, workers=1)
    return tmp_path / "data" / "jpegs_256" / "wrong"


WHOLE = [b""]


@pytest.fixture(autouse=True)
def whole(video: bytes) -> None:
    """For `prepared`."""
    WHOLE[0] = video


@fuzzed(30, 300)
@given(changes=mutations((b"\xff\xff\xff\x7f", b"avih", b"strf", b"idx1", b"00dc")))
def test_videos(tmp_path: Path, video: bytes, changes: list[Mutation]) -> None:
    wrong = mutate(video, changes)
    frames = read("video", lambda: prepared(tmp_path, wrong), DataError)
    if not isinstance(frames, Refusal):
        assert len(list(frames.iterdir())) >= 1
        assert {each.name for each in (tmp_path / "data").iterdir()} >= {"jpegs_256", "split", "prepare.json"}


def test_videos_that_claim_to_be_huge_or_are_none(tmp_path: Path, video: bytes) -> None:
    size, count = (32).to_bytes(4, "little") + (24).to_bytes(4, "little"), video.index(b"avih") + 24
    large = (16000).to_bytes(4, "little") * 2
    refused("hostile video", lambda: prepared(tmp_path, video.replace(size, large)))
    many = video[:count] + b"\xff\xff\xff\x7f" + video[count + 4 :]
    length = video.index(b"strh") + 40
    many = many[:length] + b"\xff\xff\xff\x7f" + many[length + 4 :]
    refused("hostile video", lambda: prepared(tmp_path, many), "wrong.avi: is cut off", "2147483647")
    (tmp_path / "secret.avi").write_bytes(video)
    for text in (
        f"ffconcat version 1.0\nfile {tmp_path}/secret.avi\n",
        f"\ufeff \n#EXTM3U\n#EXTINF:10,\n{tmp_path}/secret.avi\n#EXT-X-ENDLIST\n",
        f'<?xml version="1.0"?>\n<MPD><BaseURL>{tmp_path}/secret.avi</BaseURL></MPD>\n',
    ):
        refused("hostile video", partial(prepared, tmp_path, text.encode()), "wrong.avi: is a text that names other")
    for content in (b"", b"\0" * 5000, b"RIFF\xff\xff\xff\xffAVI LIST", video[:200]):
        refused("hostile video", partial(prepared, tmp_path, content), "wrong.avi: ")


# Links ---------------------------------------------------------------------------------------------------------------


def dataset(tmp_path: Path, video: bytes) -> Path:
    """Two videos with their rows, in a data root of their own."""
    root = tmp_path / "root"
    prepared(tmp_path, video)
    root.mkdir()
    (tmp_path / "data").rename(root / "mine")
    rows = root / "mine" / "scan_idx_7"
    rows.mkdir()
    (rows / "wrong.txt").write_text("0 0 5\n")
    return root / "mine"


def loaded(folder: Path) -> object:
    return load_dataset(folder.parent, folder.name, split=1, grid_num=7, scanpaths=True, min_frames=4)


@pytest.mark.parametrize(
    "which", ["jpegs_256/wrong/000003.jpg", "jpegs_256/wrong", "split/trainlist01.txt", "scan_idx_7/wrong.txt"]
)
def test_links_may_not_leave_the_data_root(tmp_path: Path, video: bytes, which: str) -> None:
    folder = dataset(tmp_path, video)
    place, outside, inside = folder / which, tmp_path / "outside", folder.parent / "inside"
    place.rename(outside)
    place.symlink_to(outside)
    said = refused("link", lambda: loaded(folder), f"{place}: is a link to {outside}, out of the data root")
    assert "copy that there" in said
    assert str(outside) in str(check_dataset(folder).findings)
    if which.startswith("jpegs_256"):
        refused("link", lambda: plan_pack(folder, Settings("jpeg")), "is a link to")
    if which == "jpegs_256/wrong":
        refused("link", lambda: compute_scanpaths(folder, grid_num=5, workers=1), "is a link to")
    # Within the root they may lead anywhere, and the dataset's own folders may be kept elsewhere.
    place.unlink()
    outside.rename(inside)
    place.symlink_to(inside)
    loaded(folder)
    for own in ("jpegs_256", "split", "scan_idx_7"):
        (folder / own).rename(tmp_path / own)
        (folder / own).symlink_to(tmp_path / own)
    loaded(folder)
    folder.rename(tmp_path / "kept")
    folder.symlink_to(tmp_path / "kept")
    loaded(folder)
