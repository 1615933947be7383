"""Where runs are tracked: addresses of MLflow servers and databases, and links into their UI."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from saccade.errors import RunError
from saccade.provenance import redact, strip_credentials

__all__ = ["is_server", "local_uri", "resolve_uri", "run_link", "runs_link", "sqlite_file", "with_credentials"]

VARIABLE = "MLFLOW_TRACKING_URI"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def local_uri(runs_root: str | Path) -> str:
    """The SQLite file that runs are tracked in when nothing else is configured."""
    return f"sqlite:///{Path(runs_root).absolute() / 'mlflow.db'}"


def resolve_uri(configured: str | None, runs_root: str | Path) -> str:
    """The address to track at: `configured`, else $MLFLOW_TRACKING_URI, else the SQLite file below `runs_root`.

    Raises:
        RunError: It is not one of a server or a database.
    """
    uri = (configured or os.environ.get(VARIABLE) or local_uri(runs_root)).strip().rstrip("/")
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]
    if kind in ("http", "https") and parts.hostname:
        return uri
    if kind not in _DATABASES:
        raise RunError(
            f"{'tracking.uri' if configured else '$' + VARIABLE}: cannot track at '{redact(uri)}'; "
            "give http://HOST:PORT of an MLflow server or sqlite:////PATH/mlflow.db"
        )
    file = sqlite_file(uri)
    # From another folder a relative path would be another database.
    return uri if file is None else f"sqlite:///{file}"


def with_credentials(stored: str, configured: str | None = None) -> str:
    """A stored address with the credentials of the configured one, or of $MLFLOW_TRACKING_URI, if that is the same."""
    for candidate in (configured, os.environ.get(VARIABLE)):
        if candidate and strip_credentials(candidate.strip().rstrip("/")) == stored:
            return candidate.strip().rstrip("/")
    return stored


def is_server(uri: str) -> bool:
    """Whether an address is that of an MLflow server, as opposed to a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address, absolute; None for other addresses."""
    scheme, _, path = uri.partition("://")
    return Path(path.removeprefix("/")).absolute() if scheme.partition("+")[0] == "sqlite" else None


def runs_link(uri: str, experiment_id: str) -> str:
    """The page of an experiment's runs; without the query MLflow opens its page for language models."""
    return f"{strip_credentials(uri)}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def run_link(uri: str, experiment_id: str, mlflow_run_id: str) -> str:
    """The page of one run."""
    return f"{strip_credentials(uri)}/#/experiments/{experiment_id}/runs/{mlflow_run_id}?workflowType=machine_learning"
