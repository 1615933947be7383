"""The journal: all that happens in a run, one JSON line each, appended by the trainer and read by the shipper.

    {"t": <unix ms>, "kind": "attempt", "number": 1}      first line of every start and every resume; t never falls
    {"t": .., "kind": "stage", "name": "pretrain"}
    {"t": .., "kind": "metrics", "step": 10, "values": {"pretrain/loss": 1.2}}
    {"t": .., "kind": "artifact", "path": "figures/masks.png"}   below the run's folder, complete when the line is there
    {"t": .., "kind": "tags", "values": {"encoder": "r3d"}}
    {"t": .., "kind": "dataset", "name": "toy split 1 test", "digest": "4f..", "context": "test", "source": "data/toy",
     "profile": {"videos": 80}}                                                                   (in one line)
    {"t": .., "kind": "end", "status": "finished" | "stopped"}

A line ends with a line feed, so a line without one was torn by a kill and counts as not written. NaN, Infinity and
-Infinity stand as Python's json writes them.

One clean curve after a resume: a checkpoint holds the journal's length at its moment (the mark), and shipping.json the
offset up to which lines may have reached the server (attempted). The journal is cut at the larger of the two. What
stays beyond the mark may be on the server, where no point can ever be removed, so its points keep their first time and
are not written again while the steps after the checkpoint are repeated.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from saccade.engine.clock import SteadyTime
from saccade.errors import RunError
from saccade.strict_json import parse_json

__all__ = ["Event", "Journal", "last_attempt", "last_time_ms", "read_journal"]

Event = dict[str, Any]
"""One line: always with `t` (unix ms) and `kind`."""

_MAX_LINE = 1 << 24
"""Bytes; a line of all metrics has some hundreds."""
_MOST = 2**63 - 1
_LAST_MS = 253_402_300_799_999
"""The end of the year 9999, after which Python's dates do not go."""

_TAIL_BYTES = 1 << 16
"""Longer than any line."""


class Journal:
    """The trainer's end of a journal; `Journal.open` makes one. What cannot be written is a `RunError`."""

    def __init__(self, descriptor: int, last_steps: dict[str, int], after_ms: int = 0) -> None:
        self._descriptor = descriptor
        self._last_steps = last_steps
        self._time = SteadyTime(after_ms)

    @classmethod
    def open(cls, path: str | Path, *, mark: int | None, attempted: int) -> Self:
        """Open for an attempt: cut what is beyond both offsets, drop a torn last line, write the attempt's line.

        Args:
            path: journal.jsonl; made when it is not there.
            mark: Offset that the checkpoint holds from which training goes on; None without a checkpoint.
            attempted: Offset up to which lines may have reached the tracking server.

        Raises:
            RunError: The journal is damaged, or shorter than the checkpoint says.
        """
        path = Path(path)
        number = last_attempt(path) + 1
        if number > _MOST:
            raise RunError(f"{path}: counts {number - 1} attempts at this run; restore the file or start a new run")
        length = path.stat().st_size if path.exists() else 0
        if mark is not None and mark > length:
            raise RunError(
                f"{path}: has {length} bytes but had {mark} when the checkpoint was taken; "
                "restore the file or start a new run"
            )
        kept, last_steps, after_ms = _replay(path, max(mark or 0, attempted))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(descriptor, kept)
        journal = cls(descriptor, last_steps, after_ms)
        journal._write("attempt", {"number": number})
        return journal

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note metrics of an optimiser step; points that an earlier attempt has written are left out.

        Steps of a key only grow, so a step that is not beyond the key's last one is there already.
        """
        new = {key: float(value) for key, value in values.items() if step > self._last_steps.get(key, -1)}
        if new:
            self._write("metrics", {"step": step, "values": new})
            self._last_steps |= dict.fromkeys(new, step)

    def artifact(self, path: str | Path) -> None:
        """Announce a file or folder that is complete; `path` is relative to the run's folder."""
        self._write("artifact", {"path": Path(path).as_posix()})

    def stage(self, name: str) -> None:
        """Say what the run does from now on."""
        self._write("stage", {"name": name})

    def tags(self, values: Mapping[str, str]) -> None:
        """Say what the run is about."""
        self._write("tags", {"values": {key: str(value) for key, value in values.items()}})

    def dataset(self, *, name: str, digest: str, context: str, source: str, profile: Mapping[str, int]) -> None:
        """Say what the run learns from or is tested on."""
        self._write(
            "dataset",
            {"name": name, "digest": digest, "context": context, "source": source, "profile": dict(profile)},
        )

    def end(self, status: Literal["finished", "stopped"]) -> None:
        """Note that the trainer leaves of its own will, and make sure that all of it is on disk."""
        self._write("end", {"status": status})
        self._sync()

    def mark(self) -> int:
        """The journal's length in bytes, all of it on disk."""
        self._sync()
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, kind: str, content: Mapping[str, object]) -> None:
        line = json.dumps({"t": self._time.now_ms(), "kind": kind, **content}) + "\n"
        data = line.encode()
        try:
            # One write, so that a kill leaves at most one torn line.
            written = os.write(self._descriptor, data)
            if written != len(data):  # A full disk takes the beginning; a torn line may only ever be the last one.
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _unwritable(error) from None

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _unwritable(error) from None


