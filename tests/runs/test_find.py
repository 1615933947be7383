"""A run by all that it is called, here and on a server; and one line for everything that does not work."""

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saccade.errors import RunError
from saccade.run_dir import RunDir
from saccade.runs.find import all_runs, find_folder, find_run, tracked_run
from saccade.tracking.store import Store

from .conftest import Door

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Make = Callable[..., RunDir]
Ship = Callable[[RunDir, str], str]
SCORES = {"test/retrieval_top1": [(4, 0.25)], "pretrain/loss": [(2, 3.5), (4, 3.25)]}


def said(root: Path, ref: str) -> str:
    with pytest.raises(RunError) as caught:
        find_run(root, ref)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_all_names_of_a_run_on_this_machine(root: Path, make: Make, ship: Ship, database: str) -> None:
    first, second = make("one"), make("two")
    mlflow_id = ship(second, database)
    for ref in (second.id, second.id[:-2], str(second.path), mlflow_id, "two"):
        found = find_run(root, ref)
        assert (found.id, found.run, found.name) == (second.id, second, "two")
    assert "stands for 2 runs" in said(root, first.id[:4])
    third = make("two")
    assert said(root, "two") == f"'two' stands for 2 runs of {root}: {second.id}, {third.id}; give an id, or more of it"
    near = second.id[:-6] + "xxxxxx"
    assert f"no run '{near}' in {root}" in said(root, near)
    assert f"did you mean {second.id}" in said(root, near)


def test_reading_makes_no_database(root: Path, make: Make) -> None:
    assert said(root, "x") == f"no run 'x': there are no runs in {root}"
    run = make("one")
    assert said(root, "zzz") == f"no run 'zzz' in {root}; the latest is {run.id}"
    assert [record.id for record in all_runs(root)] == [run.id]
    assert not (root / "mlflow.db").exists()


def test_a_folder_that_is_no_run(root: Path, make: Make, tmp_path: Path) -> None:
    make("one")
    assert "not the folder of a run" in said(root, f"{tmp_path}/runs")


