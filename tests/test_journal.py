"""The journal: what is written is read, and a resumed one holds each point once, wherever it was cut."""

import json
import math
import os
import random
from pathlib import Path

import pytest

from saccade.errors import RunError
from saccade.journal import Journal, last_attempt, last_time_ms, read_journal


def events(path: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in event.items() if key != "t"} for event, _ in read_journal(path)]


def points(path: Path, key: str) -> list[tuple[int, float]]:
    return [
        (event["step"], event["values"][key])
        for event, _ in read_journal(path)
        if event["kind"] == "metrics" and key in event["values"]
    ]


def start(path: Path, *, mark: int | None = None, attempted: int = 0) -> Journal:
    return Journal.open(path, mark=mark, attempted=attempted)


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        journal.stage("pretrain")
        journal.tags({"encoder": "r3d"})
        journal.dataset(name="toy", digest="4f", context="test", source="data/toy", profile={"videos": 80})
        journal.metrics({"loss": 1.5, "epoch": 1}, 10)
        journal.artifact(Path("figures") / "a.png")
        journal.end("finished")
    assert events(path) == [
        {"kind": "attempt", "number": 1},
        {"kind": "stage", "name": "pretrain"},
        {"kind": "tags", "values": {"encoder": "r3d"}},
        {
            "kind": "dataset",
            "name": "toy",
            "digest": "4f",
            "context": "test",
            "source": "data/toy",
            "profile": {"videos": 80},
        },
        {"kind": "metrics", "step": 10, "values": {"loss": 1.5, "epoch": 1.0}},
        {"kind": "artifact", "path": "figures/a.png"},
        {"kind": "end", "status": "finished"},
    ]
    assert all(isinstance(event["t"], int) and event["t"] > 1_700_000_000_000 for event, _ in read_journal(path))


def test_offsets_are_those_of_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        journal.stage("a")
        middle = journal.mark()
        journal.stage("b")
        assert journal.mark() == path.stat().st_size
    assert [event["name"] for event, _ in read_journal(path, middle)] == ["b"]
    assert [end for _, end in read_journal(path)][1:] == [middle, path.stat().st_size]


