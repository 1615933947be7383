"""Run folders: what they record, how they are found, and that only one process at a time works on one."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from saccade.errors import RunError
from saccade.provenance import GitState, environment_text, git_state, redact, strip_credentials
from saccade.run_dir import BusyError, RunDir, create_run, list_runs, open_run, update_run
from saccade.spec import DataSpec, PretrainSpec, Spec, TrackingSpec
from saccade.spec_reader import flatten, group_hash, read_spec, spec_hash


def spec(**changes: object) -> Spec:
    return Spec(name="Toy: R3D, seed 1", **changes)


def make(root: Path, **changes: object) -> RunDir:
    return create_run(root, spec(**changes), ["/opt/bin/saccade", "run", "toy.yaml", "--set", "name=a b"])


def test_a_run_has_a_readable_id_and_its_records(tmp_path: Path) -> None:
    run = make(tmp_path / "runs")
    assert re.fullmatch(r"\d{8}-\d{6}-toy-r3d-seed-1-[0-9a-f]{4}", run.id)
    assert run.root == tmp_path / "runs"
    assert read_spec(run.path / "spec.yaml") == spec()
    assert "\nnumpy==" in (run.path / "environment.txt").read_text()
    record = run.record()
    assert record["id"] == run.id
    assert record["name"] == "Toy: R3D, seed 1"
    assert record["command"] == "saccade run toy.yaml --set 'name=a b'"
    assert record["params"]["pretrain.epochs"] == "300"
    assert record["params"]["data.only_present"] == "false"
    assert record["params"].keys() == flatten(spec()).keys()
    assert (record["spec_hash"], record["group_hash"]) == (spec_hash(spec()), group_hash(spec()))
    assert record["packages"]["numpy"] == __import__("numpy").__version__
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["earlier"] == []


@pytest.mark.parametrize(
    ("name", "slug"),
    [("  UPPER case ", "upper-case"), ("眼動", "run"), ("../../etc", "etc"), ("x" * 200, "x" * 40), ("-.-", "run")],
)
def test_any_name_gives_a_folder_name(tmp_path: Path, name: str, slug: str) -> None:
    run = create_run(tmp_path, Spec(name=name), [])
    assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{slug}-[0-9a-f]{{4}}", run.id)
    assert run.path.parent == tmp_path


def test_ids_differ_within_a_second_and_sort_by_time(tmp_path: Path) -> None:
    runs = [make(tmp_path) for _ in range(3)]
    assert len({run.id for run in runs}) == 3
    assert [run.id[:15] for run in runs] == sorted(run.id[:15] for run in runs)
    assert list_runs(tmp_path) == sorted(runs, key=lambda run: run.id)


def test_a_root_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file.*: .*; runs need a folder that can be written to"):
        make(tmp_path / "file")


# Secrets --------------------------------------------------------------------------------------------------------------


def test_no_password_is_written_down(tmp_path: Path) -> None:
    address = "https://ann:hunter2@mlflow.lab:5000/x"
    run = create_run(
        tmp_path, spec(tracking=TrackingSpec(uri=address)), ["saccade", "run", "--set", f"tracking.uri={address}"]
    )
    update_run(run, spec(tracking=TrackingSpec(uri=address), seed=2), ["saccade", f"--set=tracking.uri={address}"])
    texts = {path.name: path.read_text() for path in run.path.iterdir()}
    assert [name for name, text in texts.items() if "hunter2" in text or "ann:" in text] == []
    assert read_spec(run.path / "spec.yaml").tracking.uri == "https://mlflow.lab:5000/x"
    assert "https://***@mlflow.lab:5000/x" in run.record()["command"]


@pytest.mark.parametrize(
    ("text", "stripped", "shown"),
    [
        ("http://host:5000", "http://host:5000", "http://host:5000"),
        ("see http://u:p@h/x and y", "see http://h/x and y", "see http://***@h/x and y"),
        ("postgresql+psycopg://u:p@ss@h/db", "postgresql+psycopg://h/db", "postgresql+psycopg://***@h/db"),
        ("http://${USER}:${PASS}@h", "http://${USER}:${PASS}@h", "http://${USER}:${PASS}@h"),
        ("http://${USER}:p@h", "http://h", "http://***@h"),
        ("postgresql://h/db?password=p&x=1", "postgresql://h/db?password=&x=1", "postgresql://h/db?password=***&x=1"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("mail me@home", "mail me@home", "mail me@home"),
    ],
)
def test_credentials_are_found_in_addresses(text: str, stripped: str, shown: str) -> None:
    assert strip_credentials(text) == stripped
    assert redact(text) == shown


# Where the code comes from --------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_git_state_is_commit_branch_and_an_appliable_diff(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "package").mkdir(parents=True)
    git(checkout, "init", "-q")
    (checkout / "package" / "a.py").write_text("one\ntwo\n")
    (checkout / "data.bin").write_bytes(bytes(range(256)))
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "first")
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert git_state(checkout / "package") == GitState(commit=commit, branch="main", dirty=False, diff="")

    (checkout / "package" / "a.py").write_text("one\n2\n")
    (checkout / "data.bin").write_bytes(bytes(reversed(range(256))))
    (checkout / "new file.py").write_text("three")
    state = git_state(checkout / "package")
    assert (state.commit, state.dirty) == (commit, True)
    assert state.diff.startswith("# untracked, not in this diff: new file.py\n")
    (tmp_path / "git.diff").write_text(state.diff)
    git(tmp_path, "clone", "-q", str(checkout), "clone")
    git(tmp_path / "clone", "apply", str(tmp_path / "git.diff"))
    assert (tmp_path / "clone" / "package" / "a.py").read_text() == "one\n2\n"
    assert (tmp_path / "clone" / "data.bin").read_bytes() == bytes(reversed(range(256)))


def test_git_state_without_a_commit_or_a_checkout(tmp_path: Path) -> None:
    assert git_state(tmp_path) == GitState()
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("")
    assert git_state(tmp_path) == GitState(
        commit="", branch="main", dirty=True, diff="# untracked, not in this diff: a.py\n"
    )
    installed = tmp_path / "venv" / "site-packages" / "saccade"
    installed.mkdir(parents=True)
    assert git_state(installed) == GitState()


def test_the_environment_reads_as_requirements() -> None:
    lines = environment_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert packages == sorted(packages, key=lambda line: line.partition("==")[0].lower())
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line) for line in packages)


# Going on -------------------------------------------------------------------------------------------------------------


def test_a_resume_keeps_what_was_true_before(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.path / "journal.jsonl").write_text('{"t": 1, "kind": "attempt", "number": 2}\n')
    before = run.record()
    update_run(run, spec(pretrain=PretrainSpec(epochs=400)), ["saccade", "run", "--resume", run.id])
    assert read_spec(run.path / "spec.yaml").pretrain.epochs == 400
    assert read_spec(run.path / "spec.attempt2.yaml").pretrain.epochs == 300
    assert not list(run.path.glob("environment.attempt*"))
    record = run.record()
    assert record["params"]["pretrain.epochs"] == "400"
    assert record["created"] == before["created"]
    assert [item["command"] for item in record["earlier"]] == [before["command"]]
    assert record["command"] == f"saccade run --resume {run.id}"


def test_a_run_that_is_under_way_is_not_rewritten(tmp_path: Path) -> None:
    run = make(tmp_path)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    for lock in (run.lock_supervisor, run.lock):
        with lock(), pytest.raises(BusyError):
            update_run(run, spec(seed=2), [])
    assert {name: (run.path / name).read_bytes() for name in before} == before


# Finding --------------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_whatever_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {name: tmp_path / "runs" / name for name in ("20260101-000000-toy-aaaa", "20260102-000000-toy-bbbb")}
    for path in runs.values():
        path.mkdir(parents=True)
        (path / "run.json").write_text("{}")
    first, second = runs
    (runs[second] / "shipping.json").write_text(json.dumps({"mlflow_run_id": "0123456789abcdef" * 2}))
    root = tmp_path / "runs"
    monkeypatch.chdir(root)
    for ref in (first, "20260101", str(runs[first]), f"{runs[first]}/", f"./{first}"):
        assert open_run(root, ref) == RunDir(runs[first])
    assert open_run(root, "0123456789abcdef" * 2) == RunDir(runs[second])


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("202601", r"'202601' is the beginning of 2 runs: .*-aaaa, .*-bbbb; give more of it"),
        ("20260101-000000-toy-aaab", r"no run '.*' in .*; did you mean 20260101-000000-toy-aaaa"),
        ("bbbb", r"did you mean 20260102-000000-toy-bbbb\?"),
        ("f" * 32, r"no run 'f+' in .*; the latest is 20260102-000000-toy-bbbb"),
        ("", r"no run '' in"),
        ("./empty", r"not the folder of a run"),
    ],
)
def test_an_unknown_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str, message: str) -> None:
    for name in ("20260101-000000-toy-aaaa", "20260102-000000-toy-bbbb", "empty"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=message) as caught:
        open_run(tmp_path, ref)
    assert "\n" not in str(caught.value)


def test_no_runs_at_all(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "runs") == []
    with pytest.raises(RunError, match="there are no runs in"):
        open_run(tmp_path / "runs", "x")


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run.json: cannot be read"):
        run.record()


# Locks ----------------------------------------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path
from saccade.run_dir import RunDir
lock = RunDir(Path(sys.argv[1])).lock()
if os.fork() == 0:   # a data worker, which outlives its trainer by a while
    time.sleep(60)
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""


def test_one_trainer_at_a_time_and_none_after_kill(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert not run.trainer_lives()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert run.trainer_lives()
        with pytest.raises(BusyError, match=rf"run {run.id} is being trained by pid {holder.pid} on .+; stop it first"):
            run.lock()
        with run.lock_supervisor():  # Another lock.
            pass
        holder.kill()
        holder.wait()
        holder.stdout.close()
        assert not run.trainer_lives()
        with run.lock():
            assert run.trainer_lives()
        assert not run.trainer_lives()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_one_supervisor_at_a_time(tmp_path: Path) -> None:
    run = make(tmp_path)
    with run.lock_supervisor(), pytest.raises(BusyError, match=rf"is being supervised by pid {os.getpid()} on"):
        run.lock_supervisor()
    run.lock_supervisor().release()


def test_a_data_spec_reaches_the_params(tmp_path: Path) -> None:
    run = make(tmp_path, data=DataSpec(root="${DATA}", dataset="toy"))
    assert (run.record()["params"]["data.root"], run.record()["params"]["data.dataset"]) == ("${DATA}", "toy")
