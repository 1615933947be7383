"""What the documents say: their pages, the commands in them, the metrics that docs/metrics.md names."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PAGES = [
    "README.md",
    *sorted(path.relative_to(REPOSITORY).as_posix() for path in DOCS.rglob("*.md")),
    "data/README.md",
    "benchmarks/README.md",
]
"""All that have commands for somebody to type."""

_METRICS = DOCS / "metrics.md"
_PLACES = {"<k>": r"\d+", "<i>": r"\d+", "<n>": r"\d+", "<c>": "(linear_probe|finetune)"}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    """Of its first line, from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, of one language or all."""
    found, lines = [], (REPOSITORY / page).read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        found.append(Block(page, start + 2, lines[start][3:].strip(), "\n".join(lines[start + 1 : number]) + "\n"))
        start = None
    assert start is None, f"{page}:{start}: this block is not closed"
    return [block for block in found if language in (None, block.language)]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_commands(page: str) -> Iterator[str]:
    """`saccade ...` in running text: each way to write it, `a|b` being two and `[--option X]` one that may be there."""
    text = re.sub("^#.*$", "", prose(page), flags=re.MULTILINE)  # Headings of the FAQ quote what we print.
    for code in re.findall(r"`(saccade [^`]+)`", text):
        words = [word.split("|") for word in " ".join(code.split()).replace("[", "").replace("]", "").split(" ")]
        for number in range(max(map(len, words))):
            yield " ".join(each[min(number, len(each) - 1)] for each in words)


def undocumented(names: Iterable[str]) -> set[str]:
    """Those of some metrics that the page does not name; where it names a classifier's, it means a split's too."""
    named = {
        name for line in _METRICS.read_text().splitlines() if line[:1] == "|" for name in re.findall("`(.+?)`", line)
    }
    patterns = set()
    for name in named:
        pattern = re.escape(name)
        for place, stands_for in _PLACES.items():
            pattern = pattern.replace(re.escape(place), stands_for)
        patterns.add(re.compile(pattern))
    return {name for name in names if not any(p.fullmatch(re.sub(r"/split\d+/", "/", name)) for p in patterns)}


_WORDS = {
    6: "the command line",
    5: "many runs",
    4: "one run, from its spec to its end",
    3: "what a run does",
    2: "what has a state",
    1: "pure functions on tensors and numbers",
    0: "settings, plain values, errors",
}
_WIDTH = 104


def layer_picture(layers: Mapping[int, str]) -> str:
    """The layers of the package as docs/architecture.md draws them."""
    line = "─" * (_WIDTH + 2)
    rows = [f"   ┌{line}┐"]
    for number in sorted(layers, reverse=True):
        for row, text in enumerate(textwrap.wrap(", ".join(layers[number].split()), _WIDTH - 40)):
            left = _WORDS[number] if row == 0 else ""
            rows.append(f" {number if row == 0 else ' '} │ {left:38}  {text:{_WIDTH - 40}} │")
        last = number == min(layers)
        rows.append(f"   {'└' if last else '├'}{line}{'┘' if last else '┤'}")
    return "\n".join(rows) + "\n"
