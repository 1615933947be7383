"""Zip and RAR archives, read member by member.

A path that an archive names is never written to: whoever takes a member says where it goes, so nothing can get out of
that place. RAR needs a program: `rarfile` (pure Python, kept up since 2005) reads the listing, so names and sizes are
checked first, and calls whichever of unrar, 7z, unar and bsdtar is installed for what is compressed.
"""

import errno
import glob
import io
import lzma
import re
import shutil
import stat
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import rarfile

from saccade.datasets.splits import shown
from saccade.errors import DataError

__all__ = ["Archive", "InputFile", "MemberError", "archive_name", "check_space", "is_archive", "open_archive"]

_SUFFIXES = (".zip", ".rar")
_PART = re.compile(r"(.+\.zip)\.(\d{3})", re.IGNORECASE)
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, rarfile.Error, struct.error, EOFError, NotImplementedError),
    *(ValueError, LookupError, OverflowError, RuntimeError, MemoryError),
)
"""What readers of archives have been seen to raise."""
_MAX_GROWTH, _FREE_BYTES = 100, 1 << 28
"""Videos and JPEG files hardly shrink in an archive, lists some ten times: what unpacks to more than so many times its
size, and to more than 256 MB, is a bomb."""


class MemberError(Exception):
    """A member that cannot be read; the archive is at fault, not the disk it is written to."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read, on disk or within an archive."""

    path: Path
    """The file, or the archive that holds it."""
    size: int
    """Bytes."""
    mark: str
    """Tells it from a file of the same name and size: `mtime:<time of its last change, ns>` or `crc:<CRC-32>`."""
    member: str = ""
    """Name in the archive, exactly; empty for a file on disk."""

    @property
    def place(self) -> Path:
        """Where it is, for messages."""
        return self.path / self.member


class _Joined(io.RawIOBase):
    """Files read as if they were one: an archive that was cut into pieces."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._starts = [0, *accumulate(path.stat().st_size for path in paths)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._at >= self._starts[-1]:
            return 0
        part = bisect_right(self._starts, self._at) - 1
        self._files[part].seek(self._at - self._starts[part])
        count = self._files[part].readinto(buffer)
        self._at += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def is_archive(path: Path) -> bool:
    """Whether a file is an archive or a numbered part of one, by its name."""
    return path.suffix.lower() in _SUFFIXES or _PART.fullmatch(path.name) is not None


def archive_name(path: Path) -> Path:
    """An archive's path without the number of a part: the same for all parts of one archive."""
    match = _PART.fullmatch(path.name)
    return path.with_name(match[1]) if match else path


def _parts(path: Path) -> list[Path]:
    """Parts of a zip that was cut into `NAME.zip.001`, `NAME.zip.002`, ...; none for one that is whole."""
    if path.exists():
        return []
    found = sorted(Path(name) for name in glob.glob(f"{glob.escape(str(path))}.[0-9][0-9][0-9]"))
    first = 0 if found and found[0].suffix == ".000" else 1
    for number, part in enumerate(found, start=first):
        if int(part.suffix[1:]) != number:
            raise DataError(
                f"{path}.{number:03d}: this part of the archive is missing; all parts must be in one folder"
            )
    return found


