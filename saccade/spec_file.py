"""Spec files as text and as trees of marked nodes: reading them, and filling in what one takes from its `base`."""

import difflib
import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saccade.errors import SpecError, shorten
from saccade.yaml_marks import Node, parse_yaml

__all__ = ["ORDER_STEP", "inherit", "parse_tree", "printable", "read_text"]

MAX_BYTES = 1 << 20
_LONG_PATH = 500
"""Letters; longer ones are cut in the middle."""
ORDER_STEP = 1 << 20
"""More than the nodes of a file or an override: mistakes are told in the order bases, file, overrides."""
NOT_INHERITED = ("name", "then")
"""A file's own: what its run is called, and what runs after it."""


def parse_tree(text: str, source: str, order: int = 0) -> Node:
    """A spec's text as a mapping of nodes that know their line; `source` stands for the file in messages.

    Args:
        order: From which the nodes' own `order` counts up.

    Raises:
        SpecError: It is no mapping, or not YAML.
    """
    name = printable(source)
    root = _parsed(text.removeprefix("\ufeff"), name, order)
    if root is None:
        raise SpecError(f"{name}: the spec is empty; it needs at least a line such as 'name: my-run'")
    if not isinstance(root.value, dict):
        given = "a list" if isinstance(root.value, list) else f"'{shorten(root.text)}'"
        raise SpecError(f"{root.where}: a spec is lines of 'key: value'; got {given}")
    return Node(_own(root).value, "", False, name, order)


@functools.lru_cache(maxsize=16)  # A sweep reads its experiment and the bases of that for each point that it tries.
def _parsed(text: str, name: str, order: int) -> Node | None:
    return parse_yaml(text, lambda line: f"{name}:{line}" if line else name, order)


def _own(node: Node) -> Node:
    """The same tree with mappings of its own, for overrides are put into them."""
    if not isinstance(node.value, dict):
        return node
    return replace(node, value={key: _own(below) for key, below in node.value.items()})


def inherit(root: Node, source: str, below: Sequence[Path] = ()) -> Node:
    """The tree of a file laid over that of its `base`, if it names one: sections by key, all else as a whole.

    Args:
        root: What the file holds.
        source: The file, whose folder the path of its base starts from.
        below: The files that led here, outermost first.

    Raises:
        SpecError: The base cannot be read, or leads back to a file that it is the base of.
    """
    assert isinstance(root.value, dict)
    own = {key: node for key, node in root.value.items() if key != "base"}
    base = root.value.get("base")
    if base is None:
        return Node(own, "", False, root.where, root.order)
    if not isinstance(base.value, str) or not base.value:
        raise SpecError(f"{base.where}: base: must be the path of a spec file, seen from this one's folder")
    path = Path(source).parent / base.value
    files = [*below, Path(source)]
    if any(path.resolve() == file.resolve() for file in files):
        raise SpecError(f"{base.where}: base: {printable(base.value)} leads back to itself; name another file")
    try:
        text = read_text(path)
    except SpecError as error:
        raise SpecError(f"{base.where}: base: {error}") from None
    inherited = inherit(parse_tree(text, str(path), -ORDER_STEP * len(files)), str(path), files)
    assert isinstance(inherited.value, dict)
    kept = {key: node for key, node in inherited.value.items() if key not in NOT_INHERITED}
    return _overlay(Node(kept, "", False, root.where, root.order), Node(own, "", False, root.where, root.order))


def _overlay(below: Node, above: Node) -> Node:
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = _overlay(merged[key], node) if key in merged else node
    return Node(merged, above.text, above.quoted, above.where, above.order)


def printable(path: str) -> str:
    """A path for the middle of a message."""
    return shorten(path, _LONG_PATH)


def read_text(path: Path) -> str:
    """The text of a spec file of at most 1 MiB, UTF-8.

    Raises:
        SpecError: It cannot be read; with a file that may have been meant.
    """
    name = printable(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(f"{name}: no such file{_near_files(path)}") from None
    except IsADirectoryError:
        inside = sorted(child.name for child in itertools.islice(path.glob("*.yaml"), 1000))
        example = f", such as {printable(str(path / inside[0]))}" if inside else ""
        raise SpecError(f"{name}: is a folder; give a YAML file{example}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"{name}: cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise SpecError(f"{name}: larger than 1 MiB, which no spec is; give a YAML file")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SpecError(f"{name}: is UTF-16; save it as UTF-8")
    if b"\0" in content:
        raise SpecError(f"{name}: is binary (it holds NUL bytes); give a YAML file")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise SpecError(
            f"{name}:{line}: byte 0x{content[error.start]:02X} is not UTF-8; save the file as UTF-8"
        ) from None


def _near_files(path: Path) -> str:
    """A suggestion from the folder of a missing file, or from experiments/ beside it."""
    candidates: dict[str, Path] = {}
    for folder in (path.parent / "experiments", path.parent):
        try:
            children = list(itertools.islice(folder.iterdir(), 5000))
        except (OSError, ValueError):
            continue
        for child in children:
            if child.suffix in (".yaml", ".yml"):
                candidates |= {child.stem: child, child.name: child}
    near = difflib.get_close_matches(path.name[:255], candidates, n=1, cutoff=0.5)
    return f", did you mean {printable(str(candidates[near[0]]))}?" if near else "; give the path of a YAML spec"
