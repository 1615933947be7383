"""`saccade server`: what it needs is looked at before it starts; what it starts is quick, small and gone afterwards.

That its command line is that of docker/compose.yaml, and what that serves, is in tests/docker.
"""

import json
import os
import socket
import sqlite3
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from saccade.errors import RunError
from saccade.tracking import sqlite
from saccade.tracking.server import ServerSettings, serve
from saccade.tracking.server_checks import artifacts_uri, check_database, database_uri, newest_schema

from ..mlflow_server import Ui, free_port

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Command = Callable[..., tuple[int, str, str]]
INI = "[mlflow]\ndatabase_uri = sqlite:///basic_auth.db\ndefault_permission = READ\nadmin_username = admin\n"


@pytest.fixture(autouse=True)
def no_server_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


def refusal(saccade: Command, *words: str) -> str:
    """The one line that `saccade server` ends with."""
    code, out, err = saccade("server", "--port", str(free_port()), *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    return err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("postgresql://ann:pw@db:5433/mlflow", "postgresql+psycopg://ann:pw@db:5433/mlflow"),
        ("postgres://db/mlflow", "postgresql+psycopg://db/mlflow"),
        ("postgresql+psycopg://mlflow@db/mlflow", "postgresql+psycopg://mlflow@db/mlflow"),
        ("sqlite:////data/x.db", "sqlite:////data/x.db"),
    ],
)
def test_addresses_of_databases(given: str, uri: str) -> None:
    assert database_uri(given) == uri


@pytest.mark.parametrize(
    "given", ["mysql://ann:pw@db/mlflow", "http://db", "/data/x.db", "sqlite://", "postgresql://", ""]
)
def test_what_is_no_database(saccade: Command, given: str) -> None:
    with pytest.raises(RunError, match="give postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:////"):
        database_uri(given)
    if given:
        said = refusal(saccade, "--database", given)
        assert said.startswith("cannot keep runs in '")
        assert "pw" not in said


def test_a_relative_sqlite_path_is_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert database_uri("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"
    assert artifacts_uri("a b") == f"file://{tmp_path}/a%20b"
    assert artifacts_uri("s3://bucket/x") == "s3://bucket/x"


def test_a_taken_port(saccade: Command) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"cannot serve on 127.0.0.1:{port}: " in refusal(saccade, "--port", str(port))


def test_a_database_that_is_away(saccade: Command) -> None:
    address = f"postgresql://ann:secret@127.0.0.1:{free_port()}/mlflow"
    said = refusal(saccade, "--database", address)
    assert said.startswith("postgresql+psycopg://***@127.0.0.1:")
    assert "the database cannot be used (" in said
    assert "Connection refused" in said
    assert "secret" not in said


def test_folders_that_cannot_be_written(saccade: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refusal(saccade, "--artifacts", "file/below")
    assert said == f"{tmp_path}/file/below: cannot keep artifacts here (Not a directory); give --artifacts FOLDER"
    said = refusal(saccade, "--runs", "file/below", "--artifacts", "elsewhere")
    assert said.startswith(f"{tmp_path}/file/below/mlflow.db: cannot keep runs here (Not a directory); give ")
    assert "cannot keep artifacts at 'gs://x'" in refusal(saccade, "--artifacts", "gs://x")
    (tmp_path / "text.db").write_text("no database " * 100)
    said = refusal(saccade, "--database", f"sqlite:///{tmp_path}/text.db")
    assert said.startswith(f"{tmp_path}/text.db: cannot keep runs here (file is not a database)")


def test_names_that_are_none(saccade: Command) -> None:
    for name in ("http://lab", "lab:5000", "*.lab", "a,b", "-x"):
        assert f"'{name}' is no host name" in refusal(saccade, f"--allowed-hosts={name}")


def test_what_passwords_need(saccade: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "auth.ini: cannot be read (No such file" in refusal(saccade, "--auth", "auth.ini")
    (tmp_path / "auth.ini").write_text("[mlflow]\n")
    assert "auth.ini: No option 'database_uri'" in refusal(saccade, "--auth", "auth.ini")
    (tmp_path / "auth.ini").write_text(INI)
    assert "$MLFLOW_FLASK_SERVER_SECRET_KEY" in refusal(saccade, "--auth", "auth.ini")
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "key")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "too short")
    assert "12 characters or more" in refusal(saccade, "--auth", "auth.ini")


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("451aebb31d03", r"its tables are older than MLflow \S+; back it up, then run: mlflow db upgrade sqlite:///"),
        ("ffffffffffff", r"its tables \(version ffffffffffff\) are of a newer MLflow than MLflow \S+, or not MLflow's"),
    ],
)
def test_tables_of_another_mlflow(tmp_path: Path, version: str, said: str) -> None:
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES (?)", [version])
    database.close()
    settings = ServerSettings(database=f"sqlite:///{file}", artifacts=tmp_path.as_uri(), port=free_port())
    with pytest.raises(RunError, match=said):
        serve(settings, pytest.fail)


