"""Which files go, when, in what order, and that what arrives is what a moment's file was."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from saccade import atomic
from saccade.checksum import file_sha256
from saccade.journal import Journal
from saccade.run_dir import RunDir, create_run
from saccade.spec import CheckpointSpec, Spec
from saccade.tracking import uploads as uploads_module
from saccade.tracking.errors import OutageError
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.uploads import Uploads

LAST, BEST, EVALUATION = (f"checkpoints/{name}.pt" for name in ("last", "best", "evaluation"))


class Server:
    """Takes files slowly: `meanwhile` is done between the first half of one and the second."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.order: list[str] = []
        self.tags: dict[str, str] = {}
        self.meanwhile: Any = lambda path: None
        self.away = False

    def upload(self, mlflow_run_id: str, file: Path, path: str) -> None:
        if self.away:
            raise OutageError("away")
        assert file.name == path.rpartition("/")[2]  # MLflow goes by it
        with file.open("rb") as stream:
            content = stream.read(file.stat().st_size // 2)
            self.meanwhile(path)
            content += stream.read()
        self.files[path] = content
        self.order.append(path)

    def log(self, mlflow_run_id: str, points: Any, tags: dict[str, str]) -> dict[str, str]:
        self.tags |= tags
        return {}


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(uploads_module, "time", clock)
    return clock


@pytest.fixture
def server() -> Any:
    return Server()


def made(tmp_path: Path, minutes: float | None = 10.0) -> tuple[RunDir, ShippingState, Uploads]:
    run = create_run(tmp_path / "runs", Spec(name="toy", checkpoint=CheckpointSpec(track_every_minutes=minutes)), [])
    (run.path / "checkpoints").mkdir()
    state = ShippingState(folder=run.path)
    return run, state, Uploads(run, state, lambda _: None, lambda _: None)


def put(run: RunDir, name: str, content: bytes) -> None:
    """As checkpoints are written: under another name, then renamed."""
    temporary = run.path / "temporary"
    temporary.write_bytes(content)
    temporary.replace(run.path / name)


def all_sent(uploads: Uploads, server: Any) -> None:
    while uploads.step(server):
        pass


def test_a_checkpoint_replaced_while_it_is_sent_arrives_whole(tmp_path: Path, server: Any, clock: Clock) -> None:
    run, state, uploads = made(tmp_path, 0)
    put(run, LAST, b"old" * 1000)
    server.meanwhile = lambda path: put(run, LAST, b"new" * 900)
    uploads.watch()
    all_sent(uploads, server)
    assert server.files[LAST] == b"old" * 1000
    assert state.uploaded[LAST] == hashlib.sha256(b"old" * 1000).hexdigest()
    server.meanwhile = lambda path: None
    uploads.watch()
    all_sent(uploads, server)
    assert server.files[LAST] == b"new" * 900
    assert not (run.path / ".shipping").exists()


def test_the_same_where_there_are_no_links(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic.os, "link", refuse)
    run, _, uploads = made(tmp_path, 0)
    put(run, LAST, b"old" * 1000)
    server.meanwhile = lambda path: put(run, LAST, b"new" * 900)
    uploads.watch()
    all_sent(uploads, server)
    assert server.files[LAST] == b"old" * 1000


def test_another_file_that_changes_meanwhile_is_sent_again(tmp_path: Path, server: Any) -> None:
    run, state, uploads = made(tmp_path)
    (run.path / "summary.md").write_text("old " * 1000)
    contents = ["newer " * 900, "newest " * 800]
    server.meanwhile = lambda path: (run.path / path).write_text(contents.pop(0)) if contents else None
    uploads.add(["summary.md"])
    all_sent(uploads, server)
    assert server.order == ["summary.md"] * 3
    assert server.files["summary.md"] == b"newest " * 800
    assert state.uploaded["summary.md"] == hashlib.sha256(b"newest " * 800).hexdigest()


def test_an_outage_in_the_middle_of_a_folder_leaves_none_of_its_files_out(
    tmp_path: Path, server: Any, clock: Clock
) -> None:
    run, state, uploads = made(tmp_path)
    for name in "abcd":
        (run.path / name).mkdir()
        for number in range(3):
            (run.path / name / f"{number}.txt").write_text(f"{name} {number}")
    uploads.add("abcd")

    def go_away(path: str) -> None:
        if path.endswith("1.txt"):
            server.meanwhile, server.away = (lambda path: None), True
            raise OutageError("in the middle")

    for _ in range(4):
        server.meanwhile, server.away = go_away, False
        clock.now += 60
        all_sent(uploads, server)
    server.away = False
    clock.now += 60
    all_sent(uploads, server)
    assert sorted(server.order) == [f"{name}/{number}.txt" for name in "abcd" for number in range(3)]
    assert state.pending == []


def test_a_file_that_may_not_be_read_is_refused_and_holds_nothing_up(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state, _ = made(tmp_path)
    refused: dict[str, str] = {}
    uploads = Uploads(run, state, lambda _: None, refused.update)
    for name in ("secret.txt", "open.txt"):
        put(run, name, b"x")

    def denied(path: Path) -> str:  # chmod means nothing to root
        if path.name == "secret.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return file_sha256(path)

    monkeypatch.setattr(uploads_module, "file_sha256", denied)
    uploads.add(["secret.txt", "open.txt"])
    all_sent(uploads, server)
    assert server.files == {"open.txt": b"x"}
    assert state.pending == []
    assert refused == {"file secret.txt": f"{run.path / 'secret.txt'} cannot be read or held: Permission denied"}


def test_the_journal_goes_before_a_checkpoint(tmp_path: Path, server: Any, clock: Clock) -> None:
    run, state, uploads = made(tmp_path, 0)
    with Journal.open(run.journal, mark=None, attempted=0) as journal:
        journal.metrics({"a": 1.0}, 1)
        put(run, LAST, b"1" * 10)
        length = journal.mark()
        uploads.watch()
        assert not uploads.step(server)  # Nothing of the journal is sent yet.
        assert uploads.journal_first
        journal.metrics({"a": 2.0}, 2)
        put(run, LAST, b"2" * 10)
        state.offset = length  # Sent by now, and no more than what was there.
        all_sent(uploads, server)
        assert server.order == ["journal.jsonl", LAST]
        assert server.files["journal.jsonl"] == run.journal.read_bytes()[:length]
        assert server.files[LAST] == b"1" * 10
        assert server.tags == {"saccade.checkpoint": LAST}
        # The next one waits in vain if the trainer is killed and its successor cuts what was to be sent: it does not.
        put(run, LAST, b"3" * 10)
        uploads.watch()
        assert not uploads.step(server)
    with Journal.open(run.journal, mark=length, attempted=0):
        state.offset = run.journal.stat().st_size
        all_sent(uploads, server)
    assert server.files[LAST] == b"3" * 10


def test_when_those_that_roll_are_due(tmp_path: Path, server: Any, clock: Clock) -> None:
    run, state, uploads = made(tmp_path, 10.0)
    for name in (LAST, BEST):
        put(run, name, name.encode())
    uploads.add([BEST])  # announced by the trainer: it still has its time
    uploads.watch()
    assert state.pending == []
    clock.now += 599
    uploads.watch()
    assert state.pending == []
    clock.now += 2
    uploads.watch()
    assert state.pending == [LAST, BEST]
    all_sent(uploads, server)
    put(run, LAST, b"later")
    clock.now += 599
    uploads.watch()
    assert state.pending == []
    # The end is always due. A finished run is kept as its last epoch; its best may come at any time.
    put(run, BEST, b"better")
    uploads.watch("FINISHED")
    assert state.pending == [BEST]
    uploads.watch("KILLED")
    assert state.pending == [BEST, LAST]
    all_sent(uploads, server)
    uploads.watch("KILLED")
    assert state.pending == []


def test_a_run_that_was_given_up_leaves_its_best_only(tmp_path: Path, server: Any, clock: Clock) -> None:
    run, state, uploads = made(tmp_path, 10.0)
    state.goes_on = False
    for name in (LAST, BEST, EVALUATION):
        put(run, name, name.encode())
    uploads.watch("KILLED")
    assert state.pending == [BEST]


def test_never_where_they_are_to_stay_here(tmp_path: Path, server: Any, clock: Clock) -> None:
    run, state, uploads = made(tmp_path, None)
    for name in (LAST, BEST, EVALUATION):
        put(run, name, name.encode())
    clock.now += 1e6
    uploads.watch()
    assert state.pending == []
    uploads.watch("FAILED")
    assert state.pending == []


def test_the_same_content_is_sent_once_and_the_newest_is_named(tmp_path: Path, server: Any, clock: Clock) -> None:
    run, _, uploads = made(tmp_path, 0)
    put(run, LAST, b"epoch 60")
    (run.path / "checkpoints/epoch_0060.pt").hardlink_to(run.path / LAST)
    uploads.add(["checkpoints/epoch_0060.pt"])
    uploads.watch()
    all_sent(uploads, server)
    assert server.order == ["checkpoints/epoch_0060.pt"]
    assert server.tags == {"saccade.checkpoint": "checkpoints/epoch_0060.pt"}
    put(run, LAST, b"epoch 61")
    uploads.watch()
    all_sent(uploads, server)
    assert server.tags == {"saccade.checkpoint": LAST}
    # A kept one that was held up until now is older.
    (run.path / "checkpoints/epoch_0059.pt").write_bytes(b"epoch 59")
    os.utime(run.path / "checkpoints/epoch_0059.pt", (1, 1))
    uploads.add(["checkpoints/epoch_0059.pt"])
    all_sent(uploads, server)
    assert "checkpoints/epoch_0059.pt" in server.files
    assert server.tags == {"saccade.checkpoint": LAST}


def test_a_server_that_is_away_is_asked_less_and_less(tmp_path: Path, server: Any, clock: Clock) -> None:
    run, state, uploads = made(tmp_path, 0)
    put(run, LAST, b"old")
    uploads.watch()
    server.away = True
    asked = []
    for _ in range(300):
        clock.now += 0.1
        before, uploads.trouble = uploads.trouble, ""
        uploads.step(server)
        asked.append(bool(uploads.trouble))
        uploads.trouble = uploads.trouble or before
    assert 4 <= sum(asked) <= 7  # after 1, 2, 4, 8, 10 s
    put(run, LAST, b"new")
    server.away = False
    uploads.retry_now()
    all_sent(uploads, server)
    assert server.files[LAST] == b"old"  # what was held
    uploads.watch("FAILED")
    all_sent(uploads, server)
    assert server.files[LAST] == b"new"
    assert state.pending == []
