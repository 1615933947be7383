"""Ask a tracking server a few short questions: is it there, who are we on it, how fast does it answer, what is wrong.

Plain HTTP and no MLflow client, which would retry for minutes, and whose import takes longer than all of this. The
questions go to an API route, since /health and /version answer to everybody (platform-facts, section 1.1).
"""

import base64
import http.client
import json
import os
import re
import socket
import ssl
import statistics
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from saccade.errors import RunError
from saccade.provenance import redact, strip_credentials
from saccade.tracking.address import is_server, sqlite_file
from saccade.tracking.server_checks import check_database

__all__ = ["SLOW_SEC", "ProbeError", "ServerState", "probe"]

SLOW_SEC = 0.04
"""Every call takes longer than this on a server of several workers without uvloop (platform-facts, section 1.3)."""
_TIMEOUT_SEC, _CALLS = 5.0, 5
_SEARCH = "/api/2.0/mlflow/experiments/search"
_INVALID_HOST = "invalid host"


class ProbeError(RunError):
    """What is wrong with a server.

    Args:
        wrong: What is the case.
        remedy: What to do.
    """

    def __init__(self, wrong: str, remedy: str) -> None:
        super().__init__(f"{wrong}; {remedy}")
        self.wrong, self.remedy = wrong, remedy


