"""`saccade ui`: MLflow's own UI on the runs of this machine, or the way to the one that is configured."""

import base64
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from urllib.parse import unquote, urlsplit

from saccade.errors import RunError
from saccade.provenance import redact, strip_credentials
from saccade.tracking.address import is_server, resolve_uri, runs_link, sqlite_file

__all__ = ["serve_ui", "server_command", "server_environment"]

_START_SEC, _STOP_SEC = 120.0, 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def server_command(uri: str, artifacts: Path, host: str, port: int) -> list[str]:
    """The command line of an MLflow server for one person.

    One worker takes half a GiB; several, without uvloop, answer each call 45 ms late (platform-facts, section 1.3).
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        uri,
        "--registry-store-uri",
        uri,
        "--serve-artifacts",
        "--artifacts-destination",
        artifacts.as_uri(),
    ]
    if importlib.util.find_spec("uvloop") is not None:
        command += ["--uvicorn-opts", "--loop uvloop --log-level warning"]
    else:
        command += ["--uvicorn-opts", "--log-level warning"]
    return command


def server_environment() -> dict[str, str]:
    """The environment of that server: no job runners, nothing sent to anybody."""
    off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    off["PYTHONWARNINGS"] = "ignore"  # Of its own libraries; nobody here can act on them.
    return {**os.environ, **off}


def serve_ui(
    runs_root: str | Path,
    uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    *,
    experiment: str | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Serve the UI until Ctrl-C; for a remote server only say where it is.

    Args:
        runs_root: Folder of the runs, whose SQLite file is shown when `uri` and $MLFLOW_TRACKING_URI are empty.
        experiment: The one to open; None: the one used last.

    Returns:
        The exit code.

    Raises:
        RunError: The port is taken, or the server does not start.
    """
    address = resolve_uri(uri, runs_root)
    if is_server(address):
        say(f"The runs are at {runs_link(address, _experiment(address, experiment))}")
        return 0
    _check_port(host, port)
    file = sqlite_file(address)
    folder = file.parent if file is not None else Path(runs_root).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(
        server_command(address, folder / "mlartifacts", host, port),
        stdin=subprocess.DEVNULL,
        env=server_environment(),
        start_new_session=True,  # Ctrl-C is for us: we end the server and what it has started.
    )
    stopping = _Stop()
    before = {number: signal.signal(number, stopping.on_signal) for number in _SIGNALS}
    try:
        here = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
        if _await(here, server, stopping):
            say(f"MLflow UI on {redact(address)}: {runs_link(here, _experiment(here, experiment))}  (Ctrl-C ends it)")
            while server.poll() is None and not stopping.requested:
                time.sleep(0.1)
        if stopping.requested:
            return 0
        raise RunError(f"the MLflow server ended with exit code {server.wait()}; what it says is above")
    finally:
        _end(server)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stop:
    def __init__(self) -> None:
        self.requested = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            with socket.socket(family, socket.SOCK_STREAM) as other:
                with suppress(OSError):
                    other.bind((host, 0))
                free = other.getsockname()[1]
            hint = f"; try --port {free}" if free else ""
            raise RunError(f"cannot serve on {host}:{port}: {error.strerror}{hint}") from None


def _await(address: str, server: "subprocess.Popen[bytes]", stopping: _Stop) -> bool:
    """Wait until the server answers; False when it ended or the user has had enough."""
    deadline = time.monotonic() + _START_SEC
    while server.poll() is None and not stopping.requested:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
            return True
        if time.monotonic() > deadline:
            raise RunError(f"the MLflow server does not answer at {address} after {_START_SEC:.0f} s")
        time.sleep(0.2)
    return False


def _experiment(address: str, name: str | None) -> str:
    """Id of the experiment of that name, else of the one used last; "0", which is always there, if none is found."""
    parts = urlsplit(address)
    user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    request = urllib.request.Request(
        f"{strip_credentials(address)}/api/2.0/mlflow/experiments/search",
        json.dumps({"max_results": 100, "order_by": ["last_update_time DESC"]}).encode(),
        headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer).get("experiments", [])
    except (OSError, ValueError, http.client.HTTPException):  # The page itself will say what is wrong.
        return "0"
    named = [item for item in found if item["name"] == name]
    own = [item for item in found if item["experiment_id"] != "0"]
    return str(next(iter(named or own), {"experiment_id": "0"})["experiment_id"])


def _end(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(OSError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SEC)
            break
    with suppress(OSError):
        os.killpg(server.pid, signal.SIGKILL)
