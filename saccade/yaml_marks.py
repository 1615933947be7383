"""YAML with line marks: text in, a tree of `Node`s that know where they stand, and plain settings back to text.

The scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), less what misleads:
`1e-3` is a number and `on` a string, unlike in PyYAML; `012` is refused, `0x10` and `0o17` stay strings. Tags, anchors,
aliases and merge keys are refused, so no text can build an object or grow in memory, and the tree is built from the
parser's events without recursion, so no depth of brackets can exhaust the stack.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import yaml

from saccade.errors import SpecError, shorten

__all__ = ["Locate", "Node", "Scalar", "parse_yaml", "scalar_value", "to_yaml"]

Scalar = None | bool | int | float | str
Locate = Callable[[int | None], str]
"""From a line, counted from 1, to the start of a message: "experiments/x.yaml:14". None stands for the whole text."""

MAX_DEPTH = 16
"""Levels of nesting; a spec needs four."""
MAX_VALUES = 50_000
"""Values in a text; the only long part of a spec is a list of videos."""
MAX_INTEGER = 2**63 - 1

_NULLS = frozenset(["", "~", "null", "Null", "NULL"])
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
# Readers of YAML 1.1 take these for booleans, so they are quoted when written though plain would do for this reader.
_YAML_1_1 = frozenset(["y", "n", "yes", "no", "on", "off"])
# U+0085, U+2028 and U+2029 are line breaks to PyYAML and to no editor: line numbers would differ.
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GLUED = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z0-9.\[{+-]")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")

_SYNTAX = (
    (r"'\\t' that cannot start", "a tab stands where only spaces can; use spaces"),
    (r"found character '(.)' that cannot start", "'{0}' cannot begin a value; put the value in quotes"),
    ("mapping values are not allowed here", "a ':' that cannot stand here; check the indentation, or quote the value"),
    ("could not find expected ':'", "no key and value here; write 'key: value', with a space after the colon"),
    ("expected <block end>", "the line does not fit those above; check its indentation and quotes"),
    ("found '<stream end>'", "the text ends too early; close each bracket and quote"),
    (r"expected ',' or '(.)'", "a ',' or '{0}' is missing before this, in the brackets that open on line {line}"),
    ("found unexpected end of stream", "a quote that begins here is never closed"),
    ("found unknown escape character", "a backslash inside double quotes needs doubling; or use single quotes"),
    ("expected '<document start>'", "the line does not belong to what stands above it; a spec is one mapping"),
    ("expected the node content, but found '(.+)'", "a value is missing before '{0}'"),
)


class _RefusedError(ValueError):
    """A scalar that YAML readers disagree on or that no setting can hold."""


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands.

    Attributes:
        value: A scalar, a list of nodes, or a dict of nodes by key.
        text: A scalar as it was written, without its quotes; "" for collections.
        quoted: Whether a scalar stood in quotes (or in a `|` or `>` block).
        where: Start of a message about this node. In a mapping it is the line of the key.
        order: Grows from the top of a file to its end.
    """

    value: Scalar | list["Node"] | dict[str, "Node"]
    text: str
    quoted: bool
    where: str
    order: int

    def plain(self) -> object:
        """The value without its marks."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def scalar_value(text: str) -> Scalar:
    """What a scalar without quotes means.

    Raises:
        ValueError: An integer with a leading zero or beyond 64 bits; the message says what to write.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _LEADING_ZERO.fullmatch(text):
        decimal = text.lstrip("+-").lstrip("0") or "0"
        raise _RefusedError(
            f"{shorten(text)} is octal to some readers and decimal to others; "
            f'write {shorten(decimal)}, or "{shorten(text)}" for a text'
        )
    if _INTEGER.fullmatch(text):
        # The length first: Python refuses to convert thousands of digits, and takes long over hundreds.
        if len(text) > 20 or abs(int(text)) > MAX_INTEGER:
            raise _RefusedError(
                f"{shorten(text)} does not fit in 64 bits; write a smaller number, or put a text in quotes"
            )
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def parse_yaml(text: str, locate: Locate, order: int = 0) -> Node | None:
    """Read one YAML document; None when there is nothing in it but comments.

    Args:
        order: From which the nodes' own `order` counts up.

    Raises:
        SpecError: Anything in it that is not plain mappings, lists and scalars; one line with the place.
    """
    bad = _CONTROL.search(text)
    if bad:
        line = 1 + len(_LINE_BREAK.findall(text, 0, bad.start()))
        raise SpecError(f"{locate(line)}: control character U+{ord(bad[0]):04X}; remove it, a spec is plain text")
    loader = yaml.SafeLoader(text)
    try:
        return _Builder(locate, order).build(loader)
    except yaml.MarkedYAMLError as error:
        raise SpecError(_syntax_message(error, text, locate)) from None
    except (ValueError, OverflowError):
        # PyYAML calls chr() on the number in "\UFFFFFFFF", and int() on that in %YAML, without a look at it.
        raise SpecError(
            f"{locate(loader.line + 1)}: an escape or %YAML line with an impossible number; correct or remove it"
        ) from None
    finally:
        loader.dispose()


def _syntax_message(error: yaml.MarkedYAMLError, text: str, locate: Locate) -> str:
    problem, mark = error.problem or "", error.problem_mark or error.context_mark
    # PyYAML finds these out lines below the place to mend.
    begins_earlier = "could not find expected ':'" in problem or "unexpected end of stream" in problem
    if begins_earlier and error.context_mark is not None:
        mark = error.context_mark
    line = mark.line + 1 if mark else None
    glued = _glued_line(text, line or 1)
    if glued:
        return f"{locate(glued)}: a space is missing after the ':'"
    message = f"not YAML: {shorten(problem, 100)}"
    for pattern, plain in _SYNTAX:
        found = re.search(pattern, problem)
        if found:
            opening = error.context_mark.line + 1 if error.context_mark else line
            message = plain.format(*found.groups(), line=opening)
            break
    return f"{locate(line)}: {message}"


