"""Whatever is typed gives a spec that says the same, or one line; and every spec survives being written and read.

What a spec has to say is read a second time here, from PyYAML's nodes and by other rules than the reader's own.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saccade.errors import SpecError
from saccade.spec import Spec
from saccade.spec_reader import dump_spec, parse_spec, read_spec, spec_diff

from .mutations import Mutation, Refusal, fuzzed, mutate, mutations, read, refused

VALID = (Path(__file__).parents[1] / "valid_spec.yaml").read_bytes()
FULL = dump_spec(parse_spec(VALID.decode(), "e.yaml")).encode()

NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="$\ufffe\uffff"),
    min_size=1,
    max_size=40,
)
AWKWARD = st.sampled_from(["on", "1e3", "null", "~", " ", "012", "a: b", "- a", "#", "'", '"', "\\", "{}", "<<", "---"])
FLOATS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
TOKENS = (
    *(b"name", b"seed: 1\n", b"data:\n", b"  epochs: 7\n", b"base: x.yaml\n", b"then: [x.yaml]\n", b"tracking: {}\n"),
    *(b'"\\ud800"', b'"\\U00110000"', b"%YAML 9.9\n", b"...\n", b"!", b"@", b"`", b"=", b"1e-3", b"012", b"0o17"),
    *(b"true", b"off", b"No", b"1500", b"[1, 2]", b"[]", b"{}", b"1e999", b"9" * 25),
)


@fuzzed(30, 1000)
@given(NAMES | AWKWARD, FLOATS, st.lists(NAMES | AWKWARD, max_size=4), st.none() | st.integers(1, 2**63 - 1))
def test_round_trip(name: str, rate: float, exclude: list[str], steps: int | None) -> None:
    spec = Spec.model_validate(
        {
            "name": name,
            "data": {"exclude": exclude, "root": name.lstrip("~") or "x"},
            "pretrain": {"learning_rate": rate, "weight_decay": rate},
            "checkpoint": {"every_steps": steps},
        }
    )
    back = parse_spec(dump_spec(spec), "spec.yaml")
    assert back == spec
    assert repr(back) == repr(spec)


# What a text says, read once more ------------------------------------------------------------------------------------


def meaning(node: yaml.Node) -> Any:
    """Plain values of a node; scalars without quotes by the core schema of YAML 1.2."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), "a key stands twice and was taken"
        return {key.value: meaning(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [meaning(each) for each in node.value]
    text = node.value
    if node.style or text == "":
        return text if node.style else None
    if text in ("~", "null", "Null", "NULL"):
        return None
    if text.lower() in ("true", "false") and text in (text.lower(), text.title(), text.upper()):
        return text.lower() == "true"
    for kind in (int, float):
        # int() and float() also take "1_0", " 1", "nan" and the digits of all scripts.
        if text.isascii() and not re.search(r"[_\s]|nan|inf", text, re.IGNORECASE):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


DEFAULTS = dict(leaves(Spec(name="-").model_dump()))


def same(a: Any, b: Any) -> bool:
    """Equal, where true is not 1; a whole number may be given for a float."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, int) and not isinstance(b, bool):
        return a == float(b)  # the nearest one, beyond 2^53
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def says_what_stands_there(spec: Spec, text: str) -> None:
    node = yaml.compose(text.removeprefix("\ufeff"), Loader=yaml.BaseLoader)
    said, held = dict(leaves(meaning(node))), dict(leaves(spec.model_dump()))
    assert said.keys() <= held.keys() | {"base"}
    for path, value in held.items():
        assert same(value, said[path] if path in said else DEFAULTS[path]), path


def take(kind: str, text: str) -> None:
    spec = read(kind, lambda: parse_spec(text, "e.yaml"), SpecError)
    if isinstance(spec, Refusal):
        assert re.match(r"e\.yaml(:\d+)?: ", spec.message)
    else:
        says_what_stands_there(spec, text)
        assert parse_spec(dump_spec(spec), "e.yaml") == spec


# Mutations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [VALID, FULL], ids=["valid", "full"])
@fuzzed(70, 900)
@given(mutations(TOKENS))
def test_a_mutated_spec_says_what_it_holds_or_is_one_line(start: bytes, changes: list[Mutation]) -> None:
    take("spec", mutate(start, changes).decode("utf-8", "surrogateescape"))


@fuzzed(80, 800)
@given(st.lists(st.sampled_from(TOKENS) | mutations().map(lambda changes: changes[0].token), max_size=10))
def test_any_text_is_a_spec_or_one_line(tokens: list[bytes]) -> None:
    take("spec of tokens", b"".join(tokens).decode("utf-8", "surrogateescape"))


@fuzzed(80, 800)
@given(st.sampled_from(sorted(DEFAULTS)), mutations(TOKENS, most=2))
def test_an_override_changes_what_it_names_and_nothing_else(path: str, changes: list[Mutation]) -> None:
    value = DEFAULTS[path]
    before = f"{path}={str(value).lower() if not isinstance(value, str) else value or 'x'}"
    override = mutate(before.encode(), changes).decode("utf-8", "surrogateescape")
    spec = read("override", lambda: parse_spec(VALID.decode(), "e.yaml", [override]), SpecError)
    if isinstance(spec, Refusal):
        # A value may also contradict the file, which is told at the file's line.
        assert re.match(r"--set |e\.yaml", spec.message)
        return
    named, _, text = override.partition("=")
    changed = spec_diff(parse_spec(VALID.decode(), "e.yaml"), spec)
    assert set(changed) <= {named.strip()}
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    held = dict(leaves(spec.model_dump()))[named.strip()]
    assert same(held, meaning(node) if node is not None else None)


@fuzzed(30, 300)
@given(mutations(TOKENS))
def test_any_bytes_are_a_spec_or_one_line(tmp_path: Path, changes: list[Mutation]) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(mutate(VALID, changes))
    spec = read("spec file", lambda: read_spec(path), SpecError)
    if not isinstance(spec, Refusal):
        says_what_stands_there(spec, path.read_text(encoding="utf-8"))


# Hostile texts -------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: !!python/object/apply:os.system ['touch trace']", "tags"),
        ("name: !!python/name:os.system", "tags"),
        ("name: !<tag:yaml.org,2002:python/object/new:os.system> [x]", "tags"),
        ("!!map {name: x}", "tags"),
        (LAUGHS, "anchors and aliases"),
        ("name: x\ndata: &d {root: a}\nencoder: *d", "anchors and aliases"),
        ("name: x\n<<: {seed: 3}", "merge keys"),
        ("[" * 500_000, "nested more than"),
        ("a: " + "{b: " * 200_000, "nested more than"),
        ("- " * 500_000, "nested more than"),
        ("? " * 500_000, "a list or mapping stands as a key"),
        ("name: " + "9" * 900_000, "64 bits"),
        ("name: x\nseed: 1" + "0" * 900_000, "64 bits"),
        ("name: '" + "x\n\n" * 80_000, "never closed"),
        ("name: x #" + "x" * 900_000 + "\n" * 90_000 + "seed: y", "whole number"),
        ("k" * 900_000 + ": x", "cannot stand here"),
        ("name: x\n" * 100_000, "set a second time"),
        ("%TAG ! !\n" * 80_000 + "--- {}", "duplicate"),
        ('name: "' + "\\x41" * 200_000, "never closed"),
        ("name: >\n" + " \n" * 100_000 + "\t x", ""),
        ("name: x\0", "binary"),
        ("name: x" * 130_000, ""),
        (":" * 300_000, ""),
        ("\n" * 200_000, "empty"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_hostile_texts_are_refused_at_once(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    refused("hostile spec", lambda: read_spec(path), said)
    assert [each.name for each in tmp_path.iterdir()] == ["x.yaml"]
