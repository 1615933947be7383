"""Amounts in words."""

import pytest

from saccade.amounts import bytes_text, columns, counted, duration


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 KiB"), (512, "0.5 KiB"), (2**20, "1 MiB"), (1500 * 2**20, "1.46 GiB"), (1023 * 2**20, "1023 MiB")],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250 ms"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (1.5e6, "17.4 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts() -> None:
    assert [counted(count, "core") for count in (0, 1, 1.0, 1.5, 2)] == [
        "0 cores",
        "1 core",
        "1 core",
        "1.5 cores",
        "2 cores",
    ]


def test_columns_stand_below_each_other() -> None:
    assert columns([("name", "s"), ("a", "100"), ("longer", "")]) == ["name      s", "a       100", "longer"]


def test_columns_behind_letters_of_other_widths() -> None:
    assert columns([("name", "n"), ("🎈 é", "1"), ("跑步", "20"), ("e\u0301te", "3")]) == [
        "name   n",
        "🎈 é   1",
        "跑步  20",
        "e\u0301te    3",
    ]


def test_columns_of_words_with_a_rule() -> None:
    rows = [("run", "metric", "value"), ("abcdefgh", "x", "0.5")]
    assert columns(rows, right=(2,), rule=True, indent="  ", widest=6) == [
        "  run     metric  value",
        "  " + "-" * 21,
        "  abc...  x         0.5",
    ]
