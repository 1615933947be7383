"""The files of docker/ and mlflow/: read by Compose, linted, and true to what `saccade server` runs."""

import json
import re
import stat
import subprocess
from collections.abc import Callable
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from saccade.tracking.server import ServerSettings, host_names

from .conftest import DOCKER, LAB_HOST, MLFLOW, REPOSITORY, TOOLS, Compose

Run = Callable[..., "subprocess.CompletedProcess[str]"]
BENCHMARKS = REPOSITORY / "benchmarks"
DOCKERFILES = [MLFLOW / "Dockerfile", DOCKER / "worker.Dockerfile"]
SECRETS = {
    "POSTGRES_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "OPTUNA_DB_PASSWORD",
    "S3_SECRET_KEY",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_SECRET_KEY",
}


def values(env_file: Path) -> dict[str, str]:
    lines = [line for line in env_file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


# Compose -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profiles", "services"),
    [
        ("", {"db", "mlflow"}),
        ("s3", {"db", "mlflow", "s3", "s3-bucket"}),
        ("auth", {"db", "mlflow", "auth"}),
        ("s3,auth", {"db", "mlflow", "s3", "s3-bucket", "auth"}),
    ],
)
def test_profiles(compose: Compose, profiles: str, services: set[str]) -> None:
    assert compose.services(profiles).keys() == services


@pytest.mark.parametrize("missing", sorted({"LAB_HOST", *SECRETS}))
def test_nothing_starts_without_each_secret(compose: Compose, tmp_path: Path, missing: str) -> None:
    text = compose.env_file.read_text()
    emptied = re.sub(rf"^{missing}=.*$", f"{missing}=", text, flags=re.MULTILINE)
    assert emptied != text
    (tmp_path / ".env").write_text(emptied)
    done = compose.config(env_file=tmp_path / ".env")
    assert done.returncode != 0
    assert f"required variable {missing} is missing a value" in done.stderr


def test_the_environment_file_is_made_of_secrets_that_nobody_has_chosen(make_env: Run, tmp_path: Path) -> None:
    example = values(DOCKER / ".env.example")
    assert set(example.values()) == {""}
    made = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        assert make_env(folder, LAB_HOST).returncode == 0
        assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
        made.append(values(folder / ".env"))
        assert made[-1].keys() == example.keys()
        assert {key: value for key, value in made[-1].items() if value} == {
            "LAB_HOST": LAB_HOST,
            **{key: value for key, value in made[-1].items() if key in SECRETS},
        }
    drawn = [each[name] for each in made for name in SECRETS]
    assert len(set(drawn)) == 2 * len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in drawn)
    before = (tmp_path / "a" / ".env").read_text()
    again = make_env(tmp_path / "a", LAB_HOST)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert (tmp_path / "a" / ".env").read_text() == before


@pytest.mark.parametrize("words", [[], ["a b"], ["http://lab"], ["a$b"]])
def test_an_environment_file_needs_a_host_name(make_env: Run, tmp_path: Path, words: list[str]) -> None:
    done = make_env(tmp_path, *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / ".env").exists()


def test_only_loopback_addresses_are_published_and_secrets_stay_with_those_who_need_them(compose: Compose) -> None:
    services = compose.services("s3,auth")
    published = {name: [port["host_ip"] for port in each.get("ports", [])] for name, each in services.items()}
    assert {name: hosts for name, hosts in published.items() if hosts} == {"db": ["127.0.0.1"], "mlflow": ["127.0.0.1"]}
    given = values(compose.env_file)
    holders = {
        secret: {name for name, each in services.items() if given[secret] in each.get("environment", {}).values()}
        for secret in SECRETS
    }
    assert holders == {
        "POSTGRES_PASSWORD": {"db"},
        "MLFLOW_DB_PASSWORD": {"db", "mlflow"},
        "OPTUNA_DB_PASSWORD": {"db"},
        "S3_SECRET_KEY": {"s3", "s3-bucket", "mlflow"},
        "MLFLOW_ADMIN_PASSWORD": {"mlflow"},
        "MLFLOW_SECRET_KEY": {"mlflow"},
    }
    # Nor does a process list show any.
    shown = str([[each.get("command"), each.get("entrypoint"), each.get("healthcheck")] for each in services.values()])
    assert [secret for secret in SECRETS if given[secret] in shown] == []


def test_what_a_service_waits_for(compose: Compose) -> None:
    waits = compose.services("s3,auth")["mlflow"]["depends_on"]
    assert {name: wait["condition"] for name, wait in waits.items()} == {
        "db": "service_healthy",
        "s3-bucket": "service_completed_successfully",
        "auth": "service_completed_successfully",
    }


def test_images_have_a_version_and_scripts_are_there(compose: Compose) -> None:
    services = compose.services("s3,auth,tools")
    for name, service in services.items():
        if "build" in service:
            assert (Path(service["build"]["context"]), name) == (REPOSITORY, name)
            assert Path(service["build"]["context"], service["build"]["dockerfile"]) in DOCKERFILES
        else:
            assert re.fullmatch(r"[a-z/]+:\d+\.\d+", service["image"]), name
        mounted = [Path(each["source"]) for each in service.get("volumes", []) if each["type"] == "bind"]
        assert [path for path in mounted if path.suffix == ".sh" and not path.is_file()] == []
    assert services["mlflow"]["image"] == f"saccade-mlflow:{version('mlflow')}"


# The command line ----------------------------------------------------------------------------------------------------


