"""A spec that builds on another file: what it takes from there, and where its mistakes are told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.errors import SpecError
from saccade.spec import Spec
from saccade.spec_reader import dump_spec, json_schema, parse_spec, read_spec

Write = Callable[[str, str], Path]

BASE = """\
name: base
seed: 7
encoder: {name: r2plus1d}
prototypes: {num_clusters: [9, 8], warmup_epoch: 5}
pretrain:
  epochs: 20
  decay_epochs: [4, 6]
then: [other.yaml]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def to(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return to


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        read_spec(path, overrides)
    return str(caught.value)


def test_sections_are_merged_by_key_and_all_else_is_replaced(write: Write) -> None:
    write("paper/base.yaml", BASE)
    path = write(
        "ablations/x.yaml",
        "base: ../paper/base.yaml\nname: x\nprototypes: {num_clusters: [3]}\npretrain: {epochs: 30}\n"
        "clip: {size: 64}\n",
    )
    written_out = """\
name: x
seed: 7
clip: {size: 64}
encoder: {name: r2plus1d}
prototypes: {num_clusters: [3], warmup_epoch: 5}
pretrain: {epochs: 30, decay_epochs: [4, 6]}
"""
    spec = read_spec(path)
    assert spec == parse_spec(written_out, "x.yaml")
    assert spec.then == ()  # what follows the base follows nothing else
    assert "\nbase:" not in dump_spec(spec)


def test_overrides_reach_what_the_base_has_set(write: Write) -> None:
    write("base.yaml", BASE)
    path = write("x.yaml", "base: base.yaml\nname: x\n")
    spec = read_spec(path, ["pretrain.epochs=8", "data.split=2"])
    assert (spec.pretrain.epochs, spec.pretrain.decay_epochs, spec.data.split) == (8, (4, 6), 2)
    write("other.yaml", "name: y\nseed: 8\n")
    assert read_spec(path, ["base=other.yaml"]).seed == 8


def test_a_file_is_read_as_it_is_now_without_earlier_overrides(write: Write) -> None:
    path, base = write("own.yaml", "base: base.yaml\nname: own\npretrain: {batch_size: 2}\n"), write("base.yaml", BASE)
    changed = read_spec(path, ["pretrain.epochs=30", "pretrain.batch_size=4", "contrast.num_negatives=64"])
    assert (changed.pretrain.epochs, changed.pretrain.batch_size, changed.contrast.num_negatives) == (30, 4, 64)
    plain = read_spec(path)
    assert (plain.pretrain.epochs, plain.pretrain.batch_size) == (20, 2)
    assert plain.contrast == Spec(name="x").contrast
    base.write_text(BASE.replace("20", "25"))
    assert read_spec(path).pretrain.epochs == 25


def test_a_base_of_a_base(write: Write) -> None:
    write("a/base.yaml", BASE)
    write("b/middle.yaml", "base: ../a/base.yaml\nname: middle\npretrain: {epochs: 40}\n")
    spec = read_spec(write("x.yaml", "base: b/middle.yaml\nname: x\nseed: 1\n"))
    assert (spec.seed, spec.pretrain.epochs, spec.pretrain.decay_epochs) == (1, 40, (4, 6))


def test_a_run_has_a_name_of_its_own(write: Write) -> None:
    write("base.yaml", BASE)
    assert refused(write("x.yaml", "base: base.yaml\n")) == "x.yaml: name: is missing; add a line 'name: ...'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: [a]", "x.yaml:2: base: must be the path of a spec file, seen from this one's folder"),
        ("base:", "x.yaml:2: base: must be the path of a spec file, seen from this one's folder"),
        ("base: x.yaml", "x.yaml:2: base: x.yaml leads back to itself; name another file"),
        ("base: back.yaml", "back.yaml:1: base: x.yaml leads back to itself; name another file"),
        ("base: bas.yaml", "x.yaml:2: base: bas.yaml: no such file, did you mean base.yaml?"),
        ("base: empty.yaml", "empty.yaml: the spec is empty; it needs at least a line such as 'name: my-run'"),
        ("base: bad.yaml", "bad.yaml:3: pretrain.epoch: unknown key, did you mean epochs?"),
        # The mistake of the base comes first, that of this file is counted.
        ("base: bad.yaml\nseed: x", "bad.yaml:3: pretrain.epoch: unknown key, did you mean epochs? (and 1 more)"),
        ("base: base.yaml\npretrain:", "x.yaml:3: pretrain: has no settings; indent them below it, such as"),
        # Both are fine alone: told at the setting to change, where that stands.
        (
            "base: base.yaml\npretrain: {epochs: 6}",
            "base.yaml:7: pretrain.decay_epochs: 6 is not before the end of pretrain.epochs = 6; remove it",
        ),
        ("bas: base.yaml", "x.yaml:2: bas: unknown key, did you mean base?"),
    ],
)
def test_mistakes_are_told_in_the_file_they_stand_in(write: Write, text: str, message: str) -> None:
    write("base.yaml", BASE)
    write("bad.yaml", "name: bad\npretrain:\n  epoch: 3\n")
    write("back.yaml", "base: x.yaml\nname: back\n")
    write("empty.yaml", "")
    assert refused(write("x.yaml", f"name: x\n{text}\n")).startswith(message)


def test_editors_know_the_key() -> None:
    assert '"base"' in json_schema()
