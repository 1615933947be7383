"""run.json read back: what of it is used has the type and range that it was written with."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from saccade.strict_json import parse_object

__all__ = ["parse_record"]

_TEXTS = ("id", "name", "created", "command", "host", "user", "spec_hash", "group_hash")
_RECORDED = {*_TEXTS, "params", "git"}
"""What every record has; all else came with later versions."""
_KINDS: dict[str, Any] = {
    **dict.fromkeys(_TEXTS, str),
    **{"params": dict, "git": dict, "follows": dict | None, "earlier": list, "processes": int, "register_model": str},
    **dict.fromkeys(("track_every_minutes", "system_metrics_sec"), int | float | None),
}
_GIT: dict[str, Any] = {"commit": str, "branch": str, "dirty": bool}
_FOLLOWS: dict[str, Any] = {"run": str, "place": int, "of": int}


def parse_record(content: bytes) -> dict[str, Any]:
    """A run's record.

    Raises:
        ValueError: It is damaged, or none; says in which way.
    """
    record = parse_object(content, _KINDS)
    if not record.keys() >= _RECORDED:
        raise ValueError(f"not the record of a run: it has to hold {', '.join(sorted(_RECORDED))}")
    if not all(isinstance(value, str) for value in record["params"].values()):
        raise ValueError("params have to be texts")
    _check_section("git", record["git"], _GIT)
    if record.get("follows"):
        _check_section("follows", record["follows"], _FOLLOWS)
    for key in ("track_every_minutes", "system_metrics_sec", "processes"):
        if record.get(key) is not None and not 0 <= record[key] < 2**31:
            raise ValueError(f"{key} is out of range")
    if datetime.fromisoformat(record["created"]).tzinfo is None:
        raise ValueError("created has no time zone")
    return record


def _check_section(name: str, content: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{name} has to hold {', '.join(kinds)}")
