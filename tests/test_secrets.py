"""Secrets planted wherever a run or a study meets one, and looked for in all that it leaves, here and in MLflow."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saccade import provenance
from saccade.chain import places, save_followers
from saccade.commands.server import server
from saccade.errors import SaccadeError, SpecError
from saccade.provenance import hide_secrets
from saccade.run_dir import RunDir, create_run, update_run
from saccade.slurm import submit
from saccade.spec import Spec, TrackingSpec
from saccade.supervisor import supervise
from saccade.sweep.reader import read_sweep
from saccade.tracking.server import ServerSettings
from saccade.tracking.shipping_state import ShippingState
from saccade.tracking.ui import serve_ui

from .canaries import CANARY, VARIABLES, leaks
from .mlflow_server import Ui

STUB = Path(__file__).with_name("trainer_stub.py")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Secrets in the environment, by the names of its variables."""
    values = {**VARIABLES, "LAB_DATABASE": f"postgresql://lab:{CANARY}-database@db/optuna"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose changes hold secrets, as the code that runs."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git = partial(subprocess.run, cwd=folder, check=True, capture_output=True)
    git(["git", "init", "-q"])
    (folder / "settings.py").write_text("BATCH = 4\n")
    git(["git", "add", "."])
    git(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"])
    lines = [
        *("BATCH = 8", f'password = "{CANARY}-in-code"', f"API_KEY={CANARY}7in7env", 'key = "AKIAKANARIENVOGEL123"'),
        *(f"uri = 'https://ann:{CANARY}@lab:5000/x'", f"headers['Authorization: Bearer {CANARY}-bearer']"),
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        *(f"{CANARY}AAA", "-----END OPENSSH PRIVATE KEY-----"),
    ]
    (folder / "settings.py").write_text("\n".join(lines))
    monkeypatch.setattr("saccade.run_dir.git_state", partial(provenance.git_state, folder))
    return folder


def test_a_tracked_run_leaves_no_secret(
    ui: Ui, planted: Mapping[str, str], dirty: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = ui.address.replace("//", f"//{CANARY}-user:{CANARY}-password@")
    spec = Spec(name="toy", tracking=TrackingSpec(uri=address), then=("next.yaml",))
    command = ["saccade", "run", "x.yaml", "--set", f"tracking.uri={address}", f"--set=name={planted['GITHUB_TOKEN']}"]
    run = create_run(tmp_path / "runs", spec.model_copy(update={"then": places([spec])}), command)
    save_followers(run, [spec])
    saying = [
        f"cannot reach {planted['LAB_DATABASE']}: {dict(os.environ)}",
        f"  File x.py, line 3: boto3.client(aws_secret_access_key='{planted['AWS_SECRET_ACCESS_KEY']}')",
        f"error: password={CANARY}99 was refused",
    ]
    actions: list[Any] = [["train", 3], *(["print", line] for line in saying), ["exit", 3]]
    trainer = [sys.executable, str(STUB), json.dumps(actions)]
    for resume in (False, True):
        if resume:
            update_run(run, spec, command)
        assert supervise(run, resume=resume, tracking_uri=address, experiment="secrets", command=trainer) == 1
    diff = (run.path / "git.diff").read_text()
    assert "+BATCH = 8" in diff
    assert diff.count("***") == 6 + 1  # and the note
    assert "cannot reach postgresql://***@db/optuna" in run.log.read_text()
    assert leaks(run.root) == []
    assert leaks(ui.root) == []
    # Gone on with from a clean checkout, it shows no diff of before.
    (dirty / "settings.py").write_text("BATCH = 4\n")
    update_run(run, spec, command)
    assert supervise(run, resume=True, tracking_uri=address, experiment="secrets", command=trainer) == 1
    (tracked,) = {path.read_bytes() for path in ui.root.rglob("git.diff") if run.id in tracked_id(run, path)}
    assert tracked == b""
    # What the trainer says is shown as it comes; what the supervisor says of it is not.
    assert [
        line for line in capfd.readouterr().err.splitlines() if line.startswith("saccade: ") and CANARY in line
    ] == []


def tracked_id(run: RunDir, path: Path) -> str:
    """The run's id, if the file is among its artifacts."""
    state = ShippingState.load(run.path)
    return run.id if state is not None and state.mlflow_run_id in path.parts else ""


def test_a_study_keeps_no_password(tmp_path: Path, planted: Mapping[str, str]) -> None:
    validated = "data: {validation: ['*_g01_*']}\nevaluation: {retrieval: {validate_every_epochs: 1}}\n"
    (tmp_path / "toy.yaml").write_text(f"name: toy\n{validated}")
    sweep = "name: x\nexperiment: toy.yaml\nobjective: val/retrieval_top1\nsearch: {seed: [1, 2]}\n"
    sweep += "budget: {trials: 2}\nstart: false\n"
    for storage, said in [
        (f"postgresql://optuna:{CANARY}@db/optuna", "holds a password, which would stand in the study's files"),
        ("postgresql://optuna:${OPTUNA_DB_PASSWORD}@db/optuna", ""),
        ("${LAB_DATABASE}", ""),
    ]:
        (tmp_path / "x.yaml").write_text(f"{sweep}storage: {storage}\n")
        if said:
            with pytest.raises(SpecError, match=said) as refusal:
                read_sweep(tmp_path / "x.yaml", [])
            assert CANARY not in str(refusal.value)
        else:
            assert read_sweep(tmp_path / "x.yaml", []).file.storage == storage


def test_a_job_takes_no_password_along(tmp_path: Path) -> None:
    words = ["run", "x.yaml", "--set", f"tracking.uri=http://ann:{CANARY}@lab:5000"]
    with pytest.raises(SaccadeError, match="the command holds a password") as refusal:
        submit(words, "local", runs_root=tmp_path / "runs")
    assert CANARY not in str(refusal.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('password = "hunter2!"', 'password = "***"'),
        ("db_passwd: correct1horse", "db_passwd: ***"),
        ('{"api_key": "x y z 1"}', '{"api_key": "***"}'),
        ("Authorization: Basic YW5uOmh1bnRlcg==", "Authorization: Basic ***"),
        (
            "see https://ann:x@lab/ and postgresql://h/d?password=x",
            "see https://***@lab/ and postgresql://h/d?password=***",
        ),
        ("aws AKIAIOSFODNN7EXAMPLE of", "aws *** of"),
        # What is no secret stays, or no diff would apply any more.
        ("self.token = token", "self.token = token"),
        ("num_tokens = 4096", "num_tokens = 4096"),
        ("token = tokenizer2.encode(text)", "token = tokenizer2.encode(text)"),
        ("password: ${LAB_PASSWORD}", "password: ${LAB_PASSWORD}"),
        ("password=None, secret=get_secret1()", "password=None, secret=get_secret1()"),
    ],
)
def test_what_looks_like_a_secret(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


def test_a_variable_of_a_secret_name_is_hidden_but_not_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TOKEN", "a b c d e f")
    monkeypatch.setenv("SHORT_TOKEN", "the")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/ann/key.json")
    text = "the a b c d e f in /home/ann/key.json"
    assert hide_secrets(text) == "the *** in /home/ann/key.json"


# Access ---------------------------------------------------------------------------------------------------------------


def listening(port: int) -> set[str]:
    """Addresses that somebody listens on at a port, as the kernel writes them."""
    tables = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    rows = [line.split() for line in tables.splitlines() if line.split()[0].endswith(":")]
    places = [place for _, place, _, state, *_ in rows if state == "0A"]
    return {place.split(":")[0] for place in places if place.endswith(f":{port:04X}")}


def test_a_server_listens_on_the_loopback_interface_unless_told(ui: Ui) -> None:
    assert listening(int(ui.address.rpartition(":")[2])) == {"0100007F"}
    assert inspect.signature(serve_ui).parameters["host"].default == "127.0.0.1"
    assert inspect.signature(server).parameters["host"].default == "127.0.0.1"


def test_the_command_line_of_a_server_shows_no_password() -> None:
    database = f"postgresql+psycopg://mlflow:{CANARY}@db/mlflow"
    settings = ServerSettings(database=database, artifacts="s3://mlflow", host="0.0.0.0", names=("lab",))
    assert CANARY not in " ".join(settings.command())
    assert settings.environment()["MLFLOW_BACKEND_STORE_URI"] == database
    assert CANARY not in settings.summary(settings.address())
