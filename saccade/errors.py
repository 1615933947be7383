"""What a user can get wrong. Each message is one line: what was given, what is allowed, what to do.

The command line prints a `SaccadeError` without a traceback and exits with 2. Everything else that is raised is a bug.
"""

import re

__all__ = [
    "CheckpointError",
    "DataError",
    "RunError",
    "SaccadeError",
    "SpecError",
    "WeightsError",
    "first_line",
    "shorten",
]

_MOST_LETTERS = 600
"""Of a word in a message, which may be a path."""
_LONG_WORD = re.compile(rf"\S{{{_MOST_LETTERS + 1},}}")


class SaccadeError(Exception):
    """A mistake in what was given to the program, never in the program."""

    def __str__(self) -> str:
        """The message in one line, whatever line breaks, invisible letters and endless words have come into it."""
        text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in super().__str__())
        return _LONG_WORD.sub(lambda word: shorten(word[0], _MOST_LETTERS), text)


class SpecError(SaccadeError):
    """An experiment spec, or an override of one, that cannot be used."""


class DataError(SaccadeError):
    """A dataset on disk that is incomplete, malformed or unreadable."""


class RunError(SaccadeError):
    """A run that cannot be found, started, resumed or tracked."""


class CheckpointError(SaccadeError):
    """A checkpoint that is damaged or belongs to another spec."""


class WeightsError(SaccadeError):
    """A file of weights that is damaged, hostile or of another model."""


def shorten(text: str, limit: int = 60) -> str:
    """Text for the middle of a message: one line, printable, cut in the middle when longer than `limit`."""
    if len(text) > limit:
        text = f"{text[: limit - 12]}...{text[-9:]}"
    return text if text.isprintable() else repr(text)[1:-1]


def first_line(error: Exception, limit: int = 160) -> str:
    """What a library's error says, short enough to stand inside one line of ours."""
    lines = str(error).splitlines()
    return lines[0][:limit] if lines else type(error).__name__