def test_values_that_are_not_finite_survive(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        journal.metrics({"a": math.nan, "b": math.inf, "c": -math.inf}, 1)
    values = list(read_journal(path))[-1][0]["values"]
    assert math.isnan(values["a"])
    assert (values["b"], values["c"]) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    ("mark", "attempted", "kept"),
    [
        (None, 0, 0),
        (2, 0, 2),
        (2, 3, 3),
        (3, 2, 3),
        (None, 2, 2),
        (0, 4, 4),
    ],
)
def test_resume_cuts_at_the_larger_offset(tmp_path: Path, mark: int | None, attempted: int, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        for step in (1, 2, 3):
            journal.metrics({"loss": step / 8}, step)
    ends = [0, *(end for _, end in read_journal(path))]
    with start(path, mark=None if mark is None else ends[mark], attempted=ends[attempted]):
        pass
    assert points(path, "loss") == [(step, step / 8) for step in (1, 2, 3) if step < kept]
    assert events(path)[-1] == {"kind": "attempt", "number": 2}


def test_a_point_that_stands_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        journal.metrics({"loss": 0.5}, 1)
        mark = journal.mark()
        journal.metrics({"loss": 0.25}, 2)
    before = list(read_journal(path))
    with start(path, mark=mark, attempted=path.stat().st_size) as journal:
        size = journal.mark()
        journal.metrics({"loss": 99.0}, 2)
        assert journal.mark() == size  # The whole line is left out when nothing of it is new.
        journal.metrics({"loss": 99.0, "accuracy": 0.5}, 2)
        journal.metrics({"loss": 0.125}, 3)
    assert points(path, "loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert points(path, "accuracy") == [(2, 0.5)]
    assert list(read_journal(path))[:3] == before  # With the times they had.


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        journal.metrics({"loss": 0.5}, 1)
        whole = journal.mark()
        journal.metrics({"loss": 0.25}, 2)
    os.truncate(path, path.stat().st_size - 1)
    assert points(path, "loss") == [(1, 0.5)]
    with start(path, mark=0, attempted=path.stat().st_size) as journal:
        journal.metrics({"loss": 0.75}, 2)
    assert path.read_bytes()[:whole].count(b"\n") == 2
    assert points(path, "loss") == [(1, 0.5), (2, 0.75)]


def test_attempts_are_counted_though_their_lines_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert last_attempt(path) == 0
    for number in (1, 2, 3):
        with start(path):  # Each dies before its first checkpoint, so the next one cuts everything.
            pass
        assert events(path) == [{"kind": "attempt", "number": number}]
        assert last_attempt(path) == number


@pytest.mark.parametrize(
    "damage",
    [
        *(b"\0\0\0\n", b"{}\n", b'{"t": 1, "kind": "dance"}\n', b"[1]\n", b'{"t":1,"kind":[]}\n'),
        b'{"t": 1, "kind": "metrics", "step": -1, "values": {}}\n',
        b'{"t": 1, "kind": "tags", "values": {"encoder": "a\\u0000b"}}\n',
        b'{"t": 1, "kind": "tags", "values": {"encoder": "\\ud800"}}\n',
    ],
)
def test_damage_names_the_line(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        journal.stage("a")
        offset = journal.mark()
    path.write_bytes(path.read_bytes() + damage + b'{"t": 1, "kind": "stage", "name": "b"}\n')
    for begin in (0, offset):
        with pytest.raises(RunError, match=r"journal.jsonl:3: not a line of a journal"):
            list(read_journal(path, begin))
    with start(path, mark=offset, attempted=0) as journal:  # It lies beyond the cut, so it does no harm.
        journal.stage("c")
    assert [event.get("name") for event in events(path)] == [None, "a", None, "c"]


def test_a_journal_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        mark = journal.mark()
    os.truncate(path, 3)
    with pytest.raises(RunError, match=rf"has 3 bytes but had {mark} when the checkpoint was taken"):
        start(path, mark=mark)


def test_a_count_of_attempts_that_cannot_go_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    whole = json.dumps({"t": 1, "kind": "attempt", "number": 2**63 - 1}).encode() + b"\n"  # what a reader takes at most
    path.write_bytes(whole)
    with pytest.raises(RunError, match=rf"counts {2**63 - 1} attempts at this run; restore the file"):
        start(path)
    assert path.read_bytes() == whole


def test_letters_outside_of_ascii_are_text(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        journal.tags({"host": "\u00dcber-\U0001f441"})
    assert b"\\u00dc" in path.read_bytes()
    assert events(path)[1]["values"] == {"host": "\u00dcber-\U0001f441"}


def test_the_time_of_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert last_time_ms(path) == 0
    path.write_bytes(b'{"t": 5, "kind": "stage", "name": "a"}\n{"t": 6, "kind": "dance"}\n{"t": 7')
    assert last_time_ms(path) == 5


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "journal.jsonl")) == []


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    journal = start(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with pytest.raises(RunError, match=r"journal.jsonl cannot be written \(No space left on device\); all before is"):
        journal.stage("a")
    monkeypatch.undo()
    journal.stage("b")
    journal.close()
    assert [event.get("name") for event in events(path)] == [None, "b"]


def test_a_disk_that_does_not_take_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with start(tmp_path / "journal.jsonl") as journal:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(RunError, match=r"^journal.jsonl cannot be written \(Input/output error\)"):
            journal.mark()


def test_what_only_sounds_like_an_attempt_is_none(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with start(path) as journal:
        journal.tags({"attempt": "7"})
    with path.open("ab") as file:
        file.write(b'"attempt", half a line\n')
    assert last_attempt(path) == 1


def test_a_journal_closed_twice_closes_nothing_else(tmp_path: Path) -> None:
    journal = start(tmp_path / "journal.jsonl")
    journal.close()
    with (tmp_path / "other").open("w") as other:  # It has the number that the journal's file had.
        journal.close()
        other.write("whole")
    assert (tmp_path / "other").read_text() == "whole"


@pytest.mark.parametrize("seed", range(60))
def test_a_run_killed_at_random_draws_one_clean_curve(tmp_path: Path, seed: int) -> None:
    """A trainer is killed at random places, with a shipper at random distance behind it."""
    draw = random.Random(seed)
    path, last = tmp_path / "journal.jsonl", 40
    mark, saved, shipped, sent = None, 0, 0, dict[tuple[str, int], tuple[int, float]]()

    def ship() -> None:
        nonlocal shipped
        for event, end in read_journal(path, shipped):
            if draw.random() < 0.3:
                return
            for key, value in event.get("values", {}).items() if event["kind"] == "metrics" else ():
                # MLflow keeps a second point of a step if its time or value is another.
                assert sent.setdefault((key, event["step"]), (event["t"], value)) == (event["t"], value)
            shipped = end

    while True:
        journal = start(path, mark=mark, attempted=shipped)
        step, death = saved, draw.randint(saved, last + 3)
        while step < last and step != death:
            step += 1
            journal.metrics({"loss": 1 / step, "epoch": step // 7} if step % 2 else {"loss": 1 / step}, step)
            if draw.random() < 0.3:
                ship()
            if draw.random() < 0.2:
                mark, saved = journal.mark(), step
        journal.close()
        if step == last:
            break
        if draw.random() < 0.5:  # The last line is torn, unless it has left already.
            os.truncate(path, max(shipped, path.stat().st_size - draw.randint(0, 10), mark or 0))
    while shipped < path.stat().st_size:
        ship()
    wanted = {("loss", step): 1 / step for step in range(1, last + 1)}
    wanted |= {("epoch", step): float(step // 7) for step in range(1, last + 1, 2)}
    assert {point: value for point, (_, value) in sent.items()} == wanted
    assert points(path, "loss") == [(step, 1 / step) for step in range(1, last + 1)]


def test_a_line_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: written.append(data) or write(descriptor, data))
    with start(tmp_path / "journal.jsonl") as journal:
        journal.metrics({f"metric {index}": index for index in range(500)}, 1)
    assert len(written) == 2
    assert len(json.loads(written[1])["values"]) == 500
