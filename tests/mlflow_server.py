"""A real MLflow server, and a door in front of it that can be shut, jammed or made slow."""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .together import Together


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SERVE = """
import sys
from saccade.tracking.ui import serve_ui
said = open(sys.argv[3], "w")
print(serve_ui(sys.argv[1], port=int(sys.argv[2]), say=lambda text: print(text, file=said, flush=True)), file=said)
"""


class Ui(NamedTuple):
    """`saccade ui` on an empty folder of runs."""

    address: str
    root: Path
    line: str
    """What it said."""
    process: int
    """Its id."""


class _SharedUi:
    """Files by which processes find the server that one of them has started: its start takes ten seconds of a core."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self._root, self._said, self._known = folder / "runs", folder / "said", folder / "known.json"
        self._empty_store = empty_store

    def begin(self) -> None:
        shutil.rmtree(self._root.parent, ignore_errors=True)  # of one that had been ended when somebody else came
        self._root.mkdir(parents=True)
        shutil.copyfile(self._empty_store, self._root / "mlflow.db")
        port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self._root), str(port), str(self._said)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        process.returncode = 0  # It may outlive this process, whose business it is no more.
        assert self._await_lines(1) is not None, "the server does not start"
        self._known.write_text(json.dumps({"pid": process.pid, "port": port}))

    def _await_lines(self, count: int) -> list[str] | None:
        """What the server has said, once that is so many lines."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            said = self._said.read_text() if self._said.exists() else ""
            if said.count("\n") >= count:
                return said.splitlines(keepends=True)
            time.sleep(0.1)
        return None

    def look(self) -> Ui:
        said = self._await_lines(1)
        assert said is not None
        known = json.loads(self._known.read_text())
        return Ui(f"http://127.0.0.1:{known['port']}", self._root, said[0], known["pid"])

    def end(self) -> None:
        """By Ctrl-C, and nothing of it may be left."""
        known = json.loads(self._known.read_text())
        os.kill(known["pid"], signal.SIGINT)
        said = self._await_lines(2)
        if said is None:
            os.kill(known["pid"], signal.SIGTERM)  # Not kill: it ends its server.
        assert said is not None
        assert said[1] == "0\n"  # its exit code
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", known["port"])) != 0


@pytest.fixture(scope="session")
def ui(together: Together, empty_store: Path) -> Iterator[Ui]:
    """A running `saccade ui`, which is the server of all tests; that Ctrl-C ends it is seen at their end."""
    shared = _SharedUi(together.folder / "server", empty_store)
    with together.while_used("server", shared.begin, shared.end):
        yield shared.look()


@pytest.fixture(scope="session")
def server(ui: Ui) -> str:
    """Address of an MLflow server with an SQLite store of its own."""
    return ui.address


_PASSED_ON = {"Content-Type", "Authorization", "User-Agent"}


class Door:
    """A proxy with an address of its own; while shut, connections are refused."""

    def __init__(self, target: str) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.delay_sec = 0.0
        self.status: int | None = None
        """What every request gets instead of an answer of the server, for paths that contain `refuse`."""
        self.refuse = ""
        self.change: Callable[[str, bytes], bytes] = lambda _, answer: answer
        """What becomes of the server's answers: (method and path, answer) to answer."""
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
                asked = f"{self.command} {self.path}"
                door.requests.append(asked)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":  # How `requests` sends an empty file
                    assert self.rfile.readline() + self.rfile.readline() == b"0\r\n\r\n"
                time.sleep(door.delay_sec)
                if door.status is not None and door.refuse in self.path:
                    self.reply(door.status, b"no", "text/plain")
                    return
                headers = {key: value for key, value in self.headers.items() if key in _PASSED_ON}
                request = urllib.request.Request(door._target + self.path, body or None, headers, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=20) as answer:
                        said = door.change(asked, answer.read())
                        self.reply(answer.status, said, answer.headers.get("Content-Type", ""))
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
