"""JSON of files that may be damaged or hostile: whatever is wrong with it is a ValueError."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["parse_json", "parse_object"]


def parse_json(text: str | bytes) -> Any:
    """A document's value; NaN and the infinities are taken, as Python's json writes them.

    Raises:
        ValueError: Not JSON or not UTF-8, an object with a key twice, or nested too deep to be read.
    """
    try:
        return _DECODER.decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_object(text: str | bytes, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """A document that is an object whose values, where they are there, are of given types.

    Args:
        kinds: Key -> type, or union of types; for int and float true and false do not do.

    Raises:
        ValueError: It is none; says which value is another.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} in place of an object")
    for key, kind in kinds.items():
        value = content.get(key)
        if key in content and (not isinstance(value, kind) or (isinstance(value, bool) and not _takes_bool(kind))):
            raise ValueError(f"{key} is {str(value)[:60]!r}, which it cannot be")
    return content


def _takes_bool(kind: Any) -> bool:
    return bool in (getattr(kind, "__args__", None) or (kind,))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for at, key in enumerate(keys) if key in keys[:at])
        raise ValueError(f"the key {twice[:60]!r} stands twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)
