"""Backup and restore with the shipped scripts, on a real PostgreSQL that loses everything in between."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from mlflow.entities import Metric

from saccade.tracking.store import Store

from .conftest import Compose
from .stack import Stack

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

POINTS = [(step, 1 / step) for step in range(1, 501)]


@pytest.fixture(scope="module")
def stack(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(compose, tmp_path_factory.mktemp("stack"))
    with stack.database():
        yield stack


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_everything_lost_comes_back(stack: Stack, tmp_path: Path) -> None:
    uri = stack.uri("mlflow")
    client = Store(uri, tmp_path).client
    run_id = client.create_run("0").info.run_id
    client.log_batch(run_id, [Metric("loss", value, 1000 + step, step) for step, value in POINTS])
    with psycopg.connect(stack.uri("optuna", "optuna", driver="")) as connection:
        connection.execute("CREATE TABLE studies (name text)")
        connection.execute("INSERT INTO studies VALUES ('toy')")
    for name in ("0/x/artifacts/ü b.csv", "0/x/artifacts/figures/a.png", "0/x/artifacts/empty", ".hidden"):
        path = stack.artifacts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * (0 if path.name == "empty" else 10_000))
    before = digests(stack.artifacts)

    done = stack.run("backup")
    assert done.returncode == 0, done.stderr
    backup = Path(done.stdout.strip().removeprefix("backup is in "))
    assert digests(backup).keys() == {"mlflow.dump", "mlflow_auth.dump", "optuna.dump", "artifacts.tar", "SHA256SUMS"}

    with psycopg.connect(stack.uri("postgres", "postgres", driver=""), autocommit=True) as connection:
        for name in ("mlflow", "optuna"):
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    for path in sorted(stack.artifacts.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (stack.artifacts / "later.txt").write_text("of after the backup")

    done = stack.run("restore", backup.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert digests(stack.artifacts) == before
    found = Store(uri, tmp_path).client.get_metric_history(run_id, "loss")
    assert sorted((point.step, point.value) for point in found) == POINTS
    with psycopg.connect(stack.uri("optuna", "optuna", driver="")) as connection:
        assert connection.execute("SELECT name FROM studies").fetchall() == [("toy",)]
    # Rights come back as well.
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(stack.uri("mlflow", "optuna", driver=""))


def test_a_restore_that_must_not_be(stack: Stack) -> None:
    done = stack.run("backup", profiles="s3")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert second == "the artifacts are in the S3 store: now docker compose run --rm bucket pull"
    backup = Path(first.removeprefix("backup is in "))
    (stack.artifacts / "precious.txt").write_text("x")

    def refusal(*words: str) -> str:
        done = stack.run("restore", *words)
        assert done.returncode == 1
        assert (stack.artifacts / "precious.txt").exists()
        assert done.stderr.splitlines()[-1].startswith("error: ")
        return done.stderr.splitlines()[-1]

    assert backup.name in refusal()
    assert backup.name in refusal("20000101T000000Z")
    with psycopg.connect(stack.uri("mlflow", driver="")):
        assert refusal(backup.name).startswith("error: someone is at work on mlflow; first docker compose stop mlflow")
    with open(backup / "mlflow.dump", "r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    assert refusal(backup.name) == f"error: backup {backup.name} is damaged"
