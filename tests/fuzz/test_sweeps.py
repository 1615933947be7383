"""Sweep specs made wrong are one line, or say what stands in them; databases of studies that are none are one line."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given

from saccade.errors import SaccadeError, SpecError
from saccade.sweep.definition import definition
from saccade.sweep.look import show_status
from saccade.sweep.reader import read_sweep
from saccade.sweep.space import Space
from saccade.sweep.spec import Dimension, Sweep
from saccade.sweep.storage import open_study

from ..sweep.specs import EXPERIMENT, SEARCH
from .mutations import Mutation, Refusal, fuzzed, mutate, mutations, read, refused
from .test_specs import meaning, same

SWEEP = f"""\
name: try
experiment: toy.yaml
set:
  saccade.focus_num: 2
objective: {{metric: val/retrieval_top1, direction: maximize}}
{SEARCH}pruner: {{name: asha, min_epochs: 4}}
budget: {{trials: 10, hours: 2.5}}
seeds: 2
lease: {{renew_sec: 10, grace_sec: 60}}
""".encode()
TOKENS = (
    *(
        b"  pretrain.epochs: [10, 20]\n",
        b"when: {",
        b"min: ",
        b"max: ",
        b"step: 2, ",
        b"log: true, ",
        b"choices: ",
        b"[]",
    ),
    *(
        b"base:\n    - toy.yaml\n",
        b"sampler: grid\n",
        b"name: ",
        b"test/retrieval_top1",
        b"[[8], 8]",
        b"1e308",
        b"true",
    ),
    *(
        b"storage: x\n",
        b"storage: 'sqlite:///a/b'\n",
        b"confirm_seeds: 3\n",
        b"start: false\n",
        b"engine.precision: x\n",
    ),
)


def of_dimension(said: Any, dimension: Dimension) -> None:
    """What stands below `search` for a path, against what was read."""
    ends = said if isinstance(said, dict) else {"choices": said}
    if "choices" in ends:
        assert same([list(each) if isinstance(each, tuple) else each for each in dimension.choices], ends["choices"])
    else:
        held = [dimension.low, dimension.high, dimension.log, dimension.step]
        assert same(held, [ends["min"], ends["max"], ends.get("log", False), ends.get("step", held[3])])
        assert "step" in ends or held[3] == (1.0 if dimension.whole else None)
    when = {path: value if isinstance(value, list) else [value] for path, value in ends.get("when", {}).items()}
    conditions = {
        path: [list(v) if isinstance(v, tuple) else v for v in values] for path, values in dimension.when.items()
    }
    assert conditions.keys() == when.keys()


def says_what_stands_there(sweep: Sweep, text: str) -> None:
    said = meaning(yaml.compose(text.removeprefix("\ufeff"), Loader=yaml.BaseLoader))
    held = sweep.file.model_dump()
    for key, value in said.items():
        if key == "search":
            assert [each.path for each in sweep.dimensions] == list(value)
            for dimension in sweep.dimensions:
                of_dimension(value[dimension.path], dimension)
        elif key == "set":
            assert [each.partition("=")[0] for each in sweep.fixed] == list(value)
        elif key == "pruner" and isinstance(value, str):
            assert held["pruner"]["name"] == value
        elif key == "objective":
            several = value if isinstance(value, list) else [value]
            metrics = [each if isinstance(each, str) else each["metric"] for each in several]
            assert [each["metric"] for each in held["objective"]] == metrics
        elif isinstance(value, dict):
            assert all(same(held[key][name], each) for name, each in value.items())
        else:
            assert same(held[key], value)


@fuzzed(100, 1500)
@given(changes=mutations(TOKENS))
def test_sweeps(tmp_path: Path, changes: list[Mutation]) -> None:
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)
    path = tmp_path / "try.yaml"
    path.write_bytes(mutate(SWEEP, changes))
    sweep = read("sweep spec", lambda: read_sweep(path), SpecError)
    if isinstance(sweep, Refusal):
        assert sweep.message.startswith(str(tmp_path))
    else:
        says_what_stands_there(sweep, path.read_text(encoding="utf-8"))
        assert json.loads(json.dumps(definition(sweep))) == definition(read_sweep(path))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b"objective", b"sampler: grid\nobjective", "grid needs steps"),
        (b"max: 24, step: 4", b"max: 24e17, step: 4", "more steps than a number can count"),
        (b"min: 0.5, max: 0.99", b"min: -1e308, max: 1e308", "more steps than a number can count"),
        (b"min: 1e-3", b"min: 1e-320", "more steps than a number can count"),
        (b"max: 24, step: 4", b"max: 24, step: 1e-320", "more steps than a number can count"),
        (b"max: 0.3", b"max: .inf", "max must be a number"),
        (b"min: 1e-3", b"min: .nan", "min must be a number"),
        (b"trials: 10", b"trials: 1" + b"0" * 400, "64 bits"),
        (b"[[8], [16, 24], []]", b"[" * 10_000, "nested more than"),
        (b"[sgd, adam]", b"&a [sgd, *a]", "anchors and aliases"),
        (b"toy.yaml", b"../" * 2000 + b"etc/passwd", ""),
        (b"toy.yaml", b"/dev/zero", "larger than 1 MiB"),
        (b"toy.yaml", b"!!python/name:os.system x", "tags"),
        (b"name: try", b"name: " + b"x" * 500, "name"),
        (b"name: try", b"name: '../x'", "letters, digits"),
    ],
)
def test_hostile_sweeps(tmp_path: Path, before: bytes, after: bytes, said: str) -> None:
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)
    path = tmp_path / "try.yaml"
    path.write_bytes(SWEEP.replace(before, after, 1))
    assert re.match(rf"{re.escape(str(path))}(:\d+)?: ", refused("hostile sweep", lambda: read_sweep(path), said))


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the database of a study of two trials."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "toy.yaml").write_text(EXPERIMENT)
    (folder / "try.yaml").write_bytes(SWEEP)
    opened = open_study(read_sweep(folder / "try.yaml"), folder)
    for worker in ("a", "b"):
        opened.ledger.take(worker, trials=10, hours=None, fixed=lambda place: {"pretrain.optimizer": "sgd"})
    opened.close()
    return folder


@pytest.mark.parametrize("part", ["header", "page", "text", "end"])
def test_damaged_databases(books: Path, tmp_path: Path, part: str) -> None:
    content = bytearray((books / "sweeps.db").read_bytes())
    if part == "header":
        content[:16] = b"not a database!!"
    elif part == "page":
        content[4096:] = bytes(each ^ 0x55 for each in content[4096:])
    elif part == "text":
        at = content.index(b'{"objective"')
        content[at + 2] = 0xFF
    else:
        del content[5000:]
    (tmp_path / "sweeps.db").write_bytes(content)
    refused(
        "study's database", lambda: show_status(books / "try.yaml", tmp_path), "sweeps.db" if part != "text" else ""
    )


ATTRIBUTES = ("saccade:definition", "saccade:id", "saccade:stop")


@pytest.mark.parametrize("key", ATTRIBUTES)
@fuzzed(5, 100)
@given(changes=mutations((b"null", b"[", b'{"a": 1}', b"NaN")))
def test_what_a_study_says_of_itself(books: Path, tmp_path: Path, key: str, changes: list[Mutation]) -> None:
    """The notes of a study made wrong, as by another program that uses the same database."""
    file = tmp_path / "sweeps.db"
    file.write_bytes((books / "sweeps.db").read_bytes())
    with closing(sqlite3.connect(file)) as database, database:
        rows = "study_user_attributes WHERE key = ?"
        found = database.execute(f"SELECT value_json FROM {rows}", (key,)).fetchone()
        value = mutate(found[0].encode() if found else b"true", changes).decode("utf-8", "replace")
        database.execute("UPDATE study_user_attributes SET value_json = ? WHERE key = ?", (value, key))

    def work() -> object:
        sweep = read_sweep(books / "try.yaml")
        opened = open_study(sweep, tmp_path)
        try:
            taken = opened.ledger.take("c", trials=10, hours=None, fixed=lambda place: None)
            assert taken.trial_id is not None
            return opened.ledger.renew(taken.trial_id)
        finally:
            opened.close()

    read("study's notes", work, SaccadeError)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_a_range_of_billions_of_steps_is_looked_at_at_once(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)
    path = tmp_path / "try.yaml"
    wide = SWEEP.replace(b"max: 24, step: 4", b"max: 24e9, step: 4")
    path.write_bytes(wide)
    sweep = read("wide sweep", lambda: read_sweep(path))
    assert not isinstance(sweep, Refusal)
    assert sweep.dimensions[3].high == 24e9
    path.write_bytes(
        wide.replace(b"objective", b"sampler: grid\nobjective")
        .replace(b"log: true", b"step: 0.001")
        .replace(b"max: 0.3", b"max: 0.301")
        .replace(b"max: 0.99", b"max: 0.9, step: 0.1")
    )
    sweep = read_sweep(path)
    refused("wide sweep", lambda: Space(sweep.dimensions).grid(None), "the grid has more than 10000 points")