def _unwritable(error: OSError) -> RunError:
    return RunError(
        f"journal.jsonl cannot be written ({error.strerror}); all before is kept: make room, then resume the run"
    )


def read_journal(path: str | Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Yield (event, offset of the line after it) from `offset` on, leaving out a torn last line.

    Args:
        path: journal.jsonl; one that does not exist is empty.
        offset: Where a line begins.

    Raises:
        RunError: A line that is not one of a journal, with its number.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        while line := file.readline(_MAX_LINE):
            if not line.endswith(b"\n") and len(line) < _MAX_LINE:
                return
            event = _parse(line) if line.endswith(b"\n") else None
            if event is None:
                number = _lines_before(path, offset) + 1
                raise RunError(f"{path}:{number}: not a line of a journal; restore the file or start a new run")
            offset += len(line)
            yield event, offset


def _replay(path: Path, cut: int) -> tuple[int, dict[str, int], int]:
    """Offset of the last line's end that is not beyond `cut`, each metric's last step up to there, and its time."""
    kept, last_steps, time_ms = 0, dict[str, int](), 0
    events = read_journal(path)
    while kept < cut:  # Not a for loop: damage beyond the cut does no harm, so nothing there is read.
        event, following = next(events, (None, 0))
        if event is None or following > cut:
            break
        kept, time_ms = following, event["t"]
        if event["kind"] == "metrics":
            last_steps |= {key: max(event["step"], last_steps.get(key, -1)) for key in event["values"]}
    return kept, last_steps, time_ms


def last_time_ms(path: str | Path) -> int:
    """Timestamp of a journal's last whole line; 0 when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    events = filter(None, map(_parse, reversed(lines)))
    return next((int(event["t"]) for event in events), 0)


def last_attempt(path: str | Path) -> int:
    """Number of the latest attempt in a journal; 0 when there is none. Damaged lines are passed over."""
    number = 0
    if Path(path).exists():
        with open(path, "rb") as file:
            while line := file.readline(_MAX_LINE):
                if b'"attempt"' in line and line.endswith(b"\n"):
                    event = _parse(line)
                    if event is not None and event["kind"] == "attempt":
                        number = max(number, event["number"])
    return number


_CONTENT: dict[str, dict[str, type]] = {
    "attempt": {"number": int},
    "stage": {"name": str},
    "metrics": {"step": int, "values": dict},
    "artifact": {"path": str},
    "tags": {"values": dict},
    "dataset": {"name": str, "digest": str, "context": str, "source": str, "profile": dict},
    "end": {"status": str},
}


def _parse(line: bytes) -> Event | None:
    """None for what no journal holds."""
    try:
        event = parse_json(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not _is_whole(event.get("t"), _LAST_MS):
        return None
    content = _CONTENT.get(str(event.get("kind")))
    if content is None or not all(isinstance(event.get(key), kind) for key, kind in content.items()):
        return None
    fits = _FITS.get(event["kind"])
    if (fits is not None and not fits(event)) or not _is_text(line, event):
        return None
    return event


def _is_whole(value: object, most: int = _MOST) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= _MOST)


_FITS: dict[str, Callable[[Event], bool]] = {
    "attempt": lambda event: _is_whole(event["number"]),
    "metrics": lambda event: _is_whole(event["step"]) and all(map(_is_number, event["values"].values())),
    "tags": lambda event: all(isinstance(value, str) for value in event["values"].values()),
    "dataset": lambda event: all(map(_is_whole, event["profile"].values())),
    "end": lambda event: event["status"] in ("finished", "stopped"),
}
"""What more has to hold than the types in `_CONTENT`."""


def _is_text(line: bytes, event: Event) -> bool:
    """Whether no text in it has a NUL or half a letter, which can be no name of a file and go to no server."""
    if b"\\u" not in line:
        return True
    text = json.dumps(event, ensure_ascii=False)
    return "\\u0000" not in text and text.encode("utf-8", "replace").decode() == text


def _lines_before(path: str | Path, offset: int) -> int:
    with open(path, "rb") as file:
        return file.read(offset).count(b"\n")