def test_the_newest_tables_are_those_that_mlflow_makes(ui: Ui) -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert newest_schema() == _get_latest_schema_revision()
    check_database(f"sqlite:///{ui.root}/mlflow.db")


def test_what_the_command_starts(saccade: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[ServerSettings] = []
    monkeypatch.setattr("saccade.tracking.server.serve", lambda settings, announce: started.append(settings) or 0)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://mlflow@db/mlflow")
    words = ["--artifacts", "s3://mlflow", "--host", "0.0.0.0", "--port", "80", "--workers", "3", "--auth", "auth.ini"]
    assert saccade("server", *words, "--allowed-hosts", "lab", "--allowed-hosts", "mlflow.lab.example")[0] == 0
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI")
    assert saccade("server", "--runs", "there")[0] == 0
    assert started == [
        ServerSettings(
            database="postgresql+psycopg://mlflow@db/mlflow",
            artifacts="s3://mlflow",
            host="0.0.0.0",
            port=80,
            workers=3,
            names=("lab", "mlflow.lab.example", socket.gethostname()),
            auth=Path("auth.ini"),
        ),
        ServerSettings(
            database=f"sqlite:///{tmp_path}/there/mlflow.db", artifacts=f"file://{tmp_path}/there/mlartifacts"
        ),
    ]


def test_no_password_is_on_a_command_line() -> None:
    settings = ServerSettings(database="postgresql+psycopg://ann:secret@db/mlflow", artifacts="s3://x")
    assert "secret" not in " ".join(settings.command())
    assert "secret" not in settings.summary(settings.address())
    assert settings.environment()["MLFLOW_BACKEND_STORE_URI"] == settings.database


def test_addresses_of_servers() -> None:
    for host, address in [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "127.0.0.1"), ("192.0.2.7", "192.0.2.7")]:
        assert ServerSettings(database="", artifacts="", host=host).address() == f"http://{address}:5000"


def test_its_memory(ui: Ui) -> None:
    """With one worker, of `saccade ui`, which is the server of these tests."""
    request = urllib.request.Request(
        f"{ui.address}/api/2.0/mlflow/experiments/search",
        json.dumps({"max_results": 10}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    parent = psutil.Process(ui.process)
    processes = [parent, *parent.children(recursive=True)]
    assert len(processes) == 3  # saccade, MLflow's command, and its worker
    assert sum(process.memory_full_info().pss for process in processes) < 500e6


def test_a_commit_waits_for_the_disk_once(ui: Ui) -> None:
    with closing(sqlite3.connect(ui.root / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_on_a_network_disk_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mlflow.db"
    monkeypatch.setattr(sqlite, "_file_system", lambda folder: "nfs4")
    assert not sqlite.write_ahead(file)
    assert not file.exists()


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4"), (str(tmp_path / "own"), "xfs")]
    parts = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts]
    monkeypatch.setattr(sqlite.psutil, "disk_partitions", lambda all: parts)
    (tmp_path / "own" / "runs").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "own")
    found = [sqlite._file_system(folder) for folder in (tmp_path / "runs", tmp_path / "own/runs", tmp_path / "linked")]
    assert found == ["nfs4", "xfs", "xfs"]
