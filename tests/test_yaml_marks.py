"""Scalars after the YAML 1.2 core schema, marks, and everything that is refused before a spec is looked at."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.errors import SpecError, shorten
from saccade.yaml_marks import Node, parse_yaml, scalar_value, to_yaml


def locate(line: int | None) -> str:
    return f"x.yaml:{line}" if line else "x.yaml"


def read(text: str) -> object:
    node = parse_yaml(text, locate)
    return None if node is None else node.plain()


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, locate)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.5e+1", -5.0),
        ("+5", 5),
        ("-0", 0),
        ("0", 0),
        ("1500", 1500),
        ("0.5", 0.5),
        ("9223372036854775807", 2**63 - 1),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("Null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("tRUE", "tRUE"),
        ("0x10", "0x10"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        (".", "."),
        ("+", "+"),
        ("e5", "e5"),
        ("\u0661", "\u0661"),  # a digit to int(), a text to YAML
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_scalar_value(text: str, value: object) -> None:
    read_as = scalar_value(text)
    assert read_as == value
    assert type(read_as) is type(value)


def test_not_a_number_is_a_float() -> None:
    value = scalar_value(".nan")
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize("text", ["012", "-007", "00", "9223372036854775808", "9" * 5000])
def test_integers_that_readers_disagree_on_or_that_are_too_long(text: str) -> None:
    with pytest.raises(ValueError, match=r"octal|64 bits"):
        scalar_value(text)
    assert scalar_value("0.12e-012") == 0.12e-12  # no integer


def test_marks() -> None:
    root = parse_yaml("# head\na: 1\n\nb:\n  c: [x, 'y']\n  d:\n    - 1e2\n    -\n", locate)
    assert root is not None
    assert isinstance(root.value, dict)
    b = root.value["b"]
    assert isinstance(b.value, dict)
    assert (root.value["a"].where, b.where, b.value["c"].where) == ("x.yaml:2", "x.yaml:4", "x.yaml:5")
    d = b.value["d"].value
    assert isinstance(d, list)
    assert d[0] == Node(100.0, "1e2", False, "x.yaml:7", d[0].order)
    assert d[1].where == "x.yaml:8"
    c = b.value["c"].value
    assert isinstance(c, list)
    assert [node.quoted for node in c] == [False, True]
    orders = [root.value["a"].order, b.order, b.value["c"].order, c[0].order, c[1].order, d[0].order]
    assert orders == sorted(set(orders))
    assert root.plain() == {"a": 1, "b": {"c": ["x", "y"], "d": [100.0, None]}}


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "---\n...\n"])
def test_nothing(text: str) -> None:
    assert parse_yaml(text, locate) is None


@pytest.mark.parametrize(
    "text", ["---\na: 1\n...\n", "%YAML 1.2\n---\na: 1", "{a: 1}", '{"a": 1}', "a: 1\r\n", "a:  1  # c"]
)
def test_other_ways_to_write_one_document(text: str) -> None:
    assert read(text) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("p:\n\tb: 1", 2, "use spaces"),
        ("p:\n  \tb: 1", 2, "use spaces"),
        ("s: 1\n\t# c\n", 2, "use spaces"),
        ("seed:5\nname: x", 1, "space is missing after the ':'"),
        ("a: 1\np:\n  epochs:3\n  b: 4\n", 3, "space is missing after the ':'"),
        ("name: a: b", 1, "quote the value"),
        ("name: 'it's'", 1, "quotes"),
        ("p:\n    a: 1\n  b: 2", 3, "indentation"),
        ("p:\n  a: 1\n    b: 2", 3, "indentation"),
        ("a: 1\nb\nc: 3", 2, "write 'key: value'"),
        ("a: 'x\nb: 3\n", 1, "never closed"),
        ("x: 1\na: [1, 2\nb: 3", 3, "brackets that open on line 2"),
        ("a: [1, 2", 1, "brackets that open on line 1"),
        ("a: [", 1, "close each bracket"),
        ("a: @x", 1, "'@' cannot begin a value"),
        ('a: "\\q"', 1, "backslash"),
        ('a: "\\UFFFFFFFF"', 1, "impossible number"),
        ("%YAML 1." + "9" * 5000 + "\n--- 1", 1, "impossible number"),
        ("a: 1\na: 2", 2, "a: set a second time, the first is on line 1"),
        ("p:\n  a: 1\n  b: 1\n  'a': 2", 4, "p.a: set a second time, the first is on line 2"),
        ("l: [{a: 1, a: 2}]", 1, "l[0].a: set a second time"),
        ("a: &x 1", 1, "(&x) are refused; write the values out"),
        ("a: &x [1]\nb: *x", 1, "write the values out"),
        ("b: 1\na: *x", 2, "(*x) are refused"),
        ("<<: {a: 1}", 1, "merge keys"),
        ("a: !!python/object/apply:os.system [echo]", 1, "tags (!!python/object/apply:os.system) are refused"),
        ("!!map {a: 1}", 1, "tags"),
        ("a: !x 1", 1, "tags (!x)"),
        ("a: ! 1", 1, "tags (!)"),
        ("a: !!int '3'", 1, "tags (!!int)"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("a: 1\n...\n---\n", 3, "second document"),
        ("a: 1\n...\nb: 2", 3, "does not belong"),
        ("1: 2", 1, "a key is a word; got '1'"),
        ("p:\n  null: 2", 2, "p: a key is a word; got 'null'"),
        ("true: 2", 1, "a key is a word"),
        ("'': 2", 1, "got nothing before the ':'"),
        ("? [a]\n: 1", 1, "a list or mapping stands as a key"),
        ("\u00a0\u00a0a: 1", 1, "invisible U+00A0"),
        ("a: 1\nse\u200bed: 1", 2, "invisible U+200B"),
        ("a: 012", 1, 'a: 012 is octal to some readers and decimal to others; write 12, or "012"'),
        ("a: |\n  x\n  y\n", 1, "one line"),
        ('a: "x\\ty"', 1, "one line"),
        ('a: "\\0"', 1, "one line"),
        ('a: "\\ud800"', 1, "one line"),
        ("a: 1\nb: \0", 2, "control character U+0000"),
        ("a: 1\r\n\r\nb: \x1b[31m", 3, "control character U+001B"),
        ("a: 1\u2028b: 2", 1, "control character U+2028"),
        ("a: \ud800", 1, "control character U+D800"),
        ("[" * 1000, 1, "nested more than 16 levels"),
        ("- " * 100_000, 1, "nested more than 16 levels"),
        ("{a: " * 1000, 1, "nested more than 16 levels"),
    ],
)
def test_refused_with_its_line(text: str, line: int, words: str) -> None:
    message = refusal(text)
    assert message.startswith(f"x.yaml:{line}: ")
    assert words in message


def test_too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "more than 50000 values" in refusal("a: [" + "a," * 60_000 + "]")
    monkeypatch.setattr("saccade.yaml_marks.MAX_VALUES", 500)
    assert "more than 500 values" in refusal("a: [" + "a," * 499 + "]")
    assert parse_yaml("a: [" + "a," * 498 + "]", locate) is not None


def test_order_counts_on_from_where_it_is_told() -> None:
    node = parse_yaml("[1, 2]", locate, 1000)
    assert node is not None
    assert isinstance(node.value, list)
    assert [node.order, *(entry.order for entry in node.value)] == [1001, 1002, 1003]


def test_shorten() -> None:
    assert shorten("abc") == "abc"
    assert shorten("a" * 50 + "b" * 50) == "a" * 48 + "..." + "b" * 9
    assert shorten("a\nb\u2028") == "a\\nb\\u2028"
    assert shorten("é ü 漢") == "é ü 漢"


def test_to_yaml_by_hand() -> None:
    settings = {
        "a": 1,
        "b": {"c": 1e-5, "d": {"e": (1, 2), "f": []}},
        "g": None,
        "h": True,
        "i": ["on", "x", "null", "1e3", "a: b", "v_x.avi"],
        "j": "012",
    }
    assert to_yaml(settings) == (
        "a: 1\nb:\n  c: 1e-05\n  d:\n    e: [1, 2]\n    f: []\ng: null\nh: true\n"
        'i: ["on", x, "null", "1e3", "a: b", v_x.avi]\nj: "012"\n'
    )


# Surrogates, control characters and line breaks are refused in texts, U+FFFE and U+FFFF in YAML.
TEXT = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="\ufffe\uffff"), max_size=30
)
SCALAR: st.SearchStrategy[object] = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | TEXT
SCALAR = SCALAR | st.floats(allow_nan=False, allow_infinity=False)
AWKWARD = st.sampled_from(
    [
        "on",
        "Yes",
        "1e3",
        "null",
        "~",
        "",
        " ",
        "012",
        "a: b",
        "- a",
        "#",
        "a #b",
        "'",
        '"',
        "\\",
        "{",
        "${A}",
        "<<",
        ".",
    ]
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from("abcd"), SCALAR | AWKWARD | st.lists(SCALAR | AWKWARD, max_size=3), min_size=1))
def test_what_is_written_reads_back(values: dict[str, object]) -> None:
    back = read(to_yaml({"top": values}))
    assert back == {"top": values}
    assert repr(back) == repr({"top": values})  # 1, 1.0 and True are equal, and -0.0 equals 0.0
