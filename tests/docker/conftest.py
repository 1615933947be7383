"""docker/compose.yaml as Compose itself reads it, for tests that need no engine."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCKER, MLFLOW = REPOSITORY / "docker", REPOSITORY / "mlflow"
LAB_HOST = "mlflow.lab.example"
# Tools that are installed beside Python: weed, hadolint, shellcheck, and `python` itself.
TOOLS = Path(sys.executable).parent


class Compose(NamedTuple):
    """Compose without an engine."""

    env_file: Path

    def config(
        self, profiles: str = "", *words: str, env_file: Path | None = None, workers: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run `docker compose config` with these profiles switched on in the environment file."""
        found = importlib.util.find_spec("compose")
        assert found is not None
        assert found.origin is not None
        # Not the package's own command, which loses the exit code.
        program = Path(found.origin).parent / "docker-compose"
        files = ["--file", DOCKER / "compose.yaml", "--env-file", env_file or self.env_file]
        return subprocess.run(
            [program, *files, *words, "config", "--format", "json"],
            env={"PATH": os.environ["PATH"], "COMPOSE_PROFILES": profiles, "MLFLOW_WORKERS": workers},
            capture_output=True,
            text=True,
        )

    @cache  # noqa: B019 (there is one for a session)
    def services(self, profiles: str = "", *, workers: str = "") -> dict[str, Any]:
        """The services that these profiles start, variables filled in."""
        done = self.config(profiles, workers=workers)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["services"]


@pytest.fixture(scope="session")
def make_env(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run docker/make-env.sh in a copy of its folder, (folder, *arguments) to what it did."""

    def make(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
        for name in ("make-env.sh", ".env.example"):
            shutil.copy(DOCKER / name, folder)
        return subprocess.run(["sh", folder / "make-env.sh", *words], capture_output=True, text=True)

    return make


@pytest.fixture(scope="session")
def compose(make_env: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Compose with the environment file that an administrator would have."""
    folder = tmp_path_factory.mktemp("docker")
    done = make_env(folder, LAB_HOST)
    assert done.returncode == 0, done.stderr
    return Compose(folder / ".env")
