"""The containers of docker/compose.yaml without containers: a tracked run through them, backups, an upgrade."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg
import pytest

from saccade.errors import RunError
from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec
from saccade.supervisor import supervise
from saccade.tracking.server_checks import check_database, newest_schema
from saccade.tracking.store import Store

from .conftest import LAB_HOST, Compose
from .stack import POSTGRES, Stack

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

STUB = Path(__file__).parent.parent / "trainer_stub.py"
FILES = {"figures/a.png": "a" * 100_000, "clusters/epoch_0001/ü b.csv": "1,2", "empty.txt": ""}
LAST = 60


@pytest.fixture(scope="module")
def stack(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(compose, tmp_path_factory.mktemp("stack"))
    with stack.database():
        yield stack


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[str]:
    """The server without profiles."""
    with stack.server() as address:
        yield address


@pytest.fixture(scope="module")
def guarded(stack: Stack) -> Iterator[str]:
    """The server with artifacts in the S3 store, and passwords."""
    with stack.store(), stack.server("s3,auth") as address:
        yield address


@pytest.fixture(scope="module")
def password(stack: Stack) -> str:
    """The administrator's."""
    return stack.compose.services("auth")["mlflow"]["environment"]["MLFLOW_AUTH_ADMIN_PASSWORD"]


def rows(stack: Stack, query: str, name: str = "mlflow", role: str = "mlflow") -> list[tuple[Any, ...]]:
    with psycopg.connect(stack.uri(name, role, driver="")) as connection:
        return connection.execute(query).fetchall()


def ask(
    address: str, method: str, path: str, host: str, password: str = "", body: Any = None, **headers: str
) -> tuple[int, Message, str]:
    """A request under a Host name of one's choice; status, headers and text of the answer."""
    given = {"Host": host, "Content-Type": "application/json", **_credentials(password), **headers}
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)) as connection:
        connection.request(method, path, body and json.dumps(body), given)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def quickest_ms(address: str, run_id: str, password: str = "") -> float:
    """Time of the quickest of many log_metric calls over a connection that is kept, as MLflow's client keeps it."""
    headers = {"Content-Type": "application/json", **_credentials(password)}
    times = []
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)) as connection:
        for step in range(60):
            body = {"run_id": run_id, "key": "speed", "value": 1.0, "timestamp": 1000 + step, "step": step}
            began = time.perf_counter()
            connection.request("POST", "/api/2.0/mlflow/runs/log-metric", json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - began)
            assert answer.status == 200
    return min(times) * 1e3


def _credentials(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"admin:{password}".encode()).decode()} if password else {}


def train(run: RunDir, address: str) -> int:
    actions = [["train", LAST, {"save_every": 30}], *(["file", name, text] for name, text in FILES.items())]
    command = [sys.executable, str(STUB), json.dumps(actions)]
    return supervise(run, resume=False, tracking_uri=address, experiment="tests", command=command, patience_sec=60.0)


def check_run(address: str, run: RunDir, folder: Path) -> str:
    """Assert that MLflow has the run's every point and byte; its id there."""
    store = Store(address, run.root)
    (found,) = store.client.search_runs([store.open_experiment("tests")], f"tags.`saccade.run_id` = '{run.id}'")
    assert found.info.status == "FINISHED"
    points = store.client.get_metric_history(found.info.run_id, "pretrain/loss")
    assert sorted((point.step, point.value) for point in points) == [(step, 1 / step) for step in range(1, LAST + 1)]
    folder.mkdir()
    for name, text in FILES.items():
        copy = Path(store.client.download_artifacts(found.info.run_id, name, str(folder)))
        assert copy.read_text() == text
    return str(found.info.run_id)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tracked(stack: Stack, address: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, str]:
    """A run that went through the server without profiles, and its id in MLflow."""
    run = create_run(tmp_path_factory.mktemp("runs") / "runs", Spec(name="toy"), [])
    assert train(run, address) == 0
    return run, check_run(address, run, tmp_path_factory.mktemp("copies") / "x")


def test_postgresql_is_of_the_version_in_the_compose_file(stack: Stack) -> None:
    image = stack.compose.services()["db"]["image"]
    said = subprocess.run([POSTGRES / "postgres", "--version"], capture_output=True, text=True).stdout
    assert said.strip() == f"postgres (PostgreSQL) {image.removeprefix('postgres:')}"


