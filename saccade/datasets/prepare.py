"""From what the official sites ship, or video files in class folders, to a dataset in the published layout."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from saccade.datasets.archives import check_space
from saccade.datasets.contents import Contents, find_contents, lists_folder, write_scanpaths
from saccade.datasets.extract import Job, extract
from saccade.datasets.layout import FRAMES_FOLDER, SPLIT_FOLDER, scanpath_folder
from saccade.datasets.marker import read_marker
from saccade.datasets.official import Official, check_official
from saccade.datasets.parallel import in_processes
from saccade.datasets.sources import Match, Source, match_lists, official_lists, own_lists, read_splits
from saccade.datasets.splits import VIDEO_SUFFIXES, Split
from saccade.errors import DataError
from saccade.progress import progress

__all__ = ["PrepareReport", "prepare"]

_MARKER = "prepare.json"
_SKIPPED = "skipped.txt"
_STAMPS = "sources.txt"
"""What each finished video was made from, a line `<stamp><tab><video>` each, appended to; the last one counts."""
_SCRATCH = "unpacked"
"""Folder for archives within archives, and split lists out of archives; removed when all is done."""
_WHICH_TEST = (
    "which videos test is said by either official split lists (--splits, or among the sources) or patterns of the "
    "videos' names (--test 'lena_*'); give one of the two"
)


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` has done."""

    folder: Path
    classes: int
    written: int
    """Videos written now."""
    already_there: int
    """Videos that an earlier call had finished."""
    replaced: int
    """Videos written anew, since their sources have changed."""
    frames: int
    """Frames written now."""
    seconds: float
    skipped: tuple[tuple[Path, str], ...] = ()
    """Broken videos and what is wrong with them."""
    ignored: tuple[Path, ...] = ()
    """Files that are none of a dataset's."""
    unlisted: tuple[Path, ...] = ()
    """Videos that no official list names; left out."""
    absent: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Per official split: listed training and test videos that are not there."""
    scanpaths: dict[int, int] = field(default_factory=dict)
    """Scanpath files copied, by the grid's cells along a side."""

    def __str__(self) -> str:
        done = f"{self.written} videos ({self.frames} frames) written in {self.seconds:.0f} s"
        lines = [f"{self.folder}: {done}, {self.already_there} already there, {self.classes} classes"]
        if self.replaced:
            lines.append(f"wrote {self.replaced} of these videos anew, since their sources have changed")
        lines += [f"copied {count} files to {scanpath_folder(grid)}" for grid, count in self.scanpaths.items()]
        if self.skipped:
            lines.append(f"left out {len(self.skipped)} broken videos, listed in {self.folder / _SKIPPED}")
        if self.unlisted:
            lines.append(f"left out {len(self.unlisted)} videos that no list names, such as {self.unlisted[0]}")
        if self.ignored:
            lines.append(f"ignored {len(self.ignored)} other files, such as {self.ignored[0]}")
        if any(train or test for train, test in self.absent.values()):
            counts = ", ".join(f"split {n}: {train} training, {test} test" for n, (train, test) in self.absent.items())
            lines.append(f"listed videos that are not here ({counts}): set data.only_present to true to use the rest")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Plan:
    """What is to be done, known to be possible as far as names go."""

    sources: list[Source]
    """Videos to write, or frames to copy."""
    lists: Path | None
    """Folder of official split lists; None: `test_pattern` says which videos test."""
    test_pattern: Sequence[str]
    unlisted: list[Source]
    absent: dict[int, tuple[int, int]]
    classes: int

    def split_lists(self, broken: Collection[Path]) -> dict[str, bytes]:
        """Contents of the split lists without broken videos."""
        if self.lists is not None:
            return official_lists(self.lists, {source.name for source in self.sources if source.path in broken})
        kept = [source for source in self.sources if source.path not in broken]
        return {name: text.encode() for name, text in own_lists(kept, self.test_pattern).items()}


def _check_arguments(
    given: Sequence[Path], out: Path, splits: Path | None, test_pattern: Sequence[str], short_side: int, quality: int
) -> None:
    if not given:
        raise DataError("which videos? give the folders and archives as downloaded, then the dataset's folder")
    if splits is not None and test_pattern:
        raise DataError(_WHICH_TEST)
    if not 16 <= short_side <= 4096:
        raise DataError(f"short side {short_side} px; it must be 16 to 4096")
    if not 1 <= quality <= 100:
        raise DataError(f"JPEG quality {quality}; it must be 1 to 100")
    for source in given:
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise DataError(f"{out}: the dataset cannot lie within the folder of the videos; give another one")


def _find(
    sources: Sequence[Path], splits: Path | None, test_pattern: Sequence[str], scratch: Callable[[], Path]
) -> tuple[Contents, Path | None]:
    """All that was given, and the folder of its split lists if any are wanted."""
    contents = find_contents(sources, scratch)
    if splits is not None:
        given = find_contents([splits], scratch).lists
        return contents, lists_folder(given, scratch) if given else splits
    wanted = contents.lists and not test_pattern
    return contents, lists_folder(contents.lists, scratch) if wanted else None


