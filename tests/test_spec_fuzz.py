"""Whatever is typed gives a spec or one line, and every spec survives being written and read."""

import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.errors import SpecError
from saccade.spec import Spec
from saccade.spec_reader import dump_spec, parse_spec, read_spec

VALID = (Path(__file__).parent / "valid_spec.yaml").read_text(encoding="utf-8")

NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="$\ufffe\uffff"),
    min_size=1,
    max_size=40,
)
AWKWARD = st.sampled_from(["on", "1e3", "null", "~", " ", "012", "a: b", "- a", "#", "'", '"', "\\", "{}", "<<", "---"])
FLOATS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@settings(max_examples=100, deadline=None, derandomize=True)
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


def one_line_or_spec(text: str, overrides: list[str]) -> None:
    spec, message = None, ""
    try:
        spec = parse_spec(text, "e.yaml", overrides)
    except SpecError as error:
        message = str(error)
    if spec is None:
        assert message.isprintable()
        assert re.match(r"e\.yaml(:\d+)?: |--set ", message)
        assert len(message) < 800
    else:
        assert parse_spec(dump_spec(spec), "e.yaml") == spec


TOKENS = [
    "",
    "\n",
    "\t",
    " ",
    "  ",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!int ",
    "!",
    "|",
    ">",
    "'",
    '"',
    "#",
]
TOKENS += [
    "%",
    "@",
    "\\",
    "?",
    "? ",
    "---\n",
    "...\n",
    "<<: ",
    "null",
    "true",
    "1e999",
    ".nan",
    "-1",
    "012",
    "0x1",
    "9" * 25,
]
TOKENS += [
    "\0",
    "\u2028",
    "\ufeff",
    "\u00a0",
    "\ud800",
    '"\\ud800"',
    '"\\U00110000"',
    "${A}",
    ",",
    "name",
    "seed: 1\n",
    "é",
]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.data())
def test_a_valid_spec_mutated_is_a_spec_or_one_line(data: st.DataObject) -> None:
    text = VALID
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.sampled_from([0, 0, 1, 2, 5, 20])))
        insert = data.draw(st.sampled_from(TOKENS) | st.just(text[start : start + 30]) | st.text(max_size=3))
        text = text[:start] + insert + text[end:]
    one_line_or_spec(text, [])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=60) | st.lists(st.sampled_from(TOKENS), max_size=12).map("".join), st.text(max_size=20))
def test_any_text_is_a_spec_or_one_line(text: str, override: str) -> None:
    one_line_or_spec(text, [])
    one_line_or_spec(VALID, [override])
    one_line_or_spec(VALID, [f"name={text}", f"pretrain.epochs={override}", f"data.{override}=1"])


def test_any_bytes_are_a_spec_or_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.binary(max_size=80), st.booleans())
    def check(content: bytes, behind: bool) -> None:
        path.write_bytes(VALID.encode() + content if behind else content)
        message = ""
        try:
            read_spec(path)
        except SpecError as error:
            message = str(error)
        assert message.isprintable()

    check()
