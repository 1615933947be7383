"""A run's description in the MLflow UI: its summary.md, with links and pictures that the UI can resolve."""

import re
from urllib.parse import quote

__all__ = ["NOTE_LIMIT", "note"]

NOTE_LIMIT = 8000
"""Characters that MLflow keeps of a description."""

_LINK = re.compile(r"(!?\[[^\]\n]*\])\(([^()\s]+)\)")
_CUT = "\n\n*The whole text is in the artifact summary.md.*\n"


def note(markdown: str, mlflow_run_id: str) -> str:
    """A summary as a description: relative links point to the run's artifacts, cut at a line's end if too long.

    The UI shows pictures from `get-artifact`, relative to its own address, so this works behind a path prefix too
    (seen in MLflow 3.17.2; `ajax-api/2.0/mlflow/get-artifact` is not found).
    """

    def resolve(found: re.Match[str]) -> str:
        label, target = found.groups()
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|[/#?]", target):
            return found[0]
        path = quote(target.removeprefix("./"), safe="/")
        return f"{label}(get-artifact?path={path}&run_uuid={mlflow_run_id})"

    text = _LINK.sub(resolve, markdown)
    if len(text) <= NOTE_LIMIT:
        return text
    room = NOTE_LIMIT - len(_CUT)
    end = text.rfind("\n", 0, room)
    return text[: end if end > 0 else room] + _CUT