class Archive:
    """A zip, whole or in numbered parts, or a RAR archive.

    Raises:
        DataError: It is none, damaged, encrypted, or holds a name that leads out of it or a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = self._open()
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; give an archive or a folder that is there") from None
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read: {error.strerror}; look at its permissions and its disk"
            ) from error
        except rarfile.NeedFirstVolume:
            raise DataError(f"{path}: is not the first part of its archive; give that one") from None
        except _BROKEN as error:
            parts = len(_parts(path))
            hint = f" ({parts} parts were found; is the last one missing?)" if parts else ""
            raise DataError(
                f"{path}: is damaged or no {path.suffix[1:]} archive: {_line(error)}{hint}; download it again"
            ) from None

    def _open(self) -> zipfile.ZipFile | rarfile.RarFile:
        if self.path.suffix.lower() == ".rar":
            # Not the default, which takes a damaged archive for a shorter one.
            archive = rarfile.RarFile(self.path, errors="strict")
            self._check_rar(archive)
            return archive
        parts = _parts(self.path)
        return zipfile.ZipFile(io.BufferedReader(_Joined(parts)) if parts else self.path)

    def _check_rar(self, archive: rarfile.RarFile) -> None:
        by_hand = f"unpack it by hand and give the folder in place of {self.path.name}"
        if all(info.compress_type == rarfile.RAR_M0 for info in archive.infolist()):
            return
        if archive.is_solid():
            raise DataError(f"{self.path}: is a solid archive, whose members cannot be read one by one; {by_hand}")
        try:
            rarfile.tool_setup(force=True)
        except rarfile.RarCannotExec:
            raise DataError(
                f"{self.path}: to read RAR archives one of the programs unrar, 7z, unar, bsdtar is needed; install one "
                f"(apt install unar, brew install sevenzip), or {by_hand}"
            ) from None

    def files(self) -> Iterator[InputFile]:
        """Every file in it; folders are passed over.

        Raises:
            DataError: A member that an honest archive of videos would not have.
        """
        self._check_size()
        names: set[str] = set()
        for info in self._archive.infolist():
            place = f"{self.path}: {shown(info.filename)}"
            if info.filename in names:
                raise DataError(f"{place} is in the archive twice; do not trust it, get it from its official site")
            names.add(info.filename)
            if info.filename.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", info.filename):
                raise DataError(f"{place} leads out of the archive; do not trust it, get it from its official site")
            if info.is_dir():
                continue
            if info.is_symlink() if isinstance(info, rarfile.RarInfo) else stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"{place} is a link; do not trust this archive, get it from its official site")
            if info.needs_password() if isinstance(info, rarfile.RarInfo) else info.flag_bits & 1:
                raise DataError(f"{place} is encrypted; unpack the archive by hand and give the folder in its place")
            yield InputFile(self.path, info.file_size, f"crc:{info.CRC or 0}", info.filename)

    def _check_size(self) -> None:
        """Refuse what unpacks to many times its size: each member once more where they overlap."""
        paths = self._archive.volumelist() if isinstance(self._archive, rarfile.RarFile) else _parts(self.path)
        own = sum(Path(path).stat().st_size for path in paths or [self.path])
        size = sum(info.file_size for info in self._archive.infolist())
        if size > max(_MAX_GROWTH * own, _FREE_BYTES):
            raise DataError(
                f"{self.path}: claims to unpack to {size / 1e9:.1f} GB, {size / max(own, 1):.0f} times its size, as no "
                "videos do; do not trust it, get it from its official site"
            )

    def extract(self, member: str, target: Path) -> None:
        """Write a member to a file; no more than its declared size is ever written.

        Raises:
            MemberError: It is damaged, or compressed in a way that is not supported.
        """
        try:
            with self._archive.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        except _BROKEN as error:
            raise MemberError(f"cannot be read from its archive: {_line(error)}") from None
        except OSError as error:
            if error.errno not in (None, errno.EINVAL):
                raise
            # bz2 has no number for damaged data, and a place before the file's beginning is an invalid argument.
            raise MemberError(f"cannot be read from its archive: {_line(error)}") from None
        written, said = target.stat().st_size, self._archive.getinfo(member).file_size
        if written != said:
            raise MemberError(f"cannot be read from its archive: it has {written} bytes, and {said} were promised")


@lru_cache(maxsize=8)
def open_archive(path: Path) -> Archive:
    """An archive that stays open in this process: its listing may have a million lines."""
    return Archive(path)


def check_space(folder: Path, size: int, what: str) -> None:
    """Refuse to unpack more than the disk has room for.

    Raises:
        DataError: States both sizes.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{what}: unpacks to {size / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB free; make room there"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
