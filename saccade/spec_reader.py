"""From a YAML file and `--set` overrides to a checked `Spec`, and from a `Spec` to text, parameters and hashes.

Every mistake becomes a `SpecError` of one line that begins with its place: `experiments/x.yaml:14: ...` or
`--set pretrain.epochs=ten: ...`. A value's own text stays as written: `${NAME}` is checked here and filled in by
`expand_env` where it is used, so a saved spec still says `${NAME}` and moves to another machine.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pydantic

from saccade.errors import SpecError, shorten
from saccade.spec import Spec, SpecFile
from saccade.spec_checks import impossible_combinations
from saccade.spec_file import ORDER_STEP, inherit, parse_tree, read_text
from saccade.spec_wording import is_section, settings, unknown_key, unknown_path, wrong_value
from saccade.yaml_marks import Node, parse_yaml, to_yaml

__all__ = [
    "dump_spec",
    "expand_env",
    "flatten",
    "group_hash",
    "json_schema",
    "parse_spec",
    "read_spec",
    "spec_diff",
    "spec_hash",
]

VARIABLE_PATHS = ("data.root", "encoder.weights", "tracking.uri")
"""Settings that may contain ${NAME}."""
UNHASHED_SECTIONS = ("name", "engine", "tracking", "checkpoint", "then")
"""What a run is called, which machine computes it, where it is recorded, what follows: nothing that changes it."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def read_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read an experiment spec.

    Args:
        path: YAML file of at most 1 MiB, UTF-8.
        overrides: `pretrain.learning_rate=0.05`, values in YAML; the last one for a path wins.

    Raises:
        SpecError: Anything that is wrong with them, in one line.
    """
    return parse_spec(read_text(Path(path)), str(path), overrides)


def parse_spec(text: str, source: str, overrides: Sequence[str] = ()) -> Spec:
    """`read_spec` for text that is already in memory; `source` stands for the file in messages."""
    root = parse_tree(text, source)
    for number, override in enumerate(overrides):
        _apply(root, override, ORDER_STEP * (number + 1))
    root = inherit(root, source)
    try:
        spec = Spec.model_validate(root.plain())
    except pydantic.ValidationError as error:
        errors = [(found["type"], found["loc"]) for found in error.errors(include_url=False)]
        # What is missing has no place in the file: told after the mistakes that have one, which may explain it.
        first = min(errors, key=lambda wrong: ORDER_STEP - 1 if wrong[0] == "missing" else _find(root, wrong[1]).order)
        raise SpecError(_explain(root, *first) + _and_more(errors)) from None
    wrongs = [*_misused_variables(spec), *impossible_combinations(spec)]
    if wrongs:
        node, path, wrong = min(
            ((_find(root, path.split(".")), path, wrong) for path, wrong in wrongs), key=lambda each: each[0].order
        )
        raise SpecError(_message(node, path, wrong) + _and_more(wrongs))
    return spec


def _and_more(problems: Sequence[object]) -> str:
    return f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""


def _apply(root: Node, override: str, order: int) -> None:
    """Put an override's value into the tree, where the file's own value for the path (if any) gives way."""
    where = f"--set {shorten(override, 100)}"
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not path.strip("."):
        raise SpecError(f"{where}: not of the form path=value, such as pretrain.learning_rate=0.05")
    parts = path.split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        if not is_section(above):
            raise SpecError(f"{where}: {above} is a single setting with nothing below it; write {above}=value")
        if part not in settings()[above]["properties"]:
            raise SpecError(f"{where}: {unknown_path(path, depth)}")
    if is_section(path):
        example = next(iter(settings()[path]["properties"]))
        raise SpecError(f"{where}: {path} is a section; set its keys one by one, such as {path}.{example}=value")
    value = parse_yaml(text, lambda _: where, order)
    if value is None and "#" in text:
        raise SpecError(f"{where}: what follows a # is a comment; put the value in quotes")
    section = root.value
    for part in parts[:-1]:
        if not isinstance(section, dict):
            return  # the file has something else in place of the section, which is going to be told
        section = section.setdefault(part, Node({}, "", False, root.where, 0)).value
    if isinstance(section, dict):
        section[parts[-1]] = value or Node(None, "", False, where, order)


def _find(root: Node, location: Sequence[int | str]) -> Node:
    """The node at the end of a path of keys and list positions, or the innermost around it that was written."""
    node = root
    for part in location:
        if isinstance(node.value, dict) and part in node.value:
            node = node.value[str(part)]
        elif isinstance(node.value, list) and isinstance(part, int):
            node = node.value[part]
        else:
            break
    return node


def _message(node: Node, path: str, wrong: str) -> str:
    # The text of an override shows the path already.
    return (
        f"{node.where}: {wrong}" if node.where.startswith("--set ") else f"{node.where}: {shorten(path, 100)}: {wrong}"
    )


def _explain(root: Node, kind: str, location: tuple[int | str, ...]) -> str:
    """One of pydantic's errors in words for a researcher."""
    keys = [part for part in location if isinstance(part, str)]
    node, path = _find(root, location), ".".join(keys)
    if kind == "missing":
        wrong = f"is missing; add a line '{keys[-1]}: ...'"
    elif kind == "extra_forbidden":
        wrong = unknown_key(".".join(keys[:-1]), keys[-1])
    else:
        wrong = wrong_value(path, node, location[-1] if isinstance(location[-1], int) else None)
    return _message(node, path, wrong)