def entry(command: list[str], profiles: str, folder: str = "/data/artifacts") -> "subprocess.CompletedProcess[str]":
    """What the image's entry runs, printed by `echo` in place of it, a word a line."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "SACCADE_PROFILES": profiles,
        "ARTIFACTS_FOLDER": folder,
        "S3_BUCKET": "mlflow",
    }
    words = ["sh", MLFLOW / "serve.sh", "printf", "%s\\n", *command]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("profiles", ["", "s3", "auth", "s3,auth"])
def test_the_command_line_and_environment_are_those_of_saccade_server(compose: Compose, profiles: str) -> None:
    service = compose.services(profiles)["mlflow"]
    ours = ServerSettings(
        database="postgresql+psycopg://mlflow@db/mlflow",
        artifacts="s3://mlflow" if "s3" in profiles else "/data/artifacts",
        host="0.0.0.0",
        port=5000,
        workers=2,
        names=("mlflow", LAB_HOST),
        auth=Path("/opt/mlflow/auth.ini") if "auth" in profiles else None,
    )
    assert service["environment"]["SACCADE_PROFILES"] == profiles
    runs = entry(service["command"], profiles).stdout.splitlines()
    assert runs[0] == "python"
    assert runs[1:] == ours.command()[1:]
    environment = ours.environment()
    assert {name: service["environment"].get(name) for name in environment} == environment


def test_names_are_those_of_saccade_server() -> None:
    assert host_names("127.0.0.1", ["mlflow", LAB_HOST, "localhost", LAB_HOST]) == ("mlflow", LAB_HOST)
    assert host_names("192.0.2.7", []) == ("192.0.2.7",)
    assert host_names("2001:db8::7", [LAB_HOST]) == (LAB_HOST, "[2001:db8::7]")


@pytest.mark.parametrize("profiles", ["Auth", "s3,auht", "tools"])
def test_a_profile_that_is_misspelt_starts_nothing(profiles: str) -> None:
    done = entry(["python"], profiles)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "there are s3 and auth" in done.stderr


def test_a_profile_that_the_server_is_not_told_of_is_refused(compose: Compose) -> None:
    """`docker compose --profile auth up` with COMPOSE_PROFILES empty would be a server without passwords."""
    done = compose.config("", "--profile", "auth", "--profile", "s3")
    assert json.loads(done.stdout)["services"]["mlflow"]["environment"]["SACCADE_PROFILES"] == ""
    for name, profile in (("auth", "auth"), ("s3-bucket", "s3")):
        words = compose.services(profile)[name]["entrypoint"]
        assert words[:2] == ["/opt/mlflow/profile.sh", profile]
        command = ["sh", MLFLOW / "profile.sh", profile, "echo", "goes on"]
        for told, code, said in (("", 2, ""), ("s3,auth", 0, "goes on\n"), ("authors", 2, "")):
            ran = subprocess.run(command, env={"SACCADE_PROFILES": told}, capture_output=True, text=True)
            assert (ran.returncode, ran.stdout) == (code, said)
            assert ran.stderr.count("\n") == (1 if code else 0)


def test_commands_that_people_are_told_of_exist(compose: Compose, saccade: Callable[..., tuple[int, str, str]]) -> None:
    services = compose.services("s3,auth,tools").keys()
    files = [REPOSITORY / "docs" / "server.md", DOCKER / "compose.yaml", *MLFLOW.glob("*.sh")]
    text = "\n".join(path.read_text() for path in files)
    told = re.findall(r"docker compose (run --rm|exec|stop|start|build)(?: --user \"[^\"]+\")? ([a-z0-9-]+)", text)
    assert {name for _, name in told} >= {"backup", "restore", "upgrade", "bucket", "worker", "mlflow", "db"}
    assert {name for _, name in told} <= services
    options = {option for line in re.findall(r"saccade server(.*)", text) for option in re.findall(r"--[a-z-]+", line)}
    assert options == {"--host", "--allowed-hosts", "--artifacts", "--workers"}
    code, out, _ = saccade("server", "--help")
    assert code == 0
    assert [option for option in options if f"{option} " not in out] == []


# Images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles(path: Path) -> None:
    done = subprocess.run([TOOLS / "hadolint", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    ignored = path.with_name(path.name + ".dockerignore").read_text().splitlines()
    admitted = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = [
        word
        for line in re.findall(r"^COPY (.+)$", path.read_text(), re.MULTILINE)
        for word in line.split()[:-1]
        if not word.startswith("--")
    ]
    assert len(copied) > 5
    for word in copied:
        assert (REPOSITORY / word).exists(), word
        assert word.split("/")[0] in admitted, word


def test_shell_scripts() -> None:
    scripts = sorted([*DOCKER.glob("*.sh"), *MLFLOW.glob("*.sh"), *BENCHMARKS.glob("*.sh")])
    assert len(scripts) == 8
    done = subprocess.run([TOOLS / "shellcheck", *scripts], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    # Compose and the Dockerfile start these by themselves; a volume keeps the mode of the file in the repository.
    assert [path.name for path in scripts if not path.stat().st_mode & stat.S_IXUSR] == []


def test_every_package_of_the_server_image_is_pinned() -> None:
    """Walks through what is installed here, which is what the image installs."""
    pins = dict(
        line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line[1:]
    )
    pinned = {canonicalize_name(name): pin for name, pin in pins.items()}
    lines = [line for line in (MLFLOW / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    todo, seen = [Requirement(line) for line in lines], set()
    while todo:
        wanted = todo.pop()
        extras = wanted.extras or {""}
        name = canonicalize_name(wanted.name)
        if (name, *extras) in seen:
            continue
        seen.add((name, *extras))
        assert pinned.get(name) == version(name), name
        needs = [Requirement(text) for text in requires(name) or []]
        todo += [need for need in needs if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras)]
    assert len(seen) > 60