def test_a_run_is_in_postgresql_and_in_the_volume(stack: Stack, tracked: tuple[RunDir, str]) -> None:
    """Its points and bytes, as clients get them, are asserted by the fixture."""
    _, run_id = tracked
    query = f"SELECT count(*), count(DISTINCT step) FROM metrics WHERE run_uuid = '{run_id}' AND key = 'pretrain/loss'"
    assert rows(stack, query) == [(LAST, LAST)]
    kept = {
        name.partition("artifacts/")[2]: digest for name, digest in digests(stack.artifacts).items() if run_id in name
    }
    for name, text in FILES.items():
        assert kept[name] == hashlib.sha256(text.encode()).hexdigest()


def test_no_call_waits_for_a_delayed_acknowledgement(address: str, tracked: tuple[RunDir, str]) -> None:
    """With two workers and without uvloop each waits 41 ms, whatever else it takes (platform-facts, section 1.3)."""
    assert quickest_ms(address, tracked[1]) < 38


SEARCH = "/ajax-api/2.0/mlflow/experiments/search"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (LAB_HOST, 200),
        (f"{LAB_HOST}:5000", 200),
        ("mlflow:5000", 200),
        ("localhost:5000", 200),
        ("127.0.0.1", 200),
        ("[::1]:5000", 200),
        (f"{LAB_HOST}.evil.example", 403),
        (f"evil.{LAB_HOST}", 403),
        ("gpu01:5000", 403),
        ("10.0.0.7:5000", 403),
    ],
)
def test_names_that_it_answers_to(address: str, host: str, status: int) -> None:
    assert ask(address, "POST", SEARCH, host, body={"max_results": 1})[0] == status


@pytest.mark.parametrize(
    ("origin", "status", "admitted"),
    [
        (f"http://{LAB_HOST}:5000", 200, True),
        (f"https://{LAB_HOST}", 200, True),
        (f"http://{LAB_HOST}.evil.example", 403, False),
        (f"http://{LAB_HOST}:50001", 403, False),
        ("http://evil.example", 403, False),
    ],
)
def test_pages_that_may_write(address: str, origin: str, status: int, admitted: bool) -> None:
    """The UI's own requests carry its origin; another page's must not pass."""
    found, headers, _ = ask(address, "POST", SEARCH, f"{LAB_HOST}:5000", body={"max_results": 1}, Origin=origin)
    assert found == status
    assert (headers.get("Access-Control-Allow-Origin") == origin) == admitted


