"""What is wrong with a setting, in words: what it may be, what was given, what was perhaps meant.

Everything is derived from the JSON Schema of `SpecFile`, so a new field or range needs no line here. What is wrong with
the value of a field is said for other models too, such as that of sweeps.
"""

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from saccade.errors import shorten
from saccade.spec import SpecFile
from saccade.yaml_marks import Node, scalar_value, to_yaml

__all__ = ["allowed", "is_section", "schemas_of", "settings", "unknown_key", "unknown_path", "wrong_value"]

Schema = Mapping[str, Any]

_KINDS = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "boolean": ("true or false", "true or false"),
    "string": ("a text", "texts"),
    "null": ("null", "nulls"),
}
_MEANT_TRUE, _MEANT_FALSE = frozenset(["on", "yes", "y", "t", "1"]), frozenset(["off", "no", "n", "f", "0"])
_OTHER_NAMES = {"lr": "pretrain.learning_rate", "wd": "pretrain.weight_decay", "model": "encoder.name"}
"""Names of the field that neither the spec nor the release uses. The release's stand in the fields' descriptions."""
_MOST_SUGGESTIONS, _LONG = 3, 60


def settings() -> Mapping[str, Schema]:
    """`schemas_of` a spec file."""
    return schemas_of(SpecFile)


@functools.cache
def schemas_of(model: type[BaseModel]) -> Mapping[str, Schema]:
    """JSON Schema of each setting and section by its dotted path, in the order of the fields; "" is the whole file."""
    whole = model.model_json_schema()
    found: dict[str, Schema] = {"": whole}

    def walk(section: Schema, prefix: str) -> None:
        for key, schema in section["properties"].items():
            path = prefix + key
            if "$ref" in schema:
                found[path] = whole["$defs"][schema["$ref"].rpartition("/")[2]]
                walk(found[path], f"{path}.")
            else:
                found[path] = schema

    walk(whole, "")
    return found


def is_section(path: str) -> bool:
    """Whether a known dotted path has settings below it."""
    return "properties" in settings()[path]


def unknown_key(section: str, key: str) -> str:
    """The message for a key that `section` (dotted path, "" for the top level) does not have."""
    if "." in key and key in settings():
        above, _, last = key.rpartition(".")
        return f"unknown key; write {last} on a line of its own, indented below '{above}:'"
    near, elsewhere = _meant(section, key)
    prefix = f"{section}." if section else ""
    return _suggest(section, [path.removeprefix(prefix) for path in near] + elsewhere)


def unknown_path(path: str, depth: int) -> str:
    """The message for a dotted path whose part at `depth` is not a key of the section that the parts before it name."""
    typed = re.sub(r"\.+", ".", _plain_key(path).replace("/", ".")).strip("._")
    if typed in settings():
        return _suggest("", [typed])
    parts = path.split(".")
    section, rest = ".".join(parts[:depth]), "".join(f".{part}" for part in parts[depth + 1 :])
    near, elsewhere = _meant(section, parts[depth])
    return _suggest(section, [meant + rest if meant + rest in settings() else meant for meant in near + elsewhere])


def _suggest(section: str, meant: Sequence[str]) -> str:
    if meant:
        return f"unknown key, did you mean {' or '.join(meant)}?"
    return f"unknown key; allowed: {', '.join(settings()[section]['properties'])}"


def _meant(section: str, key: str) -> tuple[list[str], list[str]]:
    """Paths that a wrong key of a section may stand for: within the section, and elsewhere."""
    prefix = f"{section}." if section else ""
    near = [prefix + match for match in _close(key, list(settings()[section]["properties"]))[:1]]
    same = near == [prefix + _plain_key(key)]  # but for upper case and hyphens
    elsewhere = [path for path in _elsewhere(key) if path not in near] if not same else []
    if not near and not elsewhere:
        leaves = {path.rpartition(".")[2]: path for path in reversed(list(settings())) if path}  # the first of a name
        elsewhere = [leaves[match] for match in _close(key, list(leaves), cutoff=0.8)[:1]]
    return near, elsewhere[: _MOST_SUGGESTIONS - len(near)]


def _plain_key(key: str) -> str:
    return key[:100].replace("-", "_").replace(" ", "").lower()


def _close(key: str, known: Sequence[str], cutoff: float = 0.65) -> list[str]:
    return difflib.get_close_matches(_plain_key(key), known, n=_MOST_SUGGESTIONS, cutoff=cutoff)


def _elsewhere(key: str) -> list[str]:
    """Paths whose last part, or whose flag in the release, is the key."""
    plain = _plain_key(key)
    same = [path for path in settings() if path and path.rpartition(".")[2] == plain]
    return same or [path for path, schema in settings().items() if plain in _flags(path, schema)]


def _flags(path: str, schema: Schema) -> list[str]:
    # A description quotes the flag of the release: "Method: 1024 (`nce_k`)."
    other = [name for name, meant in _OTHER_NAMES.items() if meant == path]
    return re.findall(r"\(`(\w+)`\)", schema.get("description", "")) + other


def wrong_value(path: str, node: Node, index: int | None = None, model: type[BaseModel] = SpecFile) -> str:
    """The message for a value that the setting or section at `path` cannot take.

    Args:
        index: Position in the list when only one entry of it is wrong; `node` is that entry then.
        model: What the path is one of.
    """
    schema = schemas_of(model)[path]
    if "properties" in schema:
        return _wrong_section(schema, node)
    schema, nullable = _without_null(schema)
    entry = "" if index is None else f"entry {index + 1} "
    schema = schema if index is None else schema["items"]
    if node.value is None and not node.text:
        empty = schema["type"] == "string" and not schema.get("minLength")
        return f"has no value; it must be {_allowed(schema, nullable)}" + (', written "" when empty' if empty else "")
    hint = _hint(schema, node, nullable)
    return f"{entry}must be {_allowed(schema, nullable)}; got {_given(node)}" + (f"; {hint}" if hint else "")