def _plan(
    contents: Contents,
    lists: Path | None,
    test_pattern: Sequence[str],
    given: Sequence[Path],
    out: Path,
    official: Official | None,
) -> _Plan:
    sources = contents.videos or contents.frames
    if contents.videos and contents.frames:
        raise DataError(
            f"{contents.frames[0].path}: holds frames, but {contents.videos[0].path} is a video; give one or the other"
        )
    if not sources and not (contents.scanpaths and (out / FRAMES_FOLDER).is_dir()):
        raise DataError(
            f"{given[0]}: holds no video; expected {given[0] / '<Class>' / '<video>'} with one of "
            f"{' '.join(VIDEO_SUFFIXES)}, or an archive of videos or frames"
        )
    if lists is None and not contents.videos and not test_pattern and (out / SPLIT_FOLDER).is_dir():
        lists = out / SPLIT_FOLDER
    if lists is None and official is not None:
        raise DataError(f"the split lists of {official.name} are missing: give {official.lists} too, or its folder")
    if lists is None and (contents.frames or not test_pattern):
        raise DataError(_WHICH_TEST)
    if lists is None:
        return _Plan(sources, None, test_pattern, [], {}, len({source.class_name for source in sources}))
    splits = read_splits(lists)
    # Those that are there may lack broken videos that were left out.
    if official is not None and lists != out / SPLIT_FOLDER:
        check_official(official, splits, lists)
    if not sources:
        return _Plan([], lists, (), [], {}, 0)
    match = match_lists(sources, splits, lists)
    if official is not None and len(match.listed) < official.videos:
        _tell_incomplete(official, match, splits)
    return _Plan(match.listed, lists, (), match.unlisted, match.absent, len(match.classes))


def _tell_incomplete(official: Official, match: Match, splits: Mapping[int, Split]) -> None:
    """Before hours of work, not after."""
    without = [name for name in next(iter(splits.values())).classes if name not in match.classes]
    classes = f"; {len(without)} of {official.classes} classes have none, such as {without[0]}" if without else ""
    print(
        f"saccade: {official.name} is not complete here: {len(match.listed)} of {official.videos} videos{classes}",
        file=sys.stderr,
    )


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{out}: cannot be written to: {error.strerror}; give another folder") from error


def _check_ours(out: Path) -> None:
    """Refuse a folder that something else lies in."""
    ours = (out / _MARKER).exists() or not out.exists()
    if not ours and any(child.name != _SCRATCH for child in out.iterdir()):
        raise DataError(f"{out}: holds files, and no {_MARKER} that says they were prepared here; give a new folder")


def _claim(out: Path, wanted: dict[str, object]) -> None:
    """Make the folder ours, or see that it is, with frames of the same kind."""
    marker = out / _MARKER
    found = read_marker(marker)
    if found not in (None, wanted):
        raise DataError(
            f"{out}: was prepared with {str(found)[:100]}, asked for {wanted}; give another folder, or remove it"
        )
    with _writing(out):
        _check_ours(out)
        (out / FRAMES_FOLDER).mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps(wanted) + "\n", encoding="utf-8")


def _scratch(out: Path) -> Path:
    with _writing(out):
        _check_ours(out)
        (out / _SCRATCH).mkdir(parents=True, exist_ok=True)
    return out / _SCRATCH


@dataclass
class _Work:
    """Videos to frames: what there is to do, and what came of it."""

    jobs: list[Job] = field(default_factory=list)
    done: int = 0
    """Videos that an earlier call had finished."""
    replaced: int = 0
    """Jobs whose videos had been finished from another file of the name."""
    written: int = 0
    frames: int = 0
    broken: list[tuple[Path, str]] = field(default_factory=list)

    def run(self, stamps: Path, workers: int | None) -> None:
        total = self.done + len(self.jobs)
        with (
            stamps.open("a", encoding="utf-8") as log,
            progress(desc="videos to frames", unit="video", total=total, initial=self.done) as bar,
        ):
            for outcome in in_processes(extract, self.jobs, workers=workers, doing="decoding"):
                bar.update()
                source = outcome.job.source
                if outcome.fault is None:
                    self.written, self.frames = self.written + 1, self.frames + outcome.frames
                    log.write(f"{source.stamp}\t{source.name}\n")
                    log.flush()
                else:
                    self.broken.append((source.path, outcome.fault))
        self.broken.sort()


