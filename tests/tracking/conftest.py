"""A real MLflow server, and a door in front of it that can be shut, jammed or made slow."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from saccade.tracking.ui import server_command, server_environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server with an SQLite store of its own."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            server_command(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts", "127.0.0.1", port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=server_environment(),
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


class Door:
    """A proxy with an address of its own; while shut, connections are refused."""

    def __init__(self, target: str) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.delay_sec = 0.0
        self.status: int | None = None
        """What every request gets instead of an answer of the server, for paths that contain `refuse`."""
        self.refuse = ""
        self.requests: list[str] = []
        self._target, self._server = target, None

    def open(self) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def shut(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        door = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def pass_on(self) -> None:
                door.requests.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                time.sleep(door.delay_sec)
                if door.status is not None and door.refuse in self.path:
                    self.reply(door.status, b"no", "text/plain")
                    return
                headers = {key: value for key, value in self.headers.items() if key != "Host"}
                request = urllib.request.Request(door._target + self.path, body or None, headers, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=20) as answer:
                        self.reply(answer.status, answer.read(), answer.headers.get("Content-Type", ""))
                except urllib.error.HTTPError as error:
                    with error:
                        self.reply(error.code, error.read(), error.headers.get("Content-Type", ""))

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815

            def reply(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def door(server: str) -> Iterator[Door]:
    """A shut door in front of the server."""
    door = Door(server)
    yield door
    door.shut()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder for runs, with no tracking server configured."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "runs"
