"""Every setting of a spec as a page of Markdown, out of the fields themselves: docs/spec.md."""

import re
from typing import Any

from saccade.spec_wording import allowed, is_section, settings
from saccade.yaml_marks import to_yaml

__all__ = ["reference"]

_HEAD = """# Every setting of a spec

Written by `saccade schema docs/spec.md` from the fields of [`saccade/spec.py`](../saccade/spec.py). "Method" is the
setting of Lai et al., IEEE TCSVT 2023; a name in brackets behind it is the flag of the public release.
On the command line a setting is given as `--set section.key=value`.
"""
_TABLE = "| Key | Default | What it may be | What it is |\n|---|---|---|---|\n"


def reference() -> str:
    """The page."""
    sections: dict[str, list[str]] = {"": []}
    for path, schema in settings().items():
        if not path:
            continue
        if is_section(path):
            sections[path] = []
        else:
            sections[path.rpartition(".")[0]].append(_row(path, dict(schema)))
    return _HEAD + "".join(_section(path, rows) for path, rows in sections.items() if rows)


def _section(path: str, rows: list[str]) -> str:
    title = f"`{path}`" if path else "At the top of the file"
    about = "" if not path else _plain(settings()[path].get("description", "")) + "\n\n"
    return f"\n## {title}\n\n{about}{_TABLE}{''.join(rows)}"


def _row(path: str, schema: dict[str, Any]) -> str:
    default = "must be given"
    if "default" in schema:
        default = "`" + to_yaml({"": schema["default"]}).removeprefix(":").strip() + "`"
    what = allowed(schema).partition(", such as")[0]
    cells = f"`{path.rpartition('.')[2]}`", default, what, _plain(schema.get("description", ""))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
