"""What several tests share."""

import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .full_disk import small_disk  # noqa: F401
from .mlflow_server import door, server, ui  # noqa: F401 - here, for all folders to share one server
from .together import Together, together  # noqa: F401

# What a shell starts in the background ignores Ctrl-C, and so would all processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
LONG = (
    *("docker", "screens", "sweep", "tracking", "runs/test_verify", "chaos", "plan/test_plan"),
    *("models/test_encoder", "test_experiments", "test_docs", "distributed", "test_contributing", "supervisor"),
)
"""Tests that take minutes: they begin first, or one core would be at the last of them while the others wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the long ones to the front."""
    tests = REPOSITORY / "tests"
    items.sort(key=lambda item: not item.path.relative_to(tests).as_posix().startswith(LONG))


def pytest_collection_finish() -> None:
    """Leave all that imports have made out of garbage collections, which would go through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Networks as small as those of tests only lose by threads, which on a busy machine mostly wait for each other."""
    # Only where they are imported already: tests of specs and journals do without.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(1)


@pytest.fixture(autouse=True)
def strict_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors in processes that tests start, too, but where MLflow, which warns, is one of them."""
    if request.path.parent.name in ("datasets", "distributed", "engine", "plan"):
        monkeypatch.setenv("PYTHONWARNINGS", "error")


@pytest.fixture(autouse=True)
def own_style() -> Iterator[None]:
    """Optuna's pictures set a style of their own for their process, where any other test may come next."""
    yield
    if "matplotlib" in sys.modules and "optuna" in sys.modules:
        sys.modules["matplotlib"].rcdefaults()


@pytest.fixture(autouse=True)
def own_tracking_uri() -> Iterator[None]:
    """A test that calls mlflow.set_tracking_uri sets it for its process, where any other test may come next."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)  # which takes it out of the environment too
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, which may not be in the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("SACCADE_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real clips are not at {folder} (set SACCADE_SHARED to the folder that holds data/)")
    return folder


@pytest.fixture
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a trainer in this process, which listens to signals: the tests' own handlers come back afterwards."""
    monkeypatch.delenv("SACCADE_SUPERVISED", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For runs whose pictures nobody looks at: they take most of the time of a run as small as those of tests."""
    from saccade import report, runner
    from saccade.stages import classifiers, pretraining, retrieval

    for module in (report, runner, classifiers, pretraining, retrieval):
        for name in [name for name in vars(module) if name.startswith("draw_")]:
            monkeypatch.setattr(module, name, lambda *_, **__: None)


@pytest.fixture
def make_run(tmp_path: Path, own_signals: None) -> Callable[..., Path]:
    """Make a folder for a trainer in this process: (text of a spec, *overrides) to the folder."""
    from saccade.spec_reader import dump_spec, parse_spec

    def make(text: str, *overrides: str) -> Path:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "spec.yaml").write_text(dump_spec(parse_spec(text, "x.yaml", overrides)))
        return folder

    return make


@pytest.fixture(scope="session")
def make_toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a toy set as small as a test can use; returns the folder that holds the dataset."""
    from saccade.datasets.toy import write_toy

    def make(*, train_per_class: int = 1, test_per_class: int = 1, frames: int = 12) -> Path:
        root = tmp_path_factory.mktemp("data")
        write_toy(
            root,
            train_per_class=train_per_class,
            test_per_class=test_per_class,
            frames=frames,
            height=48,
            width=64,
            workers=1,
        )
        return root

    return make


@pytest.fixture(scope="session")
def empty_store(together: Together) -> Path:  # noqa: F811
    """An SQLite file with MLflow's tables, which take seconds to make: for a test to copy."""

    def make(folder: Path) -> None:
        import sqlalchemy

        from saccade.tracking.address import local_uri
        from saccade.tracking.store import Store

        with warnings.catch_warnings(action="ignore", category=sqlalchemy.exc.SADeprecationWarning):  # MLflow's own
            Store(local_uri(folder), folder)

    return together.once("store", make) / "mlflow.db"


@pytest.fixture
def saccade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    from saccade import cli

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saccade", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        code = end.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), out, err

    return run