@dataclass(frozen=True)
class ServerState:
    """A server that lets us in, or a database that is in order."""

    address: str
    """Without credentials."""
    version: str
    """MLflow's there; empty for a database or if it does not say."""
    user: str
    """Who we are there; empty if it asks nobody."""
    is_admin: bool
    round_trip_sec: float
    """Median of a small call; 0 for a database."""
    clock_ahead_sec: float | None
    """How far its clock is before ours; None if it does not say."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str


def probe(uri: str) -> ServerState:
    """Find out how a server or a database is, in seconds.

    Args:
        uri: Its address as `resolve_uri` gives it, credentials included or in MLflow's environment variables.

    Raises:
        ProbeError: It cannot be used as it is.
    """
    address = strip_credentials(uri)
    if not is_server(uri):
        file = sqlite_file(uri)
        if file is None or file.exists():  # one that is not there yet will be made
            _check_database(uri)
        return ServerState(address, "", "", False, 0.0, None)
    version = _version(uri)
    times, answer = [], None
    for _ in range(_CALLS):
        begun = time.perf_counter()
        answer = _ask(uri, _SEARCH, {"max_results": 1})
        times.append(time.perf_counter() - begun)
        _check(uri, answer)
        if sum(times) > _TIMEOUT_SEC:
            break
    user, is_admin = _user(uri)
    return ServerState(address, version, user, is_admin, statistics.median_low(times), _clock_ahead(answer))


def _check_database(uri: str) -> None:
    try:
        check_database(uri)
    except RunError as error:
        wrong, _, remedy = str(error).rpartition("; ")
        raise ProbeError(wrong or remedy, remedy if wrong else "see what it says") from None


def _ask(uri: str, path: str, content: dict[str, object] | None = None) -> _Answer:
    """One request on a connection of its own; whatever stands in its way is a `ProbeError`."""
    parts = urlsplit(uri)
    host, shown = parts.hostname or "", strip_credentials(uri)
    body = None if content is None else json.dumps(content)
    headers = {"Content-Type": "application/json", **_authorization(uri)}
    try:
        connection = _connection(parts.scheme, host, parts.port)
        try:
            connection.request("GET" if body is None else "POST", parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            return _Answer(response.status, response.headers, response.read(100_000).decode("utf-8", "replace"))
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        raise ProbeError(
            f"{shown}: its TLS certificate is not trusted ({error.verify_message})",
            "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of who signed it",
        ) from None
    except ssl.SSLError as error:
        reason = (error.reason or "no TLS").replace("_", " ").lower()
        raise ProbeError(f"{shown}: speaks no TLS here ({reason})", "try http:// in place of https://") from None
    except socket.gaierror:
        raise ProbeError(f"{shown}: no host {host}", "check the address and the name server") from None
    except TimeoutError:
        raise ProbeError(
            f"{shown}: no answer within {_TIMEOUT_SEC:g} s", "look at its log and load; is a firewall in between?"
        ) from None
    except ConnectionRefusedError:
        raise ProbeError(
            f"{shown}: nothing listens there", "start the server (saccade server), or set MLFLOW_TRACKING_URI"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = redact(" ".join(str(error).split())) or type(error).__name__
        raise ProbeError(f"{shown}: {said}", "check that an MLflow server listens there") from None


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SEC)
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SEC, context=context)


def _credentials(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    return user, unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")


def _authorization(uri: str) -> dict[str, str]:
    user, password = _credentials(uri)
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    if user:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _check(uri: str, answer: _Answer) -> None:
    """Tell what an answer means that is none.

    Raises:
        ProbeError: It is none.
    """
    shown, host = strip_credentials(uri), urlsplit(uri).netloc.rpartition("@")[2]
    said = _said(answer)
    if answer.status == 401:
        user, _ = _credentials(uri)
        who = f"refuses the password of {user}" if user else "wants a user and a password"
        raise ProbeError(f"{shown}: {who}", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    if answer.status == 403 and _INVALID_HOST in answer.text.lower():
        raise ProbeError(
            f"{shown}: does not answer to the name {host} (403 Invalid Host header)",
            f"start it with --allowed-hosts naming {host}, as saccade server --allowed-hosts {host} does",
        )
    if answer.status == 403:
        raise ProbeError(f"{shown}: does not let you read experiments ({said})", "ask its administrator for permission")
    if answer.status in (404, 405) or (answer.status == 200 and not _is_json(answer.text)):
        raise ProbeError(f"{shown}: answers, but not as an MLflow server", "check host, port and path of the address")
    if "out-of-date database schema" in said or "alembic" in said.lower():
        raise ProbeError(
            f"{shown}: the tables of its database are of another MLflow ({said})",
            "back the database up, then run there: mlflow db upgrade DATABASE",
        )
    driver = re.search(r"No module named '([\w.]+)'", said)
    if driver is not None:
        raise ProbeError(
            f"{shown}: the server lacks the driver of its database, {driver[1]}",
            f"install it there: pip install {driver[1]}",
        )
    if answer.status >= 500:
        raise ProbeError(f"{shown}: error {answer.status} ({said})", "look at the server's log and its database")
    if answer.status != 200:
        raise ProbeError(
            f"{shown}: unexpected answer {answer.status} ({said})", "check the address; is a proxy between?"
        )


def _said(answer: _Answer) -> str:
    """The message of an error, in one line and without passwords."""
    try:
        text = str(json.loads(answer.text)["message"])
    except (ValueError, TypeError, KeyError):
        text = re.sub(r"<[^>]*>", " ", answer.text)
    text = redact(" ".join(text.split()))
    return text[:200] or http.client.responses.get(answer.status, "no text")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _version(uri: str) -> str:
    answer = _ask(uri, "/version")
    found = re.fullmatch(r"\d+\.\d+[\w.+-]*", answer.text.strip())
    return found[0] if answer.status == 200 and found else ""


def _user(uri: str) -> tuple[str, bool]:
    """Name and rights on a server that asks for passwords; none on others, which do not know the question."""
    if not _authorization(uri):
        return "", False
    answer = _ask(uri, "/api/2.0/mlflow/users/current")
    try:
        user = json.loads(answer.text)["user"]
        return str(user["username"]), bool(user["is_admin"])
    except (ValueError, TypeError, KeyError):
        return "", False


def _clock_ahead(answer: _Answer | None) -> float | None:
    try:
        said = parsedate_to_datetime(answer.headers["Date"]) if answer is not None else None
    except (TypeError, ValueError):
        return None
    return None if said is None else said.timestamp() - time.time()
