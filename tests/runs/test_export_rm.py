"""`saccade runs export` and `rm`: a folder that is enough to start from, and nothing removed by mistake."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade import launch
from saccade.run_dir import RunDir, list_runs
from saccade.runs.find import find_run
from saccade.runs.record import local_record
from saccade.runs.remove import remove
from saccade.spec_reader import read_spec, spec_diff, spec_hash
from saccade.tracking.store import Store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Make = Callable[..., RunDir]
Ship = Callable[[RunDir, str], str]
Command = Callable[..., tuple[int, str, str]]
CURVES = {"test/retrieval_top1": [(4, 0.1875)], "pretrain/loss": [(2, 3.5), (4, 0.1)]}


# Export --------------------------------------------------------------------------------------------------------------


def test_what_is_exported(make: Make, saccade: Command, root: Path) -> None:
    run = make(
        "one", "seed=5", "tracking.uri=http://h:1", "then=[then/2.yaml]", curves=CURVES, files={"summary.md": "# one\n"}
    )
    (run.path / "git.diff").write_text("# untracked, not in this diff: new.py\ndiff --git a/x b/x\n")
    code, out, err = saccade("runs", "export", "one", "a/out")
    assert (code, out) == (0, "a/out: see a/out/README.md\n")
    assert err == f"warning: run {run.id}: there is no {run.path}/encoder: never made, or removed\n"
    folder = Path("a/out")
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "environment.txt", "git.diff", "metrics.csv", "run.json", "spec.yaml", "summary.md")
    }
    before, after = read_spec(run.path / "spec.yaml"), read_spec(folder / "spec.yaml")
    assert spec_diff(before, after) == {"tracking.uri": ("http://h:1", ""), "then": (("then/2.yaml",), ())}
    assert spec_hash(after) == spec_hash(before)
    assert (folder / "environment.txt").read_text() == (run.path / "environment.txt").read_text()
    assert "pretrain/loss,4,0.1\n" in (folder / "metrics.csv").read_text()
    about = json.loads((folder / "run.json").read_text())
    assert (about["id"], about["metrics"]) == (run.id, {"pretrain/loss": 0.1, "test/retrieval_top1": 0.1875})
    readme = (folder / "README.md").read_text()
    for words in (
        f"git checkout {about['git']['commit']}",
        "git apply OUT/git.diff",
        "# untracked, not in this diff: new.py",
        "saccade run OUT/spec.yaml",
        "`saccade data check FOLDER/UCF101`",
        "18.8 %",
    ):
        assert words in readme, words


def test_an_export_takes_its_weights_along_and_starts_from_any_folder(
    make: Make, saccade: Command, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saccade.initial_weights import adopt
    from saccade.models.encoder import build_encoder
    from saccade.models.export import save_encoder

    file = tmp_path / "first" / "encoder.safetensors"
    save_encoder(file.parent, build_encoder("r3d", width=4), name="r3d", width=4, clip_frames=4, clip_size=16)
    data = tmp_path / "data" / "UCF101"
    for part in ("split", "jpegs_256"):
        (data / part).mkdir(parents=True)
    run = make("one", f"encoder.weights={file}", "encoder.width=4", "pretrain.epochs=0", curves=CURVES)
    adopt(file, str(file), run)
    bytes_ = file.read_bytes()
    shutil.rmtree(file.parent)
    assert saccade("runs", "export", run.id, "out")[0] == 0
    assert Path("out/weights.safetensors").read_bytes() == bytes_
    shutil.rmtree(run.path)
    shutil.move("out", "moved")

    started = []
    monkeypatch.setattr(launch, "reconcile", lambda *_, **__: None)
    monkeypatch.setattr(launch, "supervise", lambda new, **_: started.append(new) or 0)
    code, _, err = saccade("run", "moved/spec.yaml", "--set", f"data.root={tmp_path / 'data'}")
    assert (code, err) == (0, "")
    assert (started[0].path / "inputs" / "weights.safetensors").read_bytes() == bytes_


def test_where_nothing_is_exported_to(make: Make, saccade: Command, root: Path, tmp_path: Path) -> None:
    run = make("one", curves=CURVES)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for out, said in (("full", "exists and is not an empty folder"), ("full/mine.txt/x", "Not a directory")):
        code, _, err = saccade("runs", "export", run.id, out)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert saccade("runs", "export", run.id, "empty")[0] == 0
    assert not list(tmp_path.glob(".*partial"))


# Removal -------------------------------------------------------------------------------------------------------------


def test_nothing_is_removed_without_a_yes(
    make: Make, saccade: Command, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("one")
    code, out, err = saccade("runs", "rm", run.id)
    assert code == 2
    assert "give --yes" in err
    assert out.startswith(f"remove run {run.id} (one, FINISHED): {run.path} (")
    assert "which was never tracked: nothing else has it" in out
    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda text: asked.append(text) is not None)
    assert saccade("runs", "rm", run.id)[0] == 1
    assert asked == ["Remove?"]
    assert run.path.is_dir()
    monkeypatch.setattr("typer.confirm", lambda text: True)
    code, out, _ = saccade("runs", "rm", run.id)
    assert (code, out.splitlines()[-1]) == (0, f"removed {run.path}")
    assert list(root.iterdir()) == []


def test_a_run_at_work_is_left_alone(make: Make, saccade: Command, root: Path) -> None:
    run = make("one", status="")
    for lock, word in ((run.lock, "trained"), (run.lock_supervisor, "supervised")):
        with lock():
            code, _, err = saccade("runs", "rm", run.id, "--yes")
        assert code == 2
        assert f"error: run {run.id} is being {word} by pid {os.getpid()} on " in err
        assert (run.path / "run.json").exists()
    assert saccade("runs", "rm", run.id, "--yes")[0] == 0


def test_several_at_once_and_links(make: Make, saccade: Command, root: Path, tmp_path: Path) -> None:
    runs = [make("a"), make("b"), make("c")]
    elsewhere = tmp_path / runs[2].id
    runs[2].path.rename(elsewhere)
    runs[2].path.symlink_to(elsewhere)
    code, _, err = saccade("runs", "rm", "a", "c", "--yes")
    assert code == 2
    assert "is a link" in err
    assert [run.id for run in list_runs(root)] == [runs[1].id, runs[2].id]
    assert (elsewhere / "run.json").exists()
    assert saccade("runs", "rm", "b", "nothing", "--yes")[0] == 2
    assert (runs[1].path / "run.json").exists()


# Root may write everywhere, unless this is taken from it.
WITHOUT_PRIVILEGE = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []


@pytest.mark.skipif(bool(WITHOUT_PRIVILEGE) and shutil.which("setpriv") is None, reason="root, and no setpriv here")
def test_a_folder_that_may_only_be_read(make: Make, root: Path, tmp_path: Path) -> None:
    run = make("one", curves=CURVES)
    folders = [run.path, root, tmp_path]

    def command(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*WITHOUT_PRIVILEGE, sys.executable, "-m", "saccade.cli", *words, "--runs", str(root)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        return done.returncode, done.stdout, done.stderr

    for folder in folders:
        folder.chmod(0o555)
    try:
        code, out, err = command("runs", "show", "one")
        assert (code, err) == (0, "")
        assert "18.8 %" in out
        for words in (["rm", "one", "--yes"], ["export", "one", "out"], ["sync", "one"]):
            code, _, err = command("runs", *words)
            assert code == 2, words
            assert err.startswith("error: ")
            assert err.count("\n") == 1
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert find_run(root, "one").last == local_record(run).last


def test_the_mlflow_run_goes_too_when_asked(
    make: Make, ship: Ship, saccade: Command, root: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = make("kept"), make("gone")
    ids = {run.id: ship(run, database) for run in (kept, gone)}
    assert saccade("runs", "rm", "kept", "--yes")[0] == 0
    code, out, _ = saccade("runs", "rm", "gone", "--yes", "--tracked")
    assert code == 0
    assert out.splitlines()[-1] == f"deleted the MLflow run {ids[gone.id]} at {database} and removed {gone.path}"
    client = Store(database, root).client
    assert client.get_run(ids[kept.id]).info.lifecycle_stage == "active"
    assert client.get_run(ids[gone.id]).info.lifecycle_stage == "deleted"
    assert list_runs(root) == []
    assert find_run(root, "kept").id == kept.id


def test_when_the_server_cannot_delete_nothing_is_removed(make: Make, ship: Ship, root: Path, database: str) -> None:
    from saccade.errors import RunError

    run = make("one")
    ship(run, database)
    state = json.loads((run.path / "shipping.json").read_text())
    (run.path / "shipping.json").write_text(json.dumps({**state, "tracking_uri": "http://127.0.0.1:9"}))
    with pytest.raises(RunError, match=r"http://127.0.0.1:9: .*refused"):
        remove(find_run(root, "one"), tracked=True)
    assert (run.path / "run.json").exists()