def _wrong_section(schema: Schema, node: Node) -> str:
    example = next(iter(schema["properties"]))
    if node.value is None:
        return f"has no settings; indent them below it, such as '{example}: ...', or remove it"
    return f"must be a section with settings indented below it, such as '{example}: ...'; got {_given(node)}"


def allowed(schema: Schema) -> str:
    """What a setting of this schema may be, in words."""
    return _allowed(*_without_null(schema))


def _without_null(schema: Schema) -> tuple[Schema, bool]:
    """The schema of what is not null, and whether null is allowed too."""
    nullable = any(option.get("type") == "null" for option in schema.get("anyOf", ()))
    return ({**schema, **schema["anyOf"][0]} if nullable else schema), nullable


def _allowed(schema: Schema, nullable: bool) -> str:
    if "enum" in schema or "const" in schema:
        words = " or ".join(schema.get("enum", [schema.get("const")]))
    elif schema["type"] == "array":
        words = _allowed_list(schema)
    elif "pattern" in schema:
        words = f"{', '.join(schema['examples'])} or the like"
    elif schema["type"] == "string":
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        words = f"a text of {low} to {high} characters" if high else "a text that is not empty" if low else "a text"
    else:
        words = _KINDS[schema["type"]][0] + _range(schema)
    return f"{words}, or null" if nullable else words


def _allowed_list(schema: Schema) -> str:
    items, default = schema["items"], schema.get("default", [])
    amount = "one or more " if schema.get("minItems") else ""
    limits = _range(items).removeprefix(",")
    limits = f", each {limits.strip()}" if limits else ""
    example = default or (["a", "b"] if items["type"] == "string" else [1, 2])
    return f"a list of {amount}{_KINDS[items['type']][1]}{limits}, such as {_as_list(example)}"


def _as_list(values: Sequence[object]) -> str:
    return to_yaml({"": values}).removeprefix(": ").rstrip()


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    limits = [
        f"{low} or more" if low is not None else "",
        f"greater than {above}" if above is not None else "",
        f"{high} or less" if high is not None else "",
        f"less than {below}" if below is not None else "",
    ]
    return "".join(f", {limit}" for limit in limits if limit)


def _given(node: Node) -> str:
    if isinstance(node.value, dict):
        return "a mapping (key: value)" if node.value else "an empty mapping"
    if isinstance(node.value, list):
        return "a list" if node.value else "an empty list"
    if not isinstance(node.value, str):
        return shorten(node.text)
    length = f" of {len(node.text)} characters" if len(node.text) > _LONG else ""
    return f"'{shorten(node.text)}'{length}"


def _hint(schema: Schema, node: Node, nullable: bool) -> str:
    value, text = node.value, node.text.strip()[:100]
    if nullable and text.lower() in ("none", "nil", "off", "no", "false"):
        return "did you mean null?"
    if "enum" in schema:
        near = _close(text, schema["enum"], cutoff=0.5) if isinstance(value, str) else []
        return f"did you mean {near[0]}?" if near else ""
    if schema["type"] == "boolean":
        lower = text.lower()
        meant = "true" if lower in _MEANT_TRUE | {"true"} else "false" if lower in _MEANT_FALSE | {"false"} else ""
        return f"write {meant}, without quotes" if meant else ""
    if schema["type"] == "string":
        if isinstance(value, dict):
            return "put a text that holds ': ' in quotes" if value else ""
        return "" if isinstance(value, str | list) or text == "~" else f'for a text put it in quotes: "{shorten(text)}"'
    if schema["type"] == "array":
        return _hint_list(schema["items"], node)
    return _hint_number(schema["type"] == "integer", value, text)


def _hint_list(items: Schema, node: Node) -> str:
    if isinstance(node.value, dict | list):
        return ""
    words = [word for word in re.split(r"[,;\s]+", node.text.strip("()[] "))[:20] if word]
    try:
        values = [scalar_value(word) for word in words] if items["type"] != "string" else words
    except ValueError:
        return ""
    kinds = {"integer": int, "number": int | float, "string": str}[items["type"]]
    return f"write {_as_list(values)}" if values and all(isinstance(value, kinds) for value in values) else ""


def _hint_number(whole: bool, value: object, text: str) -> str:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return "it must be finite"
        return f"write {int(value)}" if whole and value == int(value) and abs(value) < 1e15 else ""
    if not isinstance(value, str):
        return ""
    bare = re.sub(r"(?<=\d)([_']|\s(?=\d{3}\b))(?=\d)", "", text)
    if re.fullmatch(r"0[xob][0-9a-fA-F]+", bare):
        try:
            return f"write it in decimal: {int(bare, 0)}"
        except ValueError:
            return ""
    if re.fullmatch(r"\d+(:\d+)+", bare):
        return "write one plain number, without ':'"
    if re.fullmatch(r"[\d.]+\s*%", bare) and not whole:
        return "write it as a fraction of 1, without %"
    if re.fullmatch(r"[-+]?\d+,\d+", bare):
        return "write it without the comma" if whole else "write '.' for the decimal point, and no ',' in numbers"
    if re.fullmatch(r"[\d.]+\s*[*/^]+\s*[\d.-]+", bare):
        return "formulas are not worked out; write the number"
    try:
        number = scalar_value(bare)
    except ValueError:
        return ""
    if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
        return ""
    return f"write {bare}, without quotes" if bare == text else f"write {bare}"