@pytest.mark.parametrize("where", ["server", "file"])
def test_all_names_of_a_run_whose_folder_is_gone(
    where: str, root: Path, make: Make, ship: Ship, server: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = server if where == "server" else database
    name = f"far-{where}"
    run = make(name, "seed=5", "tracking.experiment=far", curves=SCORES, tags={"encoder": "r3d"})
    here = find_run(root, run.id)
    mlflow_id = ship(run, uri)
    shutil.rmtree(run.path)
    if where == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for ref in (run.id, run.id[:-1], mlflow_id, name):
        found = find_run(root, ref)
        assert (found.id, found.run, found.name, found.status) == (run.id, None, name, "FINISHED")
    assert found.settings == here.settings
    assert found.last == here.last == {"test/retrieval_top1": 0.25, "pretrain/loss": 3.25}
    assert {key: (list(steps), list(values)) for key, (steps, values) in found.curves.items()} == {
        "test/retrieval_top1": ([4], [0.25]),
        "pretrain/loss": ([2, 4], [3.5, 3.25]),
    }
    assert found.tags["dataset_digest"] == "5b4f"
    assert found.text("spec.yaml").splitlines()[0] == f"name: {name}"
    assert found.experiment == "far"
    assert [record.id for record in all_runs(root, experiment="far")] == [run.id]
    assert all_runs(root, experiment="far", status="FAILED") == []
    assert find_folder(root, run.id) is None
    assert f"did you mean {run.id}" in said(root, run.id[:-4] + "zzzz")


def test_what_is_here_and_there_is_listed_once(
    root: Path, make: Make, ship: Ship, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    both, gone = make("both", "tracking.experiment=once"), make("gone", "tracking.experiment=once")
    for run in (both, gone):
        ship(run, server)
    shutil.rmtree(gone.path)
    never = make("never", "tracking.experiment=once", status="")
    found = all_runs(root, experiment="once")
    assert [(record.id, record.run is not None, record.status) for record in found] == [
        (never.id, True, "KILLED"),
        (gone.id, False, "FINISHED"),
        (both.id, True, "FINISHED"),
    ]
    assert [record.id for record in all_runs(root, experiment="once", limit=2)] == [never.id, gone.id]
    assert [record.id for record in all_runs(root, experiment="once", here=True)] == [never.id, both.id]
    there = tracked_run(find_run(root, both.id))
    assert there is not None
    assert (there.id, there.run) == (both.id, None)
    assert tracked_run(find_run(root, never.id)) is None


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_a_run_of_something_else(root: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Store(server, root).client
    experiment_id = Store(server, root).open_experiment("of somebody else")
    foreign = client.create_run(experiment_id, run_name="bert").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert said(root, foreign).startswith(
        f"{server}: the MLflow run {foreign} ('bert' in experiment 'of somebody else') is not one of saccade"
    )
    assert "no run 'bert'" in said(root, "bert")
    assert all_runs(root, experiment="of somebody else") == []
    client.delete_run(foreign)
    assert said(root, foreign) == f"{server}: the MLflow run {foreign} was deleted; restore it there"
    assert "no run" in said(root, "0" * 32)


def test_a_deleted_artifact(root: Path, make: Make, ship: Ship, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("bare")
    mlflow_id = ship(run, server)
    shutil.rmtree(run.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    record = find_run(root, run.id)
    with pytest.raises(RunError) as caught:
        record.text("encoder/encoder.json")
    assert str(caught.value).startswith(f"run {run.id}: 'encoder/encoder.json' is not among its artifacts at {server}")
    assert "\n" not in str(caught.value)
    assert record.text_if_any("nothing.diff") == ""
    assert mlflow_id in record.link


def test_a_wrong_password(root: Path, make: Make, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.open()
    door.status = 401
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.address.replace("//", "//ann:hunter2@"))
    text = said(root, "x")
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in text
    assert "hunter2" not in text
    run, warnings = make("here"), list[str]()
    assert [record.id for record in all_runs(root, warn=warnings.append)] == [run.id]
    assert len(warnings) == 1
    assert "hunter2" not in warnings[0]


def test_no_server(root: Path, make: Make, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.address)  # shut
    run = make("here")
    assert find_run(root, "here").id == run.id  # nobody is asked
    assert said(root, "there") == (
        f"no run 'there' in {root}, and it cannot be looked for elsewhere: {door.address}: [Errno 111] Connection "
        "refused; start the server, or set MLFLOW_TRACKING_URI"
    )


@pytest.fixture
def old_server() -> Iterator[str]:
    """What a server of MLflow 2 says of itself."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/version" else 404)
            self.end_headers()
            self.wfile.write(b"2.9.2")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_an_old_server(root: Path, old_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", old_server)
    assert f"{old_server}: this MLflow server is version 2.9.2, and 3.0 or newer is needed" in said(root, "x")


def test_a_database_of_an_old_version(root: Path, empty_database: Path) -> None:
    import sqlite3

    copy = root / "mlflow.db"
    root.mkdir()
    shutil.copyfile(empty_database, copy)
    with sqlite3.connect(copy) as database:
        database.execute("UPDATE alembic_version SET version_num = '97727af70f4d'")
    database.close()
    text = said(root, "x")
    assert "mlflow db upgrade" in text


def test_damaged_folders_are_told_and_the_others_listed(root: Path, make: Make) -> None:
    broken, cut, whole = make("broken"), make("cut"), make("whole")
    (broken.path / "run.json").write_text("{")
    with open(cut.journal, "ab") as file:
        file.write(b"no json\n")
    warnings: list[str] = []
    assert [record.id for record in all_runs(root, warn=warnings.append)] == [whole.id]
    assert [warning.partition(":")[0] for warning in warnings] == [str(cut.journal), str(broken.path / "run.json")]