def _work(sources: Sequence[Source], out: Path, short_side: int, quality: int) -> _Work:
    folder, stamps = out / FRAMES_FOLDER, out / _STAMPS
    finished = set(os.listdir(folder))
    lines = stamps.read_text(encoding="utf-8").split("\n") if stamps.exists() else []
    made_from = {name: stamp for stamp, _, name in (line.partition("\t") for line in lines)}
    work = _Work()
    for source in sources:
        changed = source.name in finished and source.differs_from(made_from.get(source.name, source.stamp))
        if source.name in finished and not changed:
            work.done += 1
        else:
            work.replaced += changed
            work.jobs.append(Job(source, folder / source.name, short_side, quality))
    return work


def _write_skipped(out: Path, broken: Sequence[tuple[Path, str]]) -> None:
    if broken:
        text = "".join(f"{path}\t{fault}\n" for path, fault in broken)
        (out / _SKIPPED).write_text(text, encoding="utf-8")
    else:
        (out / _SKIPPED).unlink(missing_ok=True)


def _write_lists(out: Path, contents: dict[str, bytes]) -> None:
    """Replace the split folder as a whole: lists of another style or number would still be read."""
    partial, final = out / f"{SPLIT_FOLDER}.partial", out / SPLIT_FOLDER
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, content in contents.items():
        (partial / name).write_bytes(content)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)


def _write_rest(out: Path, plan: _Plan, broken: Sequence[tuple[Path, str]]) -> None:
    with _writing(out):
        _write_skipped(out, broken)
        _write_lists(out, plan.split_lists({path for path, _ in broken}))
        shutil.rmtree(out / _SCRATCH, ignore_errors=True)


def prepare(
    given: Sequence[Path],
    out: Path,
    *,
    official: Official | None = None,
    splits: Path | None = None,
    test_pattern: Sequence[str] = (),
    short_side: int = 256,
    quality: int = 95,
    workers: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> PrepareReport:
    """Write frames and split lists of videos; called again, it goes on where it was stopped.

    Args:
        given: Folders and archives, in any order, of videos in class folders or of frames, and besides, if they are to
            come from here, of official split lists and scanpath rows. A dataset that is there takes rows alone, too.
        out: The dataset's folder, `<root>/<dataset>`; nothing is written elsewhere.
        official: Refuse split lists other than those of this release, and say when videos are missing.
        splits: Official split lists (UCF101 or HMDB51 style), a folder or an archive. They are copied; videos that none
            of them names are left out.
        test_pattern: Without official lists: patterns (fnmatch) of the names of the test videos; the rest trains.
        short_side: Of the frames, px; the aspect is kept. Frames out of archives are copied as they are.
        quality: Of the JPEG files, 1 to 100.
        workers: Processes; None: one per core.
        on_error: What to do about broken videos once all others are finished: "stop" raises, "skip" lists them in
            `out/skipped.txt` and leaves them out of the split lists.

    Raises:
        DataError: Something is wrong with the arguments, an archive, the lists, a video (on_error "stop") or the disk.
    """
    began = time.monotonic()
    _check_arguments(given, out, splits, test_pattern, short_side, quality)
    contents, lists = _find(given, splits, test_pattern, lambda: _scratch(out))
    plan = _plan(contents, lists, test_pattern, given, out, official)
    plan.split_lists(())  # Wrong patterns should fail before the work, not after.
    if plan.sources:
        made = {"short_side": short_side, "quality": quality} if contents.videos else {"frames": "as given"}
        _claim(out, {"version": 1, **made})
    work = _work(plan.sources, out, short_side, quality)
    if contents.frames:
        check_space(out, sum(job.source.size for job in work.jobs), str(given[0]))
    # UCF101's archive of frames takes 1.7 GB of memory to list, in every process.
    with _writing(out):
        work.run(out / _STAMPS, 1 if contents.frames else workers)
    if work.broken and on_error == "stop":
        raise _broken(work)
    scanpaths = {
        grid: write_scanpaths(files, out / scanpath_folder(grid)) for grid, files in sorted(contents.scanpaths.items())
    }
    _write_rest(out, plan, work.broken)
    return _report(out, contents, plan, work, scanpaths, time.monotonic() - began)


def _broken(work: _Work) -> DataError:
    path, fault = work.broken[0]
    more = f"; {len(work.broken) - 1} more videos are broken" if len(work.broken) > 1 else ""
    return DataError(
        f"{path}: {fault}{more}; replace or remove it and run again, or leave broken ones out (--skip-broken)"
    )


def _report(
    out: Path, contents: Contents, plan: _Plan, work: _Work, scanpaths: dict[int, int], seconds: float
) -> PrepareReport:
    return PrepareReport(
        folder=out,
        classes=plan.classes,
        written=work.written,
        already_there=work.done,
        replaced=work.replaced,
        frames=work.frames,
        seconds=seconds,
        skipped=tuple(work.broken),
        ignored=tuple(contents.ignored),
        unlisted=tuple(source.path for source in plan.unlisted),
        absent=plan.absent,
        scanpaths=scanpaths,
    )
