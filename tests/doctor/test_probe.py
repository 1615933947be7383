"""Servers that are wrong in one way each, as real ones were seen to answer: each is recognised, with its remedy."""

import base64
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path

import pytest

from saccade.tracking import probe as probing
from saccade.tracking.probe import ProbeError, probe

SEARCH, USER, VERSION = "/api/2.0/mlflow/experiments/search", "/api/2.0/mlflow/users/current", "/version"
EXPERIMENTS = json.dumps({"experiments": [{"experiment_id": "0", "name": "Default"}]})
NOT_THERE = "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n"
PASSWORD = "correct horse"


class Fake:
    """An MLflow server in so far as the probe asks: (status, text) by path."""

    def __init__(self) -> None:
        self.answers = {VERSION: (200, "3.17.2"), SEARCH: (200, EXPERIMENTS), USER: (404, NOT_THERE)}
        self.password = ""
        self.delay_sec = 0.0
        self.clock_ahead_sec = 0.0
        self.asked: list[str] = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.asked.append(self.path)
                time.sleep(fake.delay_sec)
                status, text = fake.answers.get(self.path, (404, NOT_THERE))
                wanted = "Basic " + base64.b64encode(f"joe:{fake.password}".encode()).decode()
                if fake.password and self.headers.get("Authorization") != wanted:
                    status, text = 401, "You are not authenticated. Please see https://www.mlflow.org/docs"
                self.send_response_only(status)
                self.send_header("Date", formatdate(time.time() + fake.clock_ahead_sec, usegmt=True))
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                with suppress(BrokenPipeError):  # who asked has given up
                    self.wfile.write(text.encode())

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN", "SERVER_CERT_PATH", "INSECURE_TLS"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def wrong(uri: str) -> tuple[str, str]:
    with pytest.raises(ProbeError) as error:
        probe(uri)
    assert "\n" not in str(error.value)
    return error.value.wrong, error.value.remedy


def test_a_server_that_lets_everybody_in(fake: Fake) -> None:
    fake.clock_ahead_sec = 3600.0
    state = probe(f"http://{fake.place}")
    assert (state.address, state.version, state.user) == (f"http://{fake.place}", "3.17.2", "")
    assert 0 < state.round_trip_sec < 2
    assert state.clock_ahead_sec == pytest.approx(3600, abs=10)
    # Not /health, which answers to everybody; and several times, for one call says little.
    assert fake.asked == [VERSION, *[SEARCH] * 5]


def test_who_we_are(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.password = PASSWORD
    fake.answers[USER] = (200, json.dumps({"user": {"id": 2, "username": "joe", "is_admin": False}}))
    state = probe(f"http://joe:correct%20horse@{fake.place}")
    assert (state.user, state.is_admin, state.address) == ("joe", False, f"http://{fake.place}")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "joe")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert probe(f"http://{fake.place}").user == "joe"


def test_passwords(fake: Fake) -> None:
    fake.password = PASSWORD
    remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    assert wrong(f"http://{fake.place}") == (f"http://{fake.place}: wants a user and a password", remedy)
    told = wrong(f"http://joe:wrong%20horse@{fake.place}")
    assert told == (f"http://{fake.place}: refuses the password of joe", remedy)
    assert "horse" not in "".join(told)


SCHEMA = (
    "Detected out-of-date database schema (found version 0584bdc529eb, but expected acf3f17fdcc7). Take a backup of "
    "your database, then run 'mlflow db upgrade <database_uri>' to migrate your database to the latest schema."
)
DATABASE = "(psycopg.OperationalError) connection to postgresql://mlflow:geheim@db/mlflow failed"


@pytest.mark.parametrize(
    ("status", "text", "said", "remedy"),
    [
        (
            403,
            "Invalid Host header - possible DNS rebinding attack detected",
            "does not answer to the name PLACE (403 Invalid Host header)",
            "start it with --allowed-hosts naming PLACE",
        ),
        (403, "Permission denied", "does not let you read experiments (Permission denied)", "ask its administrator"),
        (404, NOT_THERE, "answers, but not as an MLflow server", "check host, port and path"),
        (200, "<html>Welcome to nginx</html>", "answers, but not as an MLflow server", "check host, port and path"),
        (
            500,
            json.dumps({"error_code": "INTERNAL_ERROR", "message": SCHEMA}),
            "the tables of its database are of another MLflow (Detected out-of-date database schema",
            "back the database up, then run there: mlflow db upgrade",
        ),
        (
            500,
            json.dumps({"message": "No module named 'psycopg2'"}),
            "the server lacks the driver of its database, psycopg2",
            "install it there: pip install psycopg2",
        ),
        (500, json.dumps({"message": DATABASE}), "error 500 ((psycopg.OperationalError)", "look at the server's log"),
        (502, "<h1>Bad Gateway</h1>", "error 502 (Bad Gateway)", "look at the server's log"),
        (302, "", "unexpected answer 302 (Found)", "is a proxy between"),
    ],
)
def test_answers_that_are_none(fake: Fake, status: int, text: str, said: str, remedy: str) -> None:
    fake.answers[SEARCH] = (status, text)
    found = wrong(f"http://{fake.place}")
    assert found[0].startswith(f"http://{fake.place}: {said.replace('PLACE', fake.place)}")
    assert found[1].startswith(remedy.replace("PLACE", fake.place)) or remedy in found[1]
    assert "geheim" not in "".join(found)


def test_nobody_there() -> None:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    assert wrong(f"http://127.0.0.1:{port}") == (
        f"http://127.0.0.1:{port}: nothing listens there",
        "start the server (saccade server), or set MLFLOW_TRACKING_URI",
    )
    assert (
        wrong("http://no-such-host.invalid:5000")[0] == "http://no-such-host.invalid:5000: no host no-such-host.invalid"
    )


def test_a_server_that_does_not_answer(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_TIMEOUT_SEC", 0.3)
    fake.delay_sec = 2.0
    begun = time.perf_counter()
    assert wrong(f"http://{fake.place}")[0] == f"http://{fake.place}: no answer within 0.3 s"
    assert time.perf_counter() - begun < 1.5


def test_a_slow_server_is_not_asked_often(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_TIMEOUT_SEC", 0.5)
    fake.delay_sec = 0.3
    assert probe(f"http://{fake.place}").round_trip_sec >= 0.3
    assert fake.asked.count(SEARCH) == 2


def test_something_that_is_not_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert wrong(f"http://127.0.0.1:{port}")[1] == "check that an MLflow server listens there"
        thread.join()


def test_tls(fake: Fake, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    said, remedy = wrong(f"https://{fake.place}")
    assert said.startswith(f"https://{fake.place}: speaks no TLS here")
    assert remedy == "try http:// in place of https://"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
    said, remedy = wrong(f"https://{fake.place}")
    assert said.startswith(f"https://{fake.place}: its TLS certificate is not trusted (self")
    assert remedy == "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of who signed it"
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate[0]))
    assert probe(f"https://{fake.place}").version == "3.17.2"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that nobody else has signed, and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    encryption = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return paths


def test_databases(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "mlflow.db"
    # One that is not there yet is made by the first run, and not by looking at it.
    assert probe(f"sqlite:///{file}").version == ""
    assert not file.exists()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")  # of MLflow's second schema ever
    database.close()
    said, remedy = wrong(f"sqlite:///{file}")
    assert "its tables are older than MLflow" in said
    assert "mlflow db upgrade sqlite://" in remedy
    file.write_bytes(b"no database at all" * 100)
    assert "not a database" in wrong(f"sqlite:///{file}")[0]
