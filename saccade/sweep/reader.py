"""From a sweep's YAML file to a checked `Sweep`. Every mistake is one line that begins with its place.

Whatever stands in a sweep for a setting of the experiment (a range's ends, choices, fixed overrides) goes through the
same check as `--set`, so a value that a trial could not run with is refused here.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pydantic

from saccade.chain import shared_overrides
from saccade.errors import SpecError, shorten
from saccade.spec_file import parse_tree, printable, read_text
from saccade.spec_reader import read_spec
from saccade.spec_wording import wrong_value
from saccade.sweep.checks import problems
from saccade.sweep.search import own_part, read_dimensions
from saccade.sweep.spec import Objective, Pruner, Sweep, SweepFile, as_override
from saccade.yaml_marks import Node

__all__ = ["check_shareable", "read_sweep"]

_OWN = ("search", "set")
"""Keys of a sweep that are not fields of `SweepFile`: their keys are paths of the experiment's settings."""


def read_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep spec.

    Args:
        path: YAML file.
        overrides: `--set` of the command line: settings of the machine, which may differ from one to the next.

    Raises:
        SpecError: Anything that is wrong with it, in one line.
    """
    path = Path(path)
    foreign = [each for each in overrides if each not in shared_overrides(overrides)]
    if foreign:
        raise SpecError(
            f"--set {shorten(foreign[0], 100)}: every machine of a sweep runs the same, so only data.root, engine, "
            f"tracking and checkpoint can be set here; put it below 'set:' in {printable(str(path))}"
        )
    keys = _keys(path)
    root = Node({key: node for key, node in keys.items() if key not in _OWN}, "", False, printable(str(path)), 0)
    file = _validated(root)
    lines = _fixed(keys.get("set"))
    fixed = (*(override for _, override in lines), *overrides)
    try:
        start = read_spec(path.parent / file.experiment, fixed).model_copy(update={"then": ()})
    except SpecError as error:
        for node, override in reversed(lines):
            told = own_part(str(error), override)
            if told:
                raise SpecError(f"{node.where}: set: {override.partition('=')[0]}: {told}") from None
        raise SpecError(f"{keys['experiment'].where}: experiment: {error}") from None
    sweep = Sweep(path=path, file=file, dimensions=(), fixed=fixed, start=start)
    if "search" not in keys:
        raise SpecError(f"{printable(str(path))}: search: is missing; list the settings to search below it")
    sweep = replace(sweep, dimensions=read_dimensions(keys["search"], sweep))
    for key, wrong in problems(sweep):
        raise SpecError(f"{keys[key].where if key in keys else printable(str(path))}: {key}: {wrong}")
    return sweep


def check_shareable(path: Path, overrides: Sequence[str], slurm: str) -> None:
    """Refuse a sweep that several machines cannot work at: SQLite files on network disks get corrupted.

    Raises:
        SpecError: Something is wrong with it, or its storage is a file.
    """
    sweep = read_sweep(path, overrides)
    if slurm != "local" and (not sweep.file.storage or sweep.file.storage.startswith("sqlite")):
        raise SpecError(
            f"{printable(str(path))}: storage: workers on several machines need a database server; add "
            "'storage: postgresql://USER:PASSWORD@HOST/DATABASE' (may contain ${NAME})"
        )


def _keys(path: Path) -> Mapping[str, Node]:
    """The file's nodes by key, short forms written out: `pruner: asha` is `pruner: {name: asha}`."""
    root = parse_tree(read_text(path), str(path))
    assert isinstance(root.value, dict)
    keys = dict(root.value)
    if "pruner" in keys:
        keys["pruner"] = _long(keys["pruner"], "name")
    if "objective" in keys:
        node = keys["objective"]
        several = node.value if isinstance(node.value, list) else [node]
        keys["objective"] = replace(node, value=[_long(each, "metric") for each in several])
    _refuse_unknown(SweepFile, keys, "", also=_OWN)
    if isinstance(keys.get("pruner", root).value, dict):
        _refuse_unknown(Pruner, _children(keys.get("pruner")), "pruner.")
    for section in ("budget", "lease"):
        model = SweepFile.model_fields[section].annotation
        assert isinstance(model, type)
        _refuse_unknown(model, _children(keys.get(section)), f"{section}.")
    for each in _list(keys.get("objective")):
        _refuse_unknown(Objective, _children(each), "objective.")
    return keys


def _long(node: Node, key: str) -> Node:
    return node if isinstance(node.value, dict) else replace(node, value={key: node}, text="")


def _children(node: Node | None) -> Mapping[str, Node]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _list(node: Node | None) -> Sequence[Node]:
    return node.value if node is not None and isinstance(node.value, list) else ()


def _refuse_unknown(
    model: type[pydantic.BaseModel], keys: Mapping[str, Node], prefix: str, also: Sequence[str] = ()
) -> None:
    allowed = [*model.model_fields, *also]
    for key, node in keys.items():
        if key not in allowed:
            near = difflib.get_close_matches(key[:100], allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(allowed)}"
            raise SpecError(f"{node.where}: {shorten(prefix + key, 100)}: unknown key, {hint}")


def _validated(root: Node) -> SweepFile:
    try:
        return SweepFile.model_validate(root.plain())
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)[0]
    keys = [part for part in found["loc"] if isinstance(part, str)]
    node, path = root, ".".join(keys)
    for part in found["loc"]:
        if isinstance(node.value, list) and isinstance(part, int):
            node = node.value[part]
        elif isinstance(node.value, dict) and part in node.value:
            node = node.value[str(part)]
    if found["type"] == "missing":
        wrong = f"is missing; add a line '{keys[-1]}: ...'"
    elif found["type"] in ("string_pattern_mismatch", "string_too_long"):
        wrong = f"must be of at most 100 letters, digits, '_', '.' and '-'; got '{shorten(node.text)}'"
    elif keys[0] == "objective":
        wrong = wrong_value(keys[-1], node, model=Objective) if len(keys) > 1 else "give at least one metric"
    else:
        wrong = wrong_value(path, node, model=SweepFile)
    raise SpecError(f"{node.where}: {path}: {wrong}")


def _fixed(node: Node | None) -> list[tuple[Node, str]]:
    """What stands below `set`, as overrides, and where."""
    if node is None:
        return []
    if not isinstance(node.value, dict):
        raise SpecError(f"{node.where}: set: must be settings by their dotted paths, such as 'pretrain.epochs: 30'")
    for path, value in node.value.items():
        if isinstance(value.value, dict):
            raise SpecError(f"{value.where}: set: {shorten(path, 100)}: write the dotted path of each setting below it")
    return [(value, as_override(path, value.plain())) for path, value in node.value.items()]
