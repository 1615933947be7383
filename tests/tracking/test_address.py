"""Addresses: which is used, and what is shown of it."""

from pathlib import Path

import pytest

from saccade.errors import RunError
from saccade.tracking.address import is_server, local_uri, resolve_uri, run_link, sqlite_file, with_credentials


def test_configured_then_environment_then_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env:5000/")
    assert resolve_uri("http://spec:5000", tmp_path) == "http://spec:5000"
    assert resolve_uri("", tmp_path) == "http://env:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db" == local_uri(tmp_path)


def test_a_relative_file_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///a/b.db", "runs") == f"sqlite:///{tmp_path}/a/b.db"
    assert resolve_uri(f"sqlite:///{tmp_path}/b.db", "runs") == f"sqlite:///{tmp_path}/b.db"
    assert local_uri("runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert sqlite_file(f"sqlite:///{tmp_path}/b.db") == tmp_path / "b.db"
    assert sqlite_file("postgresql://h/db") is None


def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(RunError, match=r"\$MLFLOW_TRACKING_URI: cannot track at 'mlruns'"):
        resolve_uri(None, "runs")
    with pytest.raises(RunError, match=r"tracking.uri: cannot track at 'ftp://\*\*\*@h'"):
        resolve_uri("ftp://u:secret@h", "runs")


def test_databases_and_servers() -> None:
    assert resolve_uri("postgresql+psycopg://h/db", "runs") == "postgresql+psycopg://h/db"
    assert [is_server(uri) for uri in ("http://h", "https://h", "sqlite:///x", "postgresql://h")] == [True, True] + [
        False
    ] * 2


def test_credentials_go_only_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:p@a:5000/")
    assert with_credentials("http://a:5000") == "http://u:p@a:5000"
    assert with_credentials("http://b:5000") == "http://b:5000"
    assert with_credentials("http://b:5000", "http://v:q@b:5000") == "http://v:q@b:5000"


def test_links_hold_no_password() -> None:
    link = run_link("https://u:p@h/mlflow", "3", "abc")
    assert link == "https://h/mlflow/#/experiments/3/runs/abc?workflowType=machine_learning"