def test_the_health_check_sees_what_clients_see(stack: Stack, address: str) -> None:
    port = urlsplit(address).port
    assert stack.health("mlflow", port).returncode == 0  # As the fixture has waited for
    script = stack.here("/opt/mlflow/health.py")
    for words, profiles in (([str(port), "gpu01"], ""), (["9", LAB_HOST], ""), (["9", LAB_HOST], "auth")):
        environment = {**os.environ, "SACCADE_PROFILES": profiles, "MLFLOW_AUTH_ADMIN_PASSWORD": "x"}
        done = subprocess.run([sys.executable, script, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert ("403 Invalid Host" in done.stderr) == (words[1] == "gpu01")
    assert ask(address, "GET", "/health", "gpu01")[::2] == (200, "OK")  # Which is why it asks for something else.


def test_optuna_has_a_database_of_its_own(stack: Stack) -> None:
    import optuna

    storage = optuna.storages.RDBStorage(stack.uri("optuna", "optuna"))
    study = optuna.create_study(storage=storage, study_name="toy", direction="maximize")
    trial = study.ask()
    study.tell(trial, trial.suggest_float("x", 0, 1))
    storage.engine.dispose()
    assert rows(stack, "SELECT study_name FROM studies", "optuna", "optuna") == [("toy",)]
    for name, role in (("mlflow", "optuna"), ("mlflow_auth", "optuna"), ("optuna", "mlflow")):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            rows(stack, "SELECT 1", name, role)


def test_a_password_is_asked_for_once(guarded: str, stack: Stack, password: str) -> None:
    assert stack.health("mlflow", urlsplit(guarded).port, "s3,auth").returncode == 0
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert ask(guarded, "GET", path, LAB_HOST)[0] == 401
    assert ask(guarded, "GET", path, LAB_HOST, "wrong password")[0] == 401
    assert ask(guarded, "GET", path, LAB_HOST, password)[0] == 200
    made = ask(guarded, "POST", "/api/2.0/mlflow/runs/create", LAB_HOST, password, {"experiment_id": "0"})
    run_id = json.loads(made[2])["run"]["info"]["run_id"]
    # A hash in each call takes 190 ms.
    assert quickest_ms(guarded, run_id, password) < 100


def test_a_wrong_password_is_one_line(guarded: str, tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", Spec(name="toy"), [])
    with pytest.raises(RunError, match=r"cannot track run .*; set MLFLOW_TRACKING_USERNAME and") as refusal:
        train(run, guarded.replace("//", "//admin:wrong-password@"))
    assert "\n" not in str(refusal.value)
    assert "wrong-password" not in str(refusal.value)


def test_a_run_with_passwords_is_in_the_s3_store(
    guarded: str, stack: Stack, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    run = create_run(tmp_path / "runs", Spec(name="toy"), [])
    before = digests(stack.artifacts)
    assert train(run, guarded) == 0
    run_id = check_run(guarded, run, tmp_path / "copies")
    assert digests(stack.artifacts) == before
    # What the store holds goes to the backups and comes back, once only.
    for copied in (True, False):
        done = stack.run("bucket", "pull", profiles="s3")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("; 0 were copied\n") != copied
    kept = digests(stack.backups / "bucket")
    for name, text in FILES.items():
        (digest,) = [digest for path, digest in kept.items() if path.endswith(f"{run_id}/artifacts/{name}")]
        assert digest == hashlib.sha256(text.encode()).hexdigest()
    environment = stack.environment(stack.compose.services("s3")["mlflow"])
    client = boto3.client(
        "s3",
        endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )
    client.delete_object(Bucket="mlflow", Key=next(iter(kept)))
    assert stack.run("bucket", "push", profiles="s3").returncode == 0
    assert (
        client.get_object(Bucket="mlflow", Key=next(iter(kept)))["Body"].read()
        == (stack.backups / "bucket" / next(iter(kept))).read_bytes()
    )
    denied = stack.run("bucket", "pull", profiles="s3", AWS_SECRET_ACCESS_KEY="wrong")
    assert (denied.returncode, denied.stdout, denied.stderr.count("\n")) == (1, "", 1)


def test_an_upgrade_of_old_tables(stack: Stack) -> None:
    """Tables as an older MLflow makes them: refused by `saccade server`, brought up to date by the shipped command."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    rows_made = rows(stack, "SELECT 1 FROM pg_database WHERE datname = 'old'", "postgres", "postgres")
    assert rows_made == []
    with psycopg.connect(stack.uri("postgres", "postgres", driver=""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE old OWNER mlflow")
    uri = stack.uri("old")
    check_database(uri)  # Empty
    engine = create_engine(uri)
    Base.metadata.create_all(engine)
    config = _get_alembic_config("")
    with engine.begin() as shared:
        config.attributes["connection"] = shared
        command.upgrade(config, "bd07f7e963c5")
    engine.dispose()
    with pytest.raises(
        RunError, match=r"^postgresql\+psycopg://\*\*\*@.*/old: its tables are older than MLflow .*upgrade"
    ):
        check_database(uri)
    service = {"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg://mlflow@db/old"}
    for old in stack.backups.glob("*Z"):
        os.utime(old, (0, 0))
    refused = stack.run("upgrade", **service)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    (stack.backups / "20261123T000000Z").mkdir()
    done = stack.run("upgrade", **service)
    (stack.backups / "20261123T000000Z").rmdir()
    assert done.returncode == 0, done.stderr
    check_database(uri)
    assert rows(stack, "SELECT version_num FROM alembic_version", "old") == [(newest_schema(),)]
    with pytest.raises(RunError, match=r"are of a newer MLflow than MLflow .*, or not MLflow's"):
        check_database(stack.uri("optuna", "optuna"))
