"""Progress of long work with its rate and the time left: a bar on a terminal, a plain line now and then elsewhere."""

import os
import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

__all__ = ["TERMINAL_VARIABLE", "progress"]

T = TypeVar("T")
TERMINAL_VARIABLE = "SACCADE_TERMINAL"
"""Environment variable: "1" when what is written to stderr ends up on a terminal though stderr itself is a file."""

_BAR_SECONDS, _LINE_SECONDS, _SILENT_SECONDS = 0.5, 15.0, 1.0


class _PlainLines:
    """A text stream for tqdm that ends each redraw with a line feed where tqdm would return to the line's start."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        line = text.replace("\r", "").rstrip()
        if line:
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()


def progress(
    items: Iterable[T] | None = None, *, desc: str, unit: str, total: int | None = None, initial: int = 0
) -> Any:
    """A tqdm bar over `items`, or one to `update()` by hand when `items` is None.

    Args:
        desc: What is being done, two or three words.
        unit: What is counted, singular ("video").
        total: How many there are when `items` cannot say.
        initial: How many were done before, for resumed work.
    """
    terminal = sys.stderr.isatty() or os.environ.get(TERMINAL_VARIABLE) == "1"
    options: dict[str, Any] = {"desc": desc, "unit": f" {unit}", "total": total, "initial": initial, "smoothing": 0.1}
    options["delay"] = _SILENT_SECONDS  # what is done in a moment needs no bar
    options["disable"] = os.environ.get("RANK", "0") != "0"  # of several processes one shows how far all are
    options["miniters"] = 1  # or tqdm's own thread would look, by the clock that may jump
    if terminal:
        # Written to a file that the supervisor copies to the terminal, so tqdm cannot find out the width itself.
        columns = None if sys.stderr.isatty() else int(os.environ.get("COLUMNS", "100"))
        bar: Any = tqdm(items, mininterval=_BAR_SECONDS, file=sys.stderr, ncols=columns, leave=True, **options)
    else:
        bar = tqdm(items, mininterval=_LINE_SECONDS, file=_PlainLines(sys.stderr), ncols=100, **options)
    if not bar.disable:  # The rate and the time left are those of a clock that nobody sets.
        bar._time = time.monotonic
        bar.start_t = bar.last_print_t = bar._time()
    return bar
