"""`saccade ui`: MLflow's own UI on the runs of this machine, or the way to the one that is configured."""

import base64
import http.client
import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from saccade.provenance import redact, strip_credentials
from saccade.tracking.address import is_server, resolve_uri, runs_link, sqlite_file
from saccade.tracking.server import ServerSettings, serve

__all__ = ["serve_ui"]


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
        RunError: The port is taken, the database is away or of another MLflow, or the server does not start.
    """
    address = resolve_uri(uri, runs_root)
    if is_server(address):
        say(f"The runs are at {runs_link(address, _experiment(address, experiment))}")
        return 0
    file = sqlite_file(address)
    folder = file.parent if file is not None else Path(runs_root).absolute()
    artifacts = (folder / "mlartifacts").as_uri()

    def announce(here: str) -> None:
        say(f"MLflow UI on {redact(address)}: {runs_link(here, _experiment(here, experiment))}  (Ctrl-C ends it)")

    return serve(ServerSettings(database=address, artifacts=artifacts, host=host, port=port), announce)


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
