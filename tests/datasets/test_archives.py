import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import rarfile

from saccade.datasets.archives import Archive, MemberError, archive_name, check_space, is_archive
from saccade.errors import DataError

Write = Callable[..., Path]
Cut = Callable[[Path, int], list[Path]]
CONTENT = {"a/one.avi": b"1" * 3000, "a/två #2.avi": b"", "b/list.txt": b"x\n" * 500}


def _read(path: Path, scratch: Path) -> dict[str, bytes]:
    archive, found = Archive(path), {}
    for file in archive.files():
        archive.extract(file.member, scratch)
        found[file.member] = scratch.read_bytes()
        assert file.size == len(found[file.member])
        assert file.place == path / file.member
    return found


@pytest.mark.parametrize("kind", ["zip", "stored", "parts", "rar"])
def test_members_come_out_as_they_went_in(
    tmp_path: Path, write_rar: Write, write_zip: Write, cut: Cut, kind: str
) -> None:
    path = tmp_path / ("x.rar" if kind == "rar" else "x.zip")
    if kind == "rar":
        write_rar(path, CONTENT)
    else:
        write_zip(path, CONTENT, zipfile.ZIP_DEFLATED if kind == "zip" else zipfile.ZIP_STORED)
    if kind == "parts":
        assert len(cut(path, 7)) == 7
    assert _read(path, tmp_path / "out") == CONTENT


def test_names_of_archives() -> None:
    for name in ("UCF101.rar", "a.ZIP", "ucf101_jpegs_256.zip.001"):
        assert is_archive(Path(name))
    for name in ("a.avi", "a.zip.1", "a.001", "zip"):
        assert not is_archive(Path(name))
    assert archive_name(Path("x/a.zip.003")) == Path("x/a.zip")
    assert archive_name(Path("x/a.rar")) == Path("x/a.rar")


def test_a_missing_part(tmp_path: Path, write_zip: Write, cut: Cut) -> None:
    parts = cut(write_zip(tmp_path / "x.zip", CONTENT), 4)
    parts[3].rename(tmp_path / "last")
    with pytest.raises(DataError, match=r"x\.zip: is damaged or no zip archive: .*3 parts were found; is the last one"):
        Archive(tmp_path / "x.zip")
    parts[1].unlink()
    with pytest.raises(DataError, match=r"x\.zip\.002: this part of the archive is missing"):
        Archive(tmp_path / "x.zip")


@pytest.mark.parametrize("name", ["x.zip", "x.rar"])
def test_damaged_archives(tmp_path: Path, write_rar: Write, write_zip: Write, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match="no such file"):
        Archive(path)
    for content in (b"", b"this is no archive", b"<html>404</html>" * 50):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: is damaged or no {name[2:]} archive: .*; download it again"):
            Archive(path)
    whole = (write_rar if name == "x.rar" else write_zip)(path, CONTENT).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match="is damaged"):
        Archive(path)


@pytest.mark.parametrize("name", ["x.zip", "x.rar"])
def test_a_damaged_member(tmp_path: Path, write_rar: Write, write_zip: Write, name: str) -> None:
    path = tmp_path / name
    data = bytearray((write_rar(path, CONTENT) if name == "x.rar" else write_zip(path, CONTENT, 0)).read_bytes())
    data[data.index(b"1" * 1000) + 500] ^= 1
    path.write_bytes(data)
    archive = Archive(path)
    with pytest.raises(MemberError, match=r"^cannot be read from its archive: [^\n]+$"):
        archive.extract("a/one.avi", tmp_path / "out")


@pytest.mark.parametrize("name", ["../../evil.avi", "/etc/evil.avi", "a/../../evil.avi", "..\\..\\evil.avi"])
@pytest.mark.parametrize("kind", ["zip", "rar"])
def test_names_that_lead_out(tmp_path: Path, write_rar: Write, write_zip: Write, name: str, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    (write_rar if kind == "rar" else write_zip)(path, {name: b"x"})
    with pytest.raises(DataError, match=r"leads out of the archive; do not trust it"):
        list(Archive(path).files())


def test_links_are_refused(tmp_path: Path, write_rar: Write) -> None:
    path = tmp_path / "x.zip"
    info = zipfile.ZipInfo("a/one.avi")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    write_rar(tmp_path / "x.rar", {"a/one.avi": b""}, link="a/one.avi")
    for each in (path, tmp_path / "x.rar"):
        with pytest.raises(DataError, match=r"'a/one\.avi' is a link; do not trust this archive"):
            list(Archive(each).files())


def test_encrypted_members(tmp_path: Path, write_zip: Write) -> None:
    path = write_zip(tmp_path / "x.zip", {"one.avi": b"1"})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the flag in the directory at the end
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"'one\.avi' is encrypted; unpack the archive by hand"):
        list(Archive(path).files())


def test_without_a_program_for_rar(tmp_path: Path, write_rar: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rar(tmp_path / "UCF101.rar", CONTENT, method=3)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    with pytest.raises(DataError) as caught:
        Archive(path)
    assert str(caught.value) == (
        f"{path}: to read RAR archives one of the programs unrar, 7z, unar, bsdtar is needed; install one (apt install "
        "unar, brew install sevenzip), or unpack it by hand and give the folder in place of UCF101.rar"
    )
    # What is only stored needs none.
    assert _read(write_rar(tmp_path / "stored.rar", CONTENT), tmp_path / "out") == CONTENT


def test_room_on_the_disk(tmp_path: Path) -> None:
    check_space(tmp_path, 1000, "x.zip")
    with pytest.raises(
        DataError, match=r"^x\.zip: unpacks to 1000000000\.0 GB, but .* has [0-9.]+ GB free; make room there$"
    ):
        check_space(tmp_path, 10**18, "x.zip")
