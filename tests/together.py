"""What the processes of one run of the suite have together: made by the first that asks, ended by the last."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest


class Together:
    """A folder of all processes.

    Args:
        folder: It.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """One process at a time."""
        with open(self.folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder that is filled only once."""
        path = self.folder / name
        with self.alone(name):
            if not path.exists():
                new = path.with_name(f"{name}.new")
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
                make(new)
                new.rename(path)
        return path

    @contextmanager
    def while_used(self, name: str, begin: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
        """Begin something if nobody has, and end it if nobody uses it any more, who was killed included."""
        with open(self.folder / f"{name}.users", "w") as users:
            with self.alone(name):
                if _nobody_else(users):
                    begin()
                fcntl.flock(users, fcntl.LOCK_SH)
            try:
                yield
            finally:
                with self.alone(name):
                    if _nobody_else(users):
                        end()


def _nobody_else(users: IO[str]) -> bool:
    """Take a lock that others share; false when one of them has it."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """The folder that is above those of pytest's processes, if there are several."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "together"
    folder.mkdir(exist_ok=True)
    return Together(folder)
