"""Secrets to plant, and the search for them in all that a run or a study leaves."""

from pathlib import Path

CANARY = "kanarienvogel"
"""What every planted secret begins with, so that parts of one are found too."""
VARIABLES = {
    name: f"{CANARY}-{name.lower().replace('_', '-')}"
    for name in (
        *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD"),
        *("GITHUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPTUNA_DB_PASSWORD"),
    )
}
"""Variables of an environment that holds some."""


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold a part of a planted secret, in their names or their bytes."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert found
    return [str(path) for path in found if CANARY in str(path) or CANARY.encode() in _bytes(path).lower()]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # A temporary one, of a server at work.
        return b""
