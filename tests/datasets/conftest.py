"""Archives for tests of what reads them, and a toy set."""

import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from saccade.datasets.frames import list_frames


def _number(value: int) -> bytes:
    """RAR5's variable-length integer: seven bits a byte, lowest first."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _block(content: bytes) -> bytes:
    sized = _number(len(content)) + content
    return struct.pack("<I", crc32(sized)) + sized


def _write_rar(path: Path, members: dict[str, bytes], *, method: int = 0, link: str = "") -> Path:
    """A RAR5 archive.

    Args:
        path: Where to.
        members: Name -> content.
        method: What the headers claim of the compression: 0 stored; others would need a program to read.
        link: A member that is to be a symbolic link.
    """
    blocks = [b"Rar!\x1a\x07\x01\x00", _block(_number(1) + _number(0) + _number(0))]
    for name, data in members.items():
        redirection = _number(5) + _number(1) + _number(0) + _number(4) + b"/etc" if name == link else b""
        extra = _number(len(redirection)) + redirection if redirection else b""
        header = _number(2) + _number(3 if extra else 2)  # a file, with data and maybe more
        header += _number(len(extra)) if extra else b""
        header += _number(len(data)) + _number(4) + _number(len(data)) + _number(0o100644)
        header += struct.pack("<I", crc32(data)) + _number(method << 7) + _number(1)
        header += _number(len(name.encode())) + name.encode() + extra
        blocks += [_block(header), data]
    blocks.append(_block(_number(5) + _number(0) + _number(0)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blocks))
    return path


@pytest.fixture(scope="session")
def write_rar() -> Callable[..., Path]:
    """Function that writes a RAR archive whose members are stored as they are, which needs no program."""
    return _write_rar


def _write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.mkdir("a")
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="session")
def write_zip() -> Callable[..., Path]:
    """Function that writes a zip."""
    return _write_zip


@pytest.fixture(scope="session")
def cut() -> Callable[[Path, int], list[Path]]:
    """Function that cuts a file into NAME.001, NAME.002, ... as `split` does."""

    def cut(path: Path, pieces: int) -> list[Path]:
        data = path.read_bytes()
        path.unlink()
        size = -(-len(data) // pieces)
        parts = [path.with_name(f"{path.name}.{number:03d}") for number in range(1, pieces + 1)]
        for number, part in enumerate(parts):
            part.write_bytes(data[number * size : (number + 1) * size])
        return parts

    return cut


@pytest.fixture(scope="session")
def toy(make_toy: Callable[..., Path]) -> Path:
    """The folder of a toy set: 16 videos of 12 frames, 64 x 48 px."""
    root: Path = make_toy()
    return root / "toy"


@pytest.fixture
def dataset(toy: Path, tmp_path: Path) -> Path:
    """Three videos of it that a test may spoil, of 12, 12 and 9 frames."""
    folder = tmp_path / "three"
    for number, video in enumerate(sorted((toy / "jpegs_256").iterdir())[:3]):
        shutil.copytree(video, folder / "jpegs_256" / f"v{number}")
    for name in list_frames(folder / "jpegs_256" / "v2")[9:]:
        (folder / "jpegs_256" / "v2" / name).unlink()
    return folder
