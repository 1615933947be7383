"""The page of all settings is as the fields are, and leaves none out."""

import re
from pathlib import Path

from pydantic import BaseModel

from saccade.spec import SpecFile
from saccade.spec_reference import reference

PAGE = Path(__file__).resolve().parent.parent / "docs" / "spec.md"


def _fields(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _fields(kind, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_the_page_is_of_today() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "write it again: saccade schema docs/spec.md"


def test_every_setting_has_its_row_below_its_section() -> None:
    found, section = set(), ""
    for line in reference().splitlines():
        if title := re.match(r"## (?:`(.+)`|At the top)", line):
            section = f"{title[1]}." if title[1] else ""
        elif row := re.match(r"\| `(\w+)` \| .+ \| .+ \| .+\. ?.*\|$", line):
            found.add(section + row[1])
    assert found == _fields(SpecFile)


def test_a_row_says_default_range_and_source() -> None:
    assert (
        "| `num_negatives` | `1024` | a whole number, 1 or more | K, slots drawn per clip as negatives, with "
        "replacement; also the most prototypes. Method: 1024 (`nce_k`). |"
    ) in reference()
    assert "| `every_steps` | `null` | a whole number, 1 or more, or null |" in reference()
    assert "| `name` | must be given | a text of 1 to 200 characters |" in reference()
