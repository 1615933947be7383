"""The metrics that docs/metrics.md names."""

import re
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
PLACES = {"<k>": r"\d+", "<i>": r"\d+", "<n>": r"\d+", "<c>": "(linear_probe|finetune)"}


def undocumented(names: Iterable[str]) -> set[str]:
    """Those of some metrics that the page does not name; where it names a classifier's, it means a split's too."""
    named = {name for line in PAGE.read_text().splitlines() if line[:1] == "|" for name in re.findall("`(.+?)`", line)}
    patterns = set()
    for name in named:
        pattern = re.escape(name)
        for place, stands_for in PLACES.items():
            pattern = pattern.replace(re.escape(place), stands_for)
        patterns.add(re.compile(pattern))
    return {name for name in names if not any(p.fullmatch(re.sub(r"/split\d+/", "/", name)) for p in patterns)}
