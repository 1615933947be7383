"""What folders and archives of a dataset hold, found by the names of the files: videos, frames, split lists, scanpaths.

UCF-101/<Class>/<video>.avi, as a folder or UCF101.rar          videos
hmdb51_org.rar, or a folder, of <class>.rar                     videos
.../classInd.txt, trainlist01.txt, <class>_test_split1.txt      split lists
jpegs_256.zip (or .zip.001, .zip.002, ...): <video>/<n>.jpg     frames
scan_idx_7.zip, or a folder: <video>.txt                        scanpath rows on a 7 x 7 grid
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from zlib import crc32

from saccade.datasets.archives import InputFile, MemberError, archive_name, check_space, is_archive, open_archive
from saccade.datasets.frames import FRAME_SUFFIXES
from saccade.datasets.sources import Source, check_sources
from saccade.datasets.splits import VIDEO_SUFFIXES, checked_name, is_split_list, video_name
from saccade.errors import DataError
from saccade.progress import progress

__all__ = ["Contents", "find_contents", "lists_folder", "write_scanpaths"]

_SCANPATHS = re.compile(r"scan_idx_(\d+)")
_MAX_TEXT_BYTES = 1 << 24
"""No official list has a tenth of it."""


@dataclass
class Contents:
    """What was found."""

    videos: list[Source] = field(default_factory=list)
    """By class and name."""
    frames: list[Source] = field(default_factory=list)
    """Videos whose frames are in an archive."""
    scanpaths: dict[int, list[InputFile]] = field(default_factory=dict)
    """Files of scanpath rows, by the grid's cells along a side."""
    lists: list[InputFile] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    """Files that are none of these."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A file, and the names from its source's own down to its own."""

    names: tuple[str, ...]
    file: InputFile


def _on_disk(path: Path, names: tuple[str, ...]) -> Iterator[_Found]:
    try:
        if path.is_dir():
            for child in sorted(path.iterdir()):
                # Below a hidden folder, and a hundred folders deep (a link to one above), there is nothing of ours.
                if not (child.is_dir() and (child.name[0] == "." or len(names) > 8)):
                    yield from _on_disk(child, (*names, child.name))
            return
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; make it readable, or leave it out") from error
    yield _Found(names, InputFile(path, status.st_size, f"mtime:{status.st_mtime_ns}"))


def _in_archive(path: Path) -> Iterator[_Found]:
    for file in open_archive(path).files():
        inside = PurePosixPath(file.member.replace("\\", "/")).parts
        yield _Found((path.stem, *inside), file)


@dataclass
class _Frames:
    """Frames of a video in an archive: a million of them must fit into memory."""

    members: list[str] = field(default_factory=list)
    size: int = 0
    checksum: int = 0

    def add(self, file: InputFile) -> None:
        self.members.append(file.member)
        self.size += file.size
        self.checksum = crc32(file.mark.encode(), self.checksum)


