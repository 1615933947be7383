"""Blocks of shell commands, read by bash itself, in which programs only write down how they were called."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_RECORDER = """#!/bin/bash
{ printf '%s\\0' "${0##*/}" "$PWD" "$#" "$@"; env -0; printf '\\0'; } >> "$SACCADE_TEST_RECORD"
"""


class Call(NamedTuple):
    """A program that a block calls."""

    program: str
    words: list[str]
    """What stands after its name."""
    folder: Path
    environment: dict[str, str]

    def __str__(self) -> str:
        return " ".join([self.program, *self.words])


def record(script: str, folder: Path, programs: Sequence[str], environment: dict[str, str]) -> list[Call]:
    """Run a script in a folder; returns the calls of `programs`, none of which really runs.

    Raises:
        AssertionError: The shell found a mistake in it, or something else in it failed.
    """
    fakes, log = folder / ".fakes", folder / ".calls"
    fakes.mkdir(exist_ok=True)
    for program in programs:
        (fakes / program).write_text(_RECORDER)
        (fakes / program).chmod(0o755)
    log.unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**environment, "PATH": f"{fakes}:/usr/bin:/bin", "SACCADE_TEST_RECORD": str(log)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    return list(_calls(log.read_bytes().decode().split("\0")[:-1])) if log.exists() else []


def _calls(fields: list[str]) -> Iterator[Call]:
    while fields:
        program, folder, count = fields[0], fields[1], int(fields[2])
        words, rest = fields[3 : 3 + count], fields[3 + count :]
        end = rest.index("")
        environment = dict(line.split("=", 1) for line in rest[:end])
        yield Call(program, words, Path(folder), environment)
        fields = rest[end + 1 :]
