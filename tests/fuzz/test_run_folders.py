"""Files of a run's folder made wrong: the journal, run.json, shipping.json, weights.json, markers of other folders."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from saccade.datasets.marker import read_marker
from saccade.datasets.scanpaths import compute_scanpaths, read_parameters
from saccade.errors import DataError, RunError
from saccade.journal import Event, Journal, last_attempt, last_time_ms, read_journal
from saccade.run_dir import RunDir, RunLock, create_run
from saccade.runs.record import RunRecord, local_record
from saccade.spec import Spec
from saccade.tracking.shipping_state import ShippingState

from .mutations import Mutation, Refusal, fuzzed, mutate, mutations, read, refused

TIME = 1_790_000_000_000
LINES: tuple[Mapping[str, Any], ...] = (
    {"t": TIME, "kind": "attempt", "number": 1},
    {"t": TIME + 1, "kind": "stage", "name": "pretrain"},
    {"t": TIME + 2, "kind": "metrics", "step": 10, "values": {"pretrain/loss": 1.25, "opt/lr": 0.1}},
    {"t": TIME + 3, "kind": "metrics", "step": 20, "values": {"pretrain/loss": float("nan"), "opt/lr": 0.1}},
    {"t": TIME + 4, "kind": "artifact", "path": "figures/masks.png"},
    {"t": TIME + 5, "kind": "tags", "values": {"encoder": "r3d"}},
    {
        **{"t": TIME + 6, "kind": "dataset", "name": "toy", "digest": "4f", "context": "test", "source": "data/toy"},
        "profile": {"videos": 80},
    },
    {"t": TIME + 7, "kind": "end", "status": "stopped"},
)
JOURNAL = b"".join(json.dumps(line).encode() + b"\n" for line in LINES)
TOKENS = (
    *(b'"t": 5, ', b'"kind": "end", ', b'"step": 20, ', b'"values": {}, ', b'"number": 7}\n', b'"metrics"', b'"end"'),
    *(b'"finished"', b"\\ud800", b"\\u0000", b"../../x", b"}\n{", b"false", b"1.0", b'"opt/lr"', b"-5"),
)


def said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key stands twice and was taken"
    return dict(pairs)


def plain(event: Event) -> str:
    return json.dumps(event, sort_keys=True)  # NaN equals NaN here


def is_possible(event: Event) -> bool:
    """Whether a line is one that a journal can hold, by other rules than the reader's."""
    kinds = {line["kind"]: line for line in LINES}
    like = kinds[event["kind"]]
    right = event.keys() >= like.keys() and all(type(event[key]) is type(like[key]) for key in like)
    for key in ("t", "step", "number"):
        right = right and 0 <= event.get(key, 0) < 2**63
    if event["kind"] == "metrics":
        right = right and all(isinstance(float(value), float) for value in event["values"].values())
    return right and event.get("status", "finished") in ("finished", "stopped")