def _glued_line(text: str, line: int) -> int | None:
    """The line of a `key:value` at `line` or just above: YAML reads it as text and complains about what follows."""
    lines = _LINE_BREAK.split(text)
    for number in range(min(line, len(lines)), 0, -1):
        if _GLUED.match(lines[number - 1]):
            return number
        if number < line and lines[number - 1].strip():
            return None
    return None


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet; `key` waits for its value, `lines` are those of all its keys."""

    node: Node
    path: str
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)

    def child_path(self) -> str:
        if isinstance(self.node.value, list):
            return f"{self.path}[{len(self.node.value)}]"
        return f"{self.path}.{self.key}" if self.path else str(self.key)


class _Builder:
    def __init__(self, locate: Locate, order: int) -> None:
        self._locate = locate
        self._stack: list[_Open] = []
        self._order = order
        self._most = order + MAX_VALUES
        self._root: Node | None = None

    def build(self, loader: yaml.SafeLoader) -> Node | None:
        documents = 0
        while loader.check_event():
            event = loader.get_event()  # type: ignore[no-untyped-call]
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._fail(line, "a second document ('---') begins; a spec is one document")
            elif isinstance(event, yaml.NodeEvent):
                self._refuse_extras(event, line)
                self._node(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._stack.pop()
        empty = self._root is not None and self._root.value is None and not self._root.text
        return None if empty else self._root

    def _fail(self, line: int, message: str, path: str = "") -> NoReturn:
        where = f"{self._locate(line)}: {shorten(path)}" if path else self._locate(line)
        raise SpecError(f"{where}: {message}")

    def _refuse_extras(self, event: yaml.NodeEvent, line: int) -> None:
        if event.anchor is not None:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self._fail(line, f"anchors and aliases ({mark}{shorten(event.anchor)}) are refused; write the values out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            tag = tag.replace("tag:yaml.org,2002:", "!!")
            self._fail(line, f"tags ({shorten(tag)}) are refused; write the plain value")

    def _node(self, event: yaml.NodeEvent, line: int) -> None:
        parent = self._stack[-1] if self._stack else None
        if parent and isinstance(parent.node.value, dict) and parent.key is None:
            self._key(parent, event, line)
            return
        path = parent.child_path() if parent else ""
        self._order += 1
        if self._order > self._most:
            self._fail(line, f"more than {MAX_VALUES} values, which no spec has")
        where = self._locate(parent.lines[parent.key] if parent and parent.key is not None else line)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._scalar(event, line, path), event.value, not event.implicit[0], where, self._order)
        else:
            empty: list[Node] | dict[str, Node] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            node = Node(empty, "", False, where, self._order)
        self._attach(parent, node)
        if not isinstance(event, yaml.ScalarEvent):
            if len(self._stack) == MAX_DEPTH:
                self._fail(line, f"nested more than {MAX_DEPTH} levels deep")
            self._stack.append(_Open(node, path))

    def _attach(self, parent: _Open | None, node: Node) -> None:
        if parent is None:
            self._root = node
        elif isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif isinstance(parent.node.value, dict) and parent.key is not None:
            parent.node.value[parent.key] = node
            parent.key = None

    def _scalar(self, event: yaml.ScalarEvent, line: int, path: str) -> Scalar:
        try:
            value = scalar_value(event.value) if event.implicit[0] else str(event.value)
        except _RefusedError as refused:
            self._fail(line, str(refused), path)
        if isinstance(value, str) and any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in value):
            self._fail(line, "a text with a line break, tab or control character; write it on one line without", path)
        return value

    def _key(self, parent: _Open, event: yaml.NodeEvent, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self._fail(line, "a list or mapping stands as a key; a key is a word", parent.path)
        if event.value == "<<" and event.implicit[0]:
            self._fail(line, "merge keys (<<) are refused; write the values out", parent.path)
        key = event.value if not event.implicit[0] else self._scalar(event, line, parent.path)
        if not isinstance(key, str) or not key:
            written = f"'{shorten(event.value)}'" if event.value else "nothing"
            self._fail(line, f"a key is a word; got {written} before the ':'", parent.path)
        odd = next((letter for letter in key if not letter.isprintable()), None)
        if odd is not None:
            self._fail(line, f"the key '{shorten(key)}' holds the invisible U+{ord(odd):04X}; retype it", parent.path)
        parent.key = key
        if key in parent.lines:
            first = parent.lines[key]
            self._fail(line, f"set a second time, the first is on line {first}; remove one", parent.child_path())
        parent.lines[key] = line


def to_yaml(settings: Mapping[str, object], indent: int = 0) -> str:
    """Nested settings as YAML text, in their order; `parse_yaml` reads the same values back.

    Args:
        settings: Values are None, bool, int, float, str, lists or tuples of these, or mappings.
    """
    lines = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines.append(f"{' ' * indent}{key}:\n{to_yaml(value, indent + 2)}")
        elif isinstance(value, list | tuple):
            lines.append(f"{' ' * indent}{key}: [{', '.join(map(_scalar_text, value))}]\n")
        else:
            lines.append(f"{' ' * indent}{key}: {_scalar_text(value)}\n")
    return "".join(lines)


def _scalar_text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)  # the shortest text that gives the same float
    text = str(value)
    plain = _PLAIN.fullmatch(text) and text.lower() not in _YAML_1_1 and scalar_value(text) == text
    # A JSON string is a double-quoted YAML scalar.
    return text if plain else json.dumps(text, ensure_ascii=False)
