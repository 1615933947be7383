"""docs/faq.md quotes what is really printed: each quotation is a text of the code, with an example's names in it."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

from .documented import DOCS, REPOSITORY

QUOTED = re.findall(r"^### `(.+)`$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
OF_OTHERS = {
    "saccade needs Python 3.11": "Makefile",
    "RuntimeError: operator torchvision::nms": "",
    "torch.OutOfMemoryError": "",
    "Invalid Host header": "mlflow/server/security_utils.py",
    "You are not authenticated": "mlflow/server/auth/__init__.py",
    "Could not detect": "submitit/slurm/slurm.py",
}
"""What the code does not say itself, and the file that does: ours, or a package's. Empty: see the tests below."""
LEAST_LETTERS = 11
"""So many letters and blanks of a text of the code must be in a quotation for it to be that text's."""


@cache
def texts() -> list[re.Pattern[str]]:
    """All texts of the package, with anything where a value is put in."""
    found = []
    for path in (REPOSITORY / "saccade").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if not all(part is None or isinstance(part, str) for part in fixed):
                continue
            if sum(len(re.sub("[^A-Za-z ]", "", part)) for part in fixed if part) >= LEAST_LETTERS:
                escaped = (".*" if part is None else re.escape(part.replace("`", "")) for part in fixed)
                found.append(re.compile("".join(escaped)))
    return found


def _said_by_us(quotation: str) -> bool:
    """Whether texts of ours make up a quotation but for what stands around a colon or a semicolon."""
    longest = max((len(match[0]) for text in texts() if (match := text.search(quotation))), default=0)
    return longest >= 0.4 * len(quotation)


@pytest.mark.parametrize("quotation", QUOTED)
def test_a_quotation_is_what_is_printed(quotation: str) -> None:
    others = [place for words, place in OF_OTHERS.items() if words in quotation]
    if not others:
        assert _said_by_us(quotation)
        return
    (words,) = (words for words in OF_OTHERS if words in quotation)
    if others[0]:
        assert words in _source(others[0])


def _source(place: str) -> str:
    if (REPOSITORY / place).exists() and place == "Makefile":
        return (REPOSITORY / place).read_text()
    package, _, rest = place.partition("/")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], rest).read_text()


def test_a_quotation_of_nobody_is_found() -> None:
    assert len(QUOTED) >= 35
    assert not _said_by_us("the flux capacitor is not charged; drive at 88 miles an hour")
    assert not _said_by_us(QUOTED[8].replace("a", "e"))


def test_pytorchs_own_words() -> None:
    import torch

    with pytest.raises(RuntimeError, match="operator torchvision::nothing does not exist"):
        torch.library.register_fake("torchvision::nothing")(lambda: None)
    assert issubclass(torch.OutOfMemoryError, RuntimeError)


def test_every_heading_is_a_quotation() -> None:
    headings = re.findall(r"^### .*$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) == len(QUOTED)
    assert len(set(QUOTED)) == len(QUOTED)