def _misused_variables(spec: Spec) -> Iterator[tuple[str, str]]:
    for path, value in _leaves(spec):
        for text in value if isinstance(value, tuple) else (value,):
            if not isinstance(text, str):
                continue
            if path not in VARIABLE_PATHS:
                if "${" in text:
                    allowed = " and ".join([", ".join(VARIABLE_PATHS[:-1]), VARIABLE_PATHS[-1]])
                    yield path, f"'{shorten(text)}': ${{NAME}} works only in {allowed}; write the value out"
            elif "${" in _VARIABLE.sub("", text):
                yield path, f"'{shorten(text)}': only ${{NAME}} is understood, NAME of letters, digits and _"
            elif path in ("data.root", "encoder.weights") and re.match(r"~|\$[A-Za-z_]", text):
                meant = re.sub(r"^(~(?=/|$)|\$([A-Za-z_]\w*))", lambda found: f"${{{found[2] or 'HOME'}}}", text)
                yield path, f"'{shorten(text)}' would be taken literally; write {shorten(meant)}"


def expand_env(text: str, where: str) -> str:
    """Fill in each `${NAME}` from the environment, once: a value is not searched for more.

    Args:
        where: The setting, for the message: "data.root".

    Raises:
        SpecError: A variable that is not set, or empty.
    """

    def value(found: re.Match[str]) -> str:
        content = os.environ.get(found[1], "")
        if not content:
            state = "is empty" if found[1] in os.environ else "is not set"
            raise SpecError(f"{where}: the environment variable {found[1]} {state}; export it, or write the value out")
        return content

    return _VARIABLE.sub(value, text)


def _leaves(spec: Spec) -> Iterator[tuple[str, object]]:
    def walk(values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
        for key, value in values.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return walk(spec.model_dump(), "")


def dump_spec(spec: Spec) -> str:
    """All settings as YAML text, in the order of their fields; `read_spec` gives an equal spec back."""
    return to_yaml(spec.model_dump())


def flatten(spec: Spec) -> dict[str, str | int | float | bool]:
    """Each setting by its dotted path, as a scalar: lists as "1500 1500 1500" ("[]" when empty), None as "null"."""
    flat: dict[str, str | int | float | bool] = {}
    for path, value in _leaves(spec):
        if isinstance(value, tuple):
            flat[path] = " ".join(map(str, value)) or "[]"
        else:
            flat[path] = value if isinstance(value, str | int | float) else "null"
    return flat


def _hash(spec: Spec, *, leave_out: tuple[str, ...]) -> str:
    settings = {key: value for key, value in spec.model_dump(mode="json").items() if key not in leave_out}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def spec_hash(spec: Spec) -> str:
    """12 hex digits of all that changes the result: equal for specs that differ in name, engine and tracking only."""
    return _hash(spec, leave_out=UNHASHED_SECTIONS)


def group_hash(spec: Spec) -> str:
    """`spec_hash` without the seed: equal for the runs of one seed curve."""
    return _hash(spec, leave_out=(*UNHASHED_SECTIONS, "seed"))


def spec_diff(a: Spec, b: Spec) -> dict[str, tuple[object, object]]:
    """Settings in which two specs differ: dotted path -> (value in a, value in b)."""
    other = dict(_leaves(b))
    return {path: (value, other[path]) for path, value in _leaves(a) if value != other[path]}


def json_schema() -> str:
    """JSON Schema of a spec file, for completion and checks in editors (yaml-language-server)."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **SpecFile.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