@fuzzed(130, 1800)
@given(mutations(TOKENS))
def test_journals(tmp_path: Path, changes: list[Mutation]) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(mutate(JOURNAL, changes))
    lines = path.read_bytes().split(b"\n")[:-1]
    events = read("journal", lambda: list(read_journal(path)), RunError)
    if isinstance(events, Refusal):
        assert events.message.startswith(f"{path}:")
        good = int(events.message.removeprefix(f"{path}:").partition(":")[0]) - 1
    else:
        assert [end for _, end in events] == [sum(len(line) + 1 for line in lines[: n + 1]) for n in range(len(lines))]
        for (event, _), line in zip(events, lines, strict=True):
            assert plain(event) == plain(json.loads(line, object_pairs_hook=said_once))
            assert is_possible(event)
            json.dumps(event, ensure_ascii=False).encode()
        good = len(lines)
    attempts, before = last_attempt(path), last_time_ms(path)

    # A resume keeps the lines up to its mark, as they are, and goes on after them.
    kept = b"".join(line + b"\n" for line in lines[: good // 2])

    def resume() -> None:
        with Journal.open(path, mark=len(kept), attempted=0) as journal:
            journal.metrics({"opt/lr": 0.2}, 30)

    if read("journal resumed", resume, RunError) is None:
        assert path.read_bytes().startswith(kept)
        after = [event for event, _ in read_journal(path)]
        assert after[good // 2]["number"] == attempts + 1
        assert after[good // 2]["t"] >= min(before, int(time.time() * 1000))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = create_run(tmp_path / "runs", Spec(name="x"), ["saccade", "run"], {"run": "other", "place": 2, "of": 3})
    made.journal.write_bytes(JOURNAL)
    ShippingState(
        folder=made.path,
        tracking_uri="http://127.0.0.1:1",
        experiment="saccade",
        mlflow_run_id="0" * 32,
        tags={"a": "b"},
        offset=40,
        attempted=80,
        pending=["figures/masks.png"],
        uploaded={"spec.yaml": "0f"},
    ).save()
    for name in ("run.json", "shipping.json"):  # what examples of one test begin with
        shutil.copy(made.path / name, made.path / f"kept.{name}")
    return made


def check_record(record: RunRecord) -> None:
    """What commands show of a run."""
    assert record.status in ("FINISHED", "FAILED", "KILLED")
    assert record.created.tzinfo is not None
    assert record.seconds >= 0
    texts = (record.name, record.experiment, record.spec_hash, record.link, record.follows, *record.settings.values())
    assert all(isinstance(text, str) for text in (*texts, *record.tags.values(), *record.datasets.values()))
    assert set(record.last) == {"pretrain/loss", "opt/lr"}


@fuzzed(60, 900)
@given(changes=mutations((b'"params": {},', b'"follows": [1],', b'"created": "1",', b"null", b'"git": {}, ')))
def test_records(run: RunDir, changes: list[Mutation]) -> None:
    path, whole = run.path / "run.json", (run.path / "kept.run.json").read_bytes()
    # Most of a record are versions of packages.
    path.write_bytes(mutate(_without_packages(whole), changes))
    record = read("run.json", lambda: local_record(run), RunError)
    if not isinstance(record, Refusal):
        check_record(record)
        told = json.loads(path.read_bytes(), object_pairs_hook=said_once)
        assert (record.name, record.params, record.spec_hash) == (told["name"], told["params"], told["spec_hash"])


def _without_packages(record: bytes) -> bytes:
    content = json.loads(record)
    content["params"] = {key: content["params"][key] for key in ("seed", "tracking.experiment")}
    return json.dumps({key: value for key, value in content.items() if key not in ("packages", "argv")}).encode()


@fuzzed(60, 900)
@given(changes=mutations((b'"offset": -1, ', b'"pending": [1],', b'"outcome": {},', b'"tags": [],', b'"status": "X"')))
def test_shipping_states(run: RunDir, changes: list[Mutation]) -> None:
    path, whole = run.path / "shipping.json", (run.path / "kept.shipping.json").read_bytes()
    outcome = b'"outcome": {"status": "FAILED", "end_ms": 12, "tags": {"exit_code": "1"}}'
    path.write_bytes(mutate(whole.replace(b'"outcome": null', outcome), changes))
    state = read("shipping.json", lambda: ShippingState.load(run.path), RunError)
    if not isinstance(state, Refusal):
        assert state is not None
        told = json.loads(path.read_bytes(), object_pairs_hook=said_once)
        state.save()  # says the same again
        again = json.loads(path.read_bytes())
        assert {key: again[key] for key in told if key in again} == {key: told[key] for key in told if key in again}
        assert 0 <= state.offset < 2**63
        check_record(local_record(run))


MARKER = b'{"version": 1, "grid_num": 7, "seed": 632, "min_frames": 3, "fps": 25.0}\n'


@fuzzed(40, 500)
@given(changes=mutations((b'"grid_num": 8, ', b"1e400", b"-1")))
def test_markers(tmp_path: Path, changes: list[Mutation]) -> None:
    rows = tmp_path / "toy" / "scan_idx_7"
    for folder in (rows, tmp_path / "toy" / "jpegs_256" / "v"):
        folder.mkdir(parents=True, exist_ok=True)
    (rows / "scanpaths.json").write_bytes(mutate(MARKER, changes))
    (rows / "v.txt").write_text("")
    told = read_marker(rows / "scanpaths.json")
    parameters = read("marker", lambda: read_parameters(rows), DataError)
    report = read("marker", lambda: compute_scanpaths(tmp_path / "toy", device="cpu", workers=1), DataError)
    # Rows are only gone on with where they were made with just these parameters.
    assert isinstance(report, Refusal) == (told != json.loads(MARKER))
    if not isinstance(parameters, Refusal):
        assert isinstance(told, dict)
        assert (parameters.grid_num, parameters.seed, parameters.fps) == (told["grid_num"], told["seed"], told["fps"])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "deep list": lambda: b"[" * 1_000_000 + b"\n",
    "deep object": lambda: b'{"a":' * 1_000_000 + b"\n",
    "deep within": lambda: JOURNAL.rstrip()[:-1] + b', "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n",
    "a line of 100 MB": lambda: b'{"t": 1, "kind": "stage", "name": "' + b"x" * 100_000_000 + b'"}\n',
    "100 MB without a line": lambda: b" " * 100_000_000,
    "many digits": lambda: b'{"t": ' + b"9" * 1_000_000 + b', "kind": "stage", "name": "x"}\n',
    "another encoding": lambda: JOURNAL.decode().encode("utf-16"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_json(run: RunDir, content: Callable[[], bytes]) -> None:
    whole = run.journal.read_bytes()
    run.journal.write_bytes(content())
    said = refused("hostile journal", lambda: list(read_journal(run.journal)))
    assert ": not a line of a journal" in said
    assert last_attempt(run.journal) in (0, 1)
    refused("hostile journal", lambda: local_record(run))
    run.journal.write_bytes(whole)
    if len(content()) > 10_000_000:
        return
    for name in ("run.json", "shipping.json"):
        kept = (run.path / name).read_bytes()
        (run.path / name).write_bytes(content())
        refused("hostile record", lambda: local_record(run), f"{name}: cannot be read")
        (run.path / name).write_bytes(kept)


def test_a_lock_that_says_nonsense(run: RunDir) -> None:
    path = run.path / "trainer.lock"
    with run.lock():
        for content in (b"[" * 4000, b'{"pid": "x\\ny", "host": []}', b'{"pid": 1, "host": "a\\nb"}', b""):
            path.write_bytes(content)
            refused("lock", lambda: RunLock(path, "trained"), "is being trained by", "stop it first")
