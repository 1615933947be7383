"""Counts of `make fuzz`, and time for it."""

import pytest

from ..datasets.conftest import write_rar  # noqa: F401 - an archive of a kind that no library writes
from .mutations import LONG, REFUSED, TRIED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long form takes longer than other tests may."""
    for item in items:
        if LONG and "/fuzz/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(3600))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was tried, kind by kind."""
    if LONG and TRIED:
        terminalreporter.write_sep("-", f"{sum(TRIED.values())} mutations")
        for kind, count in sorted(TRIED.items()):
            terminalreporter.write_line(f"{kind:<24} {count:>6}, refused {REFUSED[kind]}")
