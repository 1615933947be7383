"""docs/release_flags.md against the spec: its keys are there, its defaults are ours, no flag of a field is left out."""

import re
from pathlib import Path

import pytest

from saccade.spec import Spec
from saccade.spec_reader import flatten
from saccade.spec_wording import is_section, settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "release_flags.md"


def rows() -> list[list[str]]:
    """The cells of all tables, headers and rules left out."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("Flag", "What") and not row[0].startswith("---")]


ROWS = rows()


def test_the_tables_are_read() -> None:
    assert len(ROWS) > 80
    assert {len(row) for row in ROWS} == {6, 4}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_key_and_default(row: list[str]) -> None:
    key, default = (row[2], row[4]) if len(row) == 6 else (row[1], row[2])
    if not key:
        assert default == ""
        assert row[-1], "a flag without a key needs a remark"
        return
    key = key.strip("`")
    assert key in settings()
    assert not is_section(key)
    if key != "name":
        value = flatten(Spec(name="x"))[key]
        assert default == (str(value).lower() if isinstance(value, bool) else str(value))


def test_keys_in_the_text_exist() -> None:
    for key in re.findall(r"`((?:[a-z_]+\.)+[a-z_]+)(?:: \w+)?`", PAGE.read_text(encoding="utf-8")):
        assert key in settings() or key.endswith((".py", ".md")), key


def test_every_flag_that_a_field_quotes_is_in_the_table_with_that_field() -> None:
    pairs = {(flag, row[2].strip("`")) for row in ROWS for flag in re.findall(r"--([\w-]+)", row[0])}
    quoted = {
        (flag, key)
        for key, schema in settings().items()
        for flag in re.findall(r"\(`(\w+)`\)", schema.get("description", ""))
    }
    assert len(quoted) > 15
    assert quoted - pairs == set()
