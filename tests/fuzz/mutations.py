"""What all of tests/fuzz share: files made wrong in every way, and what a reader may do with them.

A reader refuses what it is given with one clear line, or gives a result; it never ends in another exception and never
takes long. What a result has to be is for each test to say. `make fuzz` draws many more mutations than `make test`, and
others each time; `pytest --hypothesis-seed=N` repeats one of its runs.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from saccade.errors import SaccadeError

LONG = os.environ.get("SACCADE_FUZZ") == "long"
TRIED: Counter[str] = Counter()
"""Mutations that readers were given, by the kind of file."""
REFUSED: Counter[str] = Counter()
"""How many of these were refused."""
MOST_SECONDS = 5.0
"""CPU time of one reading; most take milliseconds."""
MOST_LETTERS = 1000
"""Of a message."""

_T = TypeVar("_T")
_ONE = 1 << 16
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_NUMBERS = (
    *(b"0", b"-0", b"-0.0", b"-1", b"1", b"2", b"7", b"49", b"1.0", b"0.5", b"1e0", b"1e400", b"-1e400", b"1e-400"),
    *(b"9" * 25, b"-" + b"9" * 25, b"1" + b"0" * 5000, b"9223372036854775807", b"9223372036854775808", b"4294967296"),
    *(b"NaN", b"-Infinity", b"nan", b"inf", b".inf", b"0x10", b"010", b"1_000", b"1,5", b"\xd9\xa3", b"null", b"true"),
    *(b'"1"', b"[1]", b"{}", b""),
)
_TOKENS = (
    *(b"", b"\0", b"\n", b"\r\n", b"\r", b"\t", b" ", b"  ", b"\x0b", b"\x0c", b"\x1c", b"\x7f", b"\x85", b"\xff"),
    *(
        b'"',
        b"'",
        b"\\",
        b"/",
        b"..",
        b"../../x",
        b"/etc/passwd",
        b"#",
        b"%",
        b"%s",
        b"$HOME",
        b"${A}",
        b"~",
        b"-",
        b"-rf",
    ),
    *(b":", b": ", b",", b"[", b"]", b"{", b"}", b"- ", b"? ", b"|", b">", b"&a ", b"*a", b"!!int ", b"<<: ", b"---\n"),
    *("é".encode(), "e\u0301".encode(), "\u2028".encode(), "\u202e".encode(), "\ufeff".encode(), b"\xed\xa0\x80"),
    *("\U0001f441".encode(), b"\xc3\x28", b"a" * 500, b"[" * 3000, b'{"a":' * 3000),
    *(b"null", b"true", b"NaN", b"-Infinity", b"[]", b"{}", b'""'),
)


@dataclass(frozen=True)
class Mutation:
    """One change of a file; places are parts of its length, counted in 1/65536."""

    how: str
    at: int
    to: int
    length: int
    token: bytes


@dataclass(frozen=True)
class Refusal:
    """What a reader said."""

    message: str


def fuzzed(short: int, long: int) -> settings:
    """Settings of a test: how many mutations in `make test`, always the same ones, and how many in `make fuzz`."""
    return settings(
        max_examples=long if LONG else short,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def mutations(
    tokens: Sequence[bytes] = (), *, how: Sequence[str] = (), most: int = 3
) -> st.SearchStrategy[list[Mutation]]:
    """Lists of one to `most` changes.

    Args:
        tokens: To be inserted, beside those that are wrong everywhere.
        how: Only changes of these sorts.
    """
    places = st.integers(0, _ONE - 1)
    one = st.builds(
        Mutation,
        how=st.sampled_from(tuple(how) or tuple(_WAYS)),
        at=places,
        to=places,
        length=st.sampled_from((1, 1, 2, 4, 8, 30, 200)),
        token=st.sampled_from((*tokens, *tokens, *_TOKENS)) | st.binary(min_size=1, max_size=4),
    )
    return st.lists(one, min_size=1, max_size=most)


def mutate(content: bytes, changes: Sequence[Mutation]) -> bytes:
    """The content after all changes, one after the other."""
    for change in changes:
        content = _WAYS[change.how](content, change)
    return content


def read(kind: str, reader: Callable[[], _T], error: type[SaccadeError] = SaccadeError) -> _T | Refusal:
    """Give a reader what was made wrong; what it does but to read or to refuse fails the test.

    Args:
        kind: Of file, for the count.
        reader: Reads it.
        error: The one that a refusal has to be.
    """
    TRIED[kind] += 1
    result: _T | Refusal
    began = time.process_time()
    try:
        result = reader()
    except error as refused:
        result = Refusal(str(refused))
    spent = time.process_time() - began
    assert spent < MOST_SECONDS, f"took {spent:.1f} s"
    if isinstance(result, Refusal):
        REFUSED[kind] += 1
        assert result.message.isprintable(), result.message
        assert 10 < len(result.message) < MOST_LETTERS, result.message
    return result


def refused(kind: str, reader: Callable[[], object], *said: str) -> str:
    """Expect a refusal that holds some words; gives all of it."""
    found = read(kind, reader)
    assert isinstance(found, Refusal), f"was taken: {found!r}"
    for words in said:
        assert words in found.message, found.message
    return found.message


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files below a folder by their paths from there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _place(content: bytes, part: int) -> int:
    return part * len(content) // _ONE


def _flip(content: bytes, change: Mutation) -> bytes:
    if not content:
        return content
    flipped = bytearray(content)
    flipped[_place(content, change.at)] ^= 1 << change.to % 8
    return bytes(flipped)


def _cut(content: bytes, change: Mutation) -> bytes:
    return content[: _place(content, change.at)]


def _drop(content: bytes, change: Mutation) -> bytes:
    at = _place(content, change.at)
    return content[:at] + content[at + change.length :]


def _double(content: bytes, change: Mutation) -> bytes:
    at = _place(content, change.at)
    return content[: at + change.length] + content[at:]


def _splice(content: bytes, change: Mutation) -> bytes:
    at, to = _place(content, change.at), _place(content, change.to)
    return content[:to] + content[at : at + change.length] + content[to:]


def _overwrite(content: bytes, change: Mutation) -> bytes:
    at = _place(content, change.at)
    return content[:at] + change.token + content[at + len(change.token) :]


def _insert(content: bytes, change: Mutation) -> bytes:
    at = _place(content, change.at)
    return content[:at] + change.token + content[at:]


def _number(content: bytes, change: Mutation) -> bytes:
    found = list(_NUMBER.finditer(content))
    if not found:
        return content
    old = found[change.at % len(found)]
    return content[: old.start()] + _NUMBERS[change.to % len(_NUMBERS)] + content[old.end() :]


def _line(content: bytes, change: Mutation) -> bytes:
    """A line is written a second time, or changes places with another."""
    lines = content.split(b"\n")
    at, to = change.at % len(lines), change.to % len(lines)
    if change.length % 2:
        lines.insert(to, lines[at])
    else:
        lines[at], lines[to] = lines[to], lines[at]
    return b"\n".join(lines)


def _word(content: bytes, change: Mutation) -> bytes:
    """A word becomes a token."""
    found = list(re.finditer(rb"[A-Za-z_]+", content))
    if not found:
        return content
    old = found[change.at % len(found)]
    return content[: old.start()] + change.token + content[old.end() :]


_WAYS: dict[str, Callable[[bytes, Mutation], bytes]] = {
    "flip": _flip,
    "cut": _cut,
    "drop": _drop,
    "double": _double,
    "splice": _splice,
    "overwrite": _overwrite,
    "insert": _insert,
    "number": _number,
    "line": _line,
    "word": _word,
}
