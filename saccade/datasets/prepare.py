"""From video files in class folders to a dataset in the published layout: frames and split lists."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from saccade.datasets.extract import Job, Outcome, extract, start_worker
from saccade.datasets.layout import FRAMES_FOLDER, SPLIT_FOLDER
from saccade.datasets.sources import Source, find_sources, listed_sources, official_lists, own_lists
from saccade.errors import DataError
from saccade.progress import progress

__all__ = ["PrepareReport", "prepare"]

_MARKER = "prepare.json"
_SKIPPED = "skipped.txt"


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` has done."""

    folder: Path
    classes: int
    written: int
    """Videos written now."""
    already_there: int
    """Videos that an earlier call had finished."""
    frames: int
    """Frames written now."""
    seconds: float
    skipped: tuple[tuple[Path, str], ...] = ()
    """Broken videos and what is wrong with them."""
    ignored: tuple[Path, ...] = ()
    """Files and folders that are no videos in class folders."""
    unlisted: tuple[Path, ...] = ()
    """Videos that no official list names; left out."""
    absent: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Per official split: listed training and test videos that are not there."""

    def __str__(self) -> str:
        done = f"{self.written} videos ({self.frames} frames) written in {self.seconds:.0f} s"
        lines = [f"{self.folder}: {done}, {self.already_there} already there, {self.classes} classes"]
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


def _check_arguments(
    videos: Path, out: Path, splits: Path | None, test_pattern: Sequence[str], short_side: int, quality: int
) -> None:
    if (splits is None) == (not test_pattern):
        raise DataError(
            "which videos test is said by either a folder of official split lists (--splits) or patterns of their "
            "names (--test 'lena_*'); give one of the two"
        )
    if not 16 <= short_side <= 4096:
        raise DataError(f"short side {short_side} px; it must be 16 to 4096")
    if not 1 <= quality <= 100:
        raise DataError(f"JPEG quality {quality}; it must be 1 to 100")
    if out.resolve().is_relative_to(videos.resolve()):
        raise DataError(f"{out}: the dataset cannot lie within the folder of the videos; give another one")


def _claim(out: Path, short_side: int, quality: int) -> None:
    """Make the folder ours, or see that it is, with frames of the same kind."""
    wanted = {"version": 1, "short_side": short_side, "quality": quality}
    marker = out / _MARKER
    try:
        found = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else None
    except ValueError:
        found = "unreadable"
    if found not in (None, wanted):
        raise DataError(f"{out}: was prepared with {found}, asked for {wanted}; give another folder, or remove it")
    try:
        if found is None and out.exists() and any(out.iterdir()):
            raise DataError(
                f"{out}: holds files, and no {_MARKER} that says they were prepared here; give a new folder"
            )
        (out / FRAMES_FOLDER).mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: cannot be written to: {error.strerror}") from error


def _run(jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    """Outcomes as they come."""
    if workers == 1 or len(jobs) < 2:
        yield from map(extract, jobs)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn"), initializer=start_worker
    )
    try:
        for future in as_completed([pool.submit(extract, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise DataError(
            "a worker died while decoding, of lack of memory or by a fault of the decoder; run the same again to go on "
            "with the rest, with 1 worker to see which video it is"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _extract_all(jobs: Sequence[Job], done: int, workers: int) -> tuple[int, int, list[tuple[Path, str]]]:
    """Videos and frames written, and the broken ones."""
    written, frames, broken = 0, 0, []
    with progress(desc="videos to frames", unit="video", total=done + len(jobs), initial=done) as bar:
        for outcome in _run(jobs, workers):
            bar.update()
            if outcome.fault is None:
                written, frames = written + 1, frames + outcome.frames
            else:
                broken.append((outcome.job.source, outcome.fault))
    return written, frames, sorted(broken)


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


def _lists(
    sources: Sequence[Source], splits: Path | None, test_pattern: Sequence[str], skipped: set[Path]
) -> dict[str, bytes]:
    if splits is not None:
        return official_lists(splits, {source.name for source in sources if source.path in skipped})
    kept = [source for source in sources if source.path not in skipped]
    return {name: text.encode() for name, text in own_lists(kept, test_pattern).items()}


def prepare(
    videos: Path,
    out: Path,
    *,
    splits: Path | None = None,
    test_pattern: Sequence[str] = (),
    short_side: int = 256,
    quality: int = 95,
    workers: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> PrepareReport:
    """Write frames and split lists of a folder of videos; called again, it goes on where it was stopped.

    Args:
        videos: Holds a folder of video files for each class.
        out: The dataset's folder, `<root>/<dataset>`.
        splits: Official split lists (UCF101 or HMDB51 style), copied. Videos that none of them names are left out.
        test_pattern: Without official lists: patterns (fnmatch) of the names of the test videos; the rest trains.
        short_side: Of the frames, px; the aspect is kept.
        quality: Of the JPEG files, 1 to 100.
        workers: Processes; None: one per core.
        on_error: What to do about broken videos once all others are finished: "stop" raises, "skip" lists them in
            `out/skipped.txt` and leaves them out of the split lists.

    Raises:
        DataError: Something is wrong with the arguments, the lists, a video (on_error "stop") or the disk.
    """
    began = time.monotonic()
    _check_arguments(videos, out, splits, test_pattern, short_side, quality)
    sources, ignored = find_sources(videos)
    unlisted: list[Source] = []
    absent: dict[int, tuple[int, int]] = {}
    if splits is not None:
        sources, unlisted, absent = listed_sources(sources, splits)
    _lists(sources, splits, test_pattern, set())  # Wrong patterns should fail before the work, not after.
    _claim(out, short_side, quality)
    finished = set(os.listdir(out / FRAMES_FOLDER))
    jobs = [
        Job(source.path, out / FRAMES_FOLDER / source.name, short_side, quality)
        for source in sources
        if source.name not in finished
    ]
    done = len(sources) - len(jobs)
    written, frames, broken = _extract_all(jobs, done, workers or os.cpu_count() or 1)
    if broken and on_error == "stop":
        path, fault = broken[0]
        more = f"; {len(broken) - 1} more videos are broken" if len(broken) > 1 else ""
        raise DataError(f"{path}: {fault}{more}; replace or remove it and run again, or choose to skip broken videos")
    try:
        _write_skipped(out, broken)
        _write_lists(out, _lists(sources, splits, test_pattern, {path for path, _ in broken}))
    except OSError as error:
        raise DataError(f"{out}: the split lists cannot be written: {error.strerror}") from error
    return PrepareReport(
        folder=out,
        classes=len({source.class_name for source in sources}),
        written=written,
        already_there=done,
        frames=frames,
        seconds=time.monotonic() - began,
        skipped=tuple(broken),
        ignored=tuple(ignored),
        unlisted=tuple(source.path for source in unlisted),
        absent=absent,
    )
