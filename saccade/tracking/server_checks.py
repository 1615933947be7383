"""What an MLflow server needs before it starts, looked at first: MLflow's own answers are tracebacks, after minutes."""

import configparser
import importlib.metadata
import importlib.util
import os
import re
import socket
import sqlite3
import tempfile
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from saccade.errors import RunError
from saccade.provenance import redact
from saccade.tracking.address import sqlite_file

__all__ = ["artifacts_uri", "check_artifacts", "check_auth", "check_database", "check_port", "database_uri"]

_CONNECT_SEC = 5
_PASSWORD_LENGTH = 12
_REVISION = re.compile(r"^revision\s*(?::\s*\w+\s*)?=\s*[\"'](\w+)[\"']", re.MULTILINE)
_PARENTS = re.compile(r"^down_revision\s*(?::[^=]*)?=\s*(.+)$", re.MULTILINE)


def database_uri(text: str) -> str:
    """The address of a database as MLflow takes it: SQLite's made absolute, PostgreSQL's with the driver we install.

    Raises:
        RunError: It is not one of SQLite or PostgreSQL.
    """
    uri = text.strip()
    scheme, _, rest = uri.partition("://")
    kind, _, driver = scheme.partition("+")
    if kind == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return f"sqlite:///{sqlite_file(uri)}"
    if kind in ("postgresql", "postgres") and driver in ("", "psycopg") and rest:
        return f"postgresql+psycopg://{rest}"
    raise RunError(
        f"cannot keep runs in '{redact(uri)}'; give postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:////FOLDER/mlflow.db"
    )


def artifacts_uri(text: str) -> str:
    """A place for artifacts as MLflow takes it: a folder's address made absolute, S3's as it is.

    Raises:
        RunError: It is neither a folder nor one of S3.
    """
    parts = urlsplit(text)
    if parts.scheme == "s3" and parts.netloc:
        return text
    if parts.scheme == "file" and parts.path.startswith("/"):
        return text
    if "://" in text:
        raise RunError(f"cannot keep artifacts at '{redact(text)}'; give a folder or s3://BUCKET/PREFIX")
    return Path(text).absolute().as_uri()


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken, and name a free one."""
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


def check_auth(config: Path | None) -> None:
    """Refuse a configuration of MLflow's basic-auth app that it would not start with."""
    if config is None:
        return
    parser = configparser.ConfigParser()
    try:
        parser.read_string(config.read_text(encoding="utf-8"))
        database = parser.get("mlflow", "database_uri", raw=True)
    except OSError as error:
        raise RunError(f"{config}: cannot be read ({error.strerror}); give a file such as mlflow/auth.ini") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise RunError(f"{config}: {' '.join(str(error).split())}; see mlflow/auth.ini for an example") from None
    if importlib.util.find_spec("flask_wtf") is None:
        raise RunError("passwords need Flask-WTF; pip install 'saccade[server]'")
    if not os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY"):
        raise RunError("passwords need $MLFLOW_FLASK_SERVER_SECRET_KEY, a long random text that stays the same")
    given = os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD", parser.get("mlflow", "admin_password", raw=True, fallback=""))
    if len(given) < _PASSWORD_LENGTH:
        raise RunError(
            f"$MLFLOW_AUTH_ADMIN_PASSWORD: has to be the administrator's password, {_PASSWORD_LENGTH} characters or "
            "more"
        )
    check_database(database, schema=False)


def check_artifacts(destination: str) -> None:
    """Refuse a place for artifacts (of `artifacts_uri`) that cannot be written to; make the folder if there is none."""
    parts = urlsplit(destination)
    if parts.scheme == "s3":
        if importlib.util.find_spec("boto3") is None:
            raise RunError(f"artifacts at {destination} need boto3; pip install 'saccade[server]'")
        return
    folder = Path(unquote(parts.path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"{folder}: cannot keep artifacts here ({error.strerror}); give --artifacts FOLDER") from None


def check_database(uri: str, *, schema: bool = True) -> None:
    """Refuse a database that is away, or whose tables are not of the MLflow that is installed; an empty one is fine."""
    file = sqlite_file(uri)
    if file is not None:
        version = _sqlite_version(file)
    elif uri.startswith("postgresql"):
        version = _postgresql_version(uri)
    else:
        return
    if not schema or version is None or version == newest_schema():
        return
    mlflow = f"MLflow {importlib.metadata.version('mlflow')}"
    if version not in _schemas():
        raise RunError(
            f"{redact(uri)}: its tables (version {version}) are of a newer MLflow than {mlflow}, or not MLflow's; "
            "install that version, or give another database"
        )
    raise RunError(
        f"{redact(uri)}: its tables are older than {mlflow}; back it up, then run: mlflow db upgrade {redact(uri)}"
    )


def _sqlite_version(file: Path) -> str | None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):  # Where SQLite puts its journal
            pass
        with closing(sqlite3.connect(file)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
            rows = database.execute("SELECT version_num FROM alembic_version").fetchall() if tables else []
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RunError(f"{file}: cannot keep runs here ({reason}); give another folder or --database") from None
    return rows[0][0] if rows else None


def _postgresql_version(uri: str) -> str | None:
    try:
        import psycopg
    except ImportError:
        raise RunError("PostgreSQL needs psycopg; pip install 'saccade[server]'") from None
    address = "postgresql://" + uri.partition("://")[2]  # libpq knows of no drivers.
    try:
        with psycopg.connect(address, connect_timeout=_CONNECT_SEC) as connection:
            if connection.info.parameter_status("server_encoding") != "UTF8":
                hint = "make it with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
                raise RunError(f"{redact(uri)}: the database's encoding is not UTF8, which MLflow fails on; {hint}")
            if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
                return None
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.Error as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"{redact(uri)}: the database cannot be used ({redact(reason)}); see that it is up, and the address right"
        ) from None
    return str(row[0]) if row else None


def newest_schema() -> str:
    """Version of the tables that the installed MLflow makes."""
    known = _schemas()
    (head,) = known.keys() - {parent for parents in known.values() for parent in parents}
    return head


@cache
def _schemas() -> dict[str, tuple[str, ...]]:
    """Versions of MLflow's tables, each with those it follows; read from its files, for importing it takes seconds."""
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None
    assert spec.submodule_search_locations
    found = {}
    for path in Path(spec.submodule_search_locations[0], "store", "db_migrations", "versions").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        revision, parents = _REVISION.search(text), _PARENTS.search(text)
        if revision and parents:
            found[revision[1]] = tuple(re.findall(r"[\"'](\w+)[\"']", parents[1]))
    return found
