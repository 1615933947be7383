"""The MLflow server: the one place that knows its command line, its environment and how it is started and ended.

`saccade ui` and `saccade server` run it as a process; docker/compose.yaml writes the same command line and environment
down for containers, which tests/docker/test_compose.py compares.
"""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from saccade.errors import RunError
from saccade.provenance import redact
from saccade.tracking.address import sqlite_file
from saccade.tracking.server_checks import check_artifacts, check_auth, check_database, check_port
from saccade.tracking.sqlite import write_ahead

__all__ = ["ServerSettings", "host_names", "serve"]

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ANY_ADDRESS = ("0.0.0.0", "::")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_START_SEC, _STOP_SEC = 120.0, 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What an MLflow server serves, and to whom."""

    database: str
    """SQLAlchemy's address of the database; it goes through the environment, for a command line anyone can read."""
    artifacts: str
    """Where artifacts go, through the server, so that clients need no keys: a folder or `s3://BUCKET/PREFIX`."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 5000
    workers: int = 1
    """Processes. One takes 0.4 GiB, and each more one 0.2 GiB."""
    names: tuple[str, ...] = ()
    """Names that clients call it by, besides those of the loopback interface; to all others it answers 403."""
    auth: Path | None = None
    """Configuration of MLflow's basic-auth app; None: whoever reaches it may do anything."""

    def command(self) -> list[str]:
        """Its command line."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port)]
        command += ["--workers", str(self.workers), "--uvicorn-opts", _uvicorn_options()]
        command += ["--allowed-hosts", ",".join(_host_patterns((*_LOOPBACK, *self.names)))]
        if self.names:
            command += ["--cors-allowed-origins", ",".join(_origins(self.names, self.port))]
        command += ["--serve-artifacts", "--artifacts-destination", self.artifacts]
        return command + (["--app-name", "basic-auth"] if self.auth is not None else [])

    def environment(self) -> dict[str, str]:
        """What it needs in its environment: no job runners, nothing sent to anybody."""
        ours = {
            "MLFLOW_BACKEND_STORE_URI": self.database,
            "MLFLOW_REGISTRY_STORE_URI": self.database,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # Seven processes more, for language models
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "GIT_PYTHON_REFRESH": "quiet",
            "PYTHONWARNINGS": "ignore",  # Of its own libraries; nobody here can act on them.
        }
        return ours if self.auth is None else {**ours, "MLFLOW_AUTH_CONFIG_PATH": str(self.auth)}

    def summary(self, address: str) -> str:
        """What it is, in a line."""
        names = ", ".join(("localhost", *self.names))
        asks = "asks for passwords" if self.auth is not None else "asks for no password"
        return (
            f"MLflow server at {address} on {redact(self.database)}, artifacts at {self.artifacts}; "
            f"it answers to {names} and {asks}  (Ctrl-C ends it)"
        )

    def address(self) -> str:
        """Where a browser on this machine finds it."""
        host = "127.0.0.1" if self.host in _ANY_ADDRESS else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def host_names(host: str, given: Iterable[str]) -> tuple[str, ...]:
    """Names that a server listening on `host` is called by: those given, and its own where others can reach it.

    Raises:
        RunError: One that is no host name.
    """
    names = list(given)
    for name in names:
        if not _NAME.fullmatch(name):
            raise RunError(f"'{name}' is no host name; give names without http:// and port, such as mlflow.lab.example")
    if host in _ANY_ADDRESS:
        names.append(socket.gethostname())
    elif host not in ("localhost", "::1") and not host.startswith("127."):
        names.append(f"[{host}]" if ":" in host else host)
    return tuple(dict.fromkeys(name for name in names if name not in _LOOPBACK))


def serve(settings: ServerSettings, announce: Callable[[str], None]) -> int:
    """Run a server until Ctrl-C.

    Args:
        announce: Called with its address once it answers.

    Returns:
        The exit code.

    Raises:
        RunError: Something that it needs is not there, or it ended by itself.
    """
    if settings.workers > 1 and importlib.util.find_spec("uvloop") is None:
        raise RunError("several workers answer each call 45 ms late without uvloop; pip install 'saccade[server]'")
    check_port(settings.host, settings.port)
    check_auth(settings.auth)
    check_artifacts(settings.artifacts)
    check_database(settings.database)
    file = sqlite_file(settings.database)
    if file is not None:
        write_ahead(file)
    stopping = _Stop()
    before = {number: signal.signal(number, stopping.on_signal) for number in _SIGNALS}
    server = subprocess.Popen(
        settings.command(),
        stdin=subprocess.DEVNULL,
        env={**os.environ, **settings.environment()},
        start_new_session=True,  # Ctrl-C is for us: we end the server and what it has started.
    )
    try:
        if _await(settings.address(), server, stopping):
            announce(settings.address())
            while server.poll() is None and not stopping.requested:
                time.sleep(0.1)
        if stopping.requested:
            return 0
        raise RunError(f"the MLflow server ended with exit code {server.wait()}; what it says is above")
    finally:
        _end(server)
        for number, handler in before.items():
            signal.signal(number, handler)


def _uvicorn_options() -> str:
    options = "--log-level warning"
    if importlib.util.find_spec("httptools") is not None:
        options = f"--http httptools {options}"
    # Without it, and with several workers, every call waits for a delayed ACK (platform-facts, section 1.3).
    return f"--loop uvloop {options}" if importlib.util.find_spec("uvloop") is not None else options


def _host_patterns(names: Iterable[str]) -> list[str]:
    """What a request's Host header may be: each name, with any port or none; in a pattern `[[]` stands for `[`."""
    return [pattern for name in names for pattern in (name, f"{name.replace('[', '[[]')}:*")]


def _origins(names: Iterable[str], port: int) -> list[str]:
    """Pages that may write, which are its own; MLflow knows by itself only those of the loopback interface.

    No patterns: in MLflow one is matched in two ways, of which one looks at the beginning of an origin only.
    """
    return [f"{scheme}://{name}{end}" for name in names for scheme in ("http", "https") for end in ("", f":{port}")]


class _Stop:
    def __init__(self) -> None:
        self.requested = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def _await(address: str, server: "subprocess.Popen[bytes]", stopping: _Stop) -> bool:
    """Wait until the server answers; False when it ended or the user has had enough."""
    deadline = time.monotonic() + _START_SEC
    while server.poll() is None and not stopping.requested:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
            return True
        if time.monotonic() > deadline:
            raise RunError(
                f"the MLflow server does not answer at {address} after {_START_SEC:.0f} s; what it says is "
                "above, saccade doctor may know more"
            )
        time.sleep(0.2)
    return False


def _end(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(OSError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SEC)
            break
    with suppress(OSError):
        os.killpg(server.pid, signal.SIGKILL)