class _Sorter:
    """Puts files where they belong."""

    def __init__(self, scratch: Callable[[], Path]) -> None:
        self.contents = Contents()
        self._scratch = scratch
        self._frames: dict[tuple[Path, tuple[str, ...]], _Frames] = {}
        self._opened: set[Path] = set()

    def add(self, source: Path, *, nested: bool = False) -> None:
        """Sort all that a folder or an archive holds; `nested` when it comes out of an archive."""
        archive = is_archive(source) and not source.is_dir()
        source = archive_name(source) if archive else source
        if archive and source in self._opened:
            return
        if not archive and not source.is_dir():
            raise DataError(
                f"{source}: no such folder; give the one that holds a folder of videos for each class, or an archive"
            )
        self._opened.add(source)
        videos: list[_Found] = []
        files = _in_archive(source) if archive else _on_disk(source, (source.resolve().name,))
        for found in progress(files, desc=f"looking through {source.name}", unit="file"):
            self._sort(found, videos, nested=nested)
        self._add_videos(source, videos)

    def _sort(self, found: _Found, videos: list[_Found], *, nested: bool) -> None:
        name, path = found.names[-1], Path(found.names[-1])
        parent = found.names[-2]
        if name[0] == ".":
            self.contents.ignored.append(found.file.place)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            videos.append(found)
        elif is_split_list(name):
            self.contents.lists.append(found.file)
        elif path.suffix == ".txt" and (grid := _SCANPATHS.search(parent)):
            self.contents.scanpaths.setdefault(int(grid[1]), []).append(found.file)
        elif path.suffix.lower() in FRAME_SUFFIXES and found.file.member:
            self._frames.setdefault((found.file.path, found.names[:-1]), _Frames()).add(found.file)
        elif is_archive(path) and not found.file.member:
            self.add(found.file.path)
        elif is_archive(path) and not nested:
            self.add(self._unpacked(found), nested=True)
        else:
            self.contents.ignored.append(found.file.place)

    def _unpacked(self, found: _Found) -> Path:
        """An archive within an archive, as a file."""
        target = self._scratch().joinpath(*found.names)
        if not target.exists() or target.stat().st_size != found.file.size:
            target.parent.mkdir(parents=True, exist_ok=True)
            check_space(target.parent, found.file.size, str(found.file.place))
            _extract(found.file, target)
        return target

    def _add_videos(self, source: Path, found: Sequence[_Found]) -> None:
        # Class folders are those of the uppermost videos; what lies deeper is none of a class's videos.
        depth = min((len(video.names) for video in found), default=0)
        for video in found:
            if len(video.names) > depth:
                self.contents.ignored.append(video.file.place)
            elif depth == 2 and not video.file.member:
                raise DataError(
                    f"{video.file.place}: this video is in no class folder; it must be "
                    f"{source / '<Class>' / video.names[-1]}"
                )
            else:
                self.contents.videos.append(_video(video))

    def finish(self) -> Contents:
        """All that was found, in order, with the names of videos checked."""
        for (archive, folders), frames in self._frames.items():
            path, mark = archive.joinpath(*folders[1:]), f"crc:{frames.checksum}"
            self.contents.frames.append(
                Source(folders[-1], "", path, frames.size, mark, archive, tuple(frames.members))
            )
        for part in (self.contents.videos, self.contents.frames):
            part.sort(key=lambda source: (source.class_name, source.name))
            check_sources(part)
        return self.contents


def _video(found: _Found) -> Source:
    name, file = found.names[-1], found.file
    packed = (file.path, (file.member,)) if file.member else (None, ())
    return Source(video_name(name), found.names[-2], file.place, file.size, file.mark, *packed)


def _extract(file: InputFile, target: Path) -> None:
    try:
        open_archive(file.path).extract(file.member, target)
    except MemberError as error:
        raise DataError(f"{file.place}: {error}; download the archive again") from None
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror}; mend that and run the same again") from error


def find_contents(sources: Sequence[Path], scratch: Callable[[], Path]) -> Contents:
    """Look through folders and archives.

    Args:
        sources: What was given.
        scratch: Makes the folder that archives within archives are unpacked to, when there are any.

    Raises:
        DataError: One is not there, damaged or not to be trusted, or videos cannot be told apart.
    """
    sorter = _Sorter(scratch)
    for source in sources:
        sorter.add(source)
    return sorter.finish()


def lists_folder(lists: Sequence[InputFile], scratch: Callable[[], Path]) -> Path:
    """The one folder that split lists lie in; those in archives are copied to one.

    Raises:
        DataError: They come from several places, or are no text files of ours.
    """
    places = sorted({file.place.parent for file in lists})
    if len(places) > 1:
        raise DataError(f"{places[1]}: holds split lists, but so does {places[0]}; give one set of them")
    if not lists[0].member:
        return places[0]
    folder = scratch() / "lists"
    folder.mkdir(exist_ok=True)
    for file in lists:
        if file.size > _MAX_TEXT_BYTES:
            raise DataError(f"{file.place}: {file.size / 1e6:.0f} MB are too many for a split list; leave it out")
        _extract(file, folder / file.place.name)
    return folder


def write_scanpaths(files: Sequence[InputFile], folder: Path) -> int:
    """Copy files of scanpath rows to a dataset's folder for their grid; returns how many there were.

    Raises:
        DataError: One has no usable name or size, or they cannot be read or written.
    """
    try:
        folder.mkdir(exist_ok=True)
        for file in progress(files, desc=f"copying {folder.name}", unit="file"):
            name = checked_name(file.place.name, str(file.place))
            if file.size > _MAX_TEXT_BYTES:
                raise DataError(f"{file.place}: {file.size / 1e6:.0f} MB are too many for a scanpath; leave it out")
            partial = folder / f"{name}.partial"
            if file.member:
                _extract(file, partial)
            else:
                shutil.copyfile(file.path, partial)
            os.replace(partial, folder / name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}; mend that and run the same again") from error
    return len(files)
