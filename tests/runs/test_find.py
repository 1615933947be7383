"""A run by all that it is called, here and on a server; and one line for everything that does not work."""

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saccade.run_dir import RunDir
from saccade.runs.find import all_runs, find_folder, find_run

from .conftest import check_all_names, said

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Make = Callable[..., RunDir]
Ship = Callable[[RunDir, str], str]
SCORES = {"test/retrieval_top1": [(4, 0.25)], "pretrain/loss": [(2, 3.5), (4, 3.25)]}


def test_all_names_of_a_run_on_this_machine(root: Path, make: Make, ship: Ship, database: str) -> None:
    first, second = make("one"), make("two")
    mlflow_id = ship(second, database)
    for ref in (second.id, second.id[:-2], str(second.path), mlflow_id, "two"):
        found = find_run(root, ref)
        assert (found.id, found.run, found.name) == (second.id, second, "two")
    assert "stands for 2 runs" in said(root, first.id[:4])
    both = ", ".join(sorted([second.id, make("two").id]))
    assert said(root, "two") == f"'two' stands for 2 runs of {root}: {both}; give an id, or more of it"
    near = second.id[:-6] + "xxxxxx"
    assert f"no run '{near}' in {root}" in said(root, near)
    assert "did you mean " in said(root, near)
    assert second.id in said(root, near)


def test_reading_makes_no_database(root: Path, make: Make) -> None:
    assert (
        said(root, "x")
        == f"no run 'x': there are no runs in {root}; give --runs FOLDER, or their server in MLFLOW_TRACKING_URI"
    )
    run = make("one")
    assert said(root, "zzz") == f"no run 'zzz' in {root}; the latest is {run.id}"
    assert [record.id for record in all_runs(root)] == [run.id]
    assert not (root / "mlflow.db").exists()


def test_a_folder_that_is_no_run(root: Path, make: Make, tmp_path: Path) -> None:
    make("one")
    assert "not the folder of a run" in said(root, f"{tmp_path}/runs")


def test_all_names_of_a_run_whose_folder_is_gone(root: Path, make: Make, ship: Ship, database: str) -> None:
    run = make("far", "seed=5", "tracking.experiment=far", curves=SCORES, tags={"encoder": "r3d"})
    here = find_run(root, run.id)
    mlflow_id = ship(run, database)
    shutil.rmtree(run.path)
    check_all_names(root, here, mlflow_id)
    assert find_folder(root, run.id) is None
    assert f"did you mean {run.id}" in said(root, run.id[:-4] + "zzzz")


# What goes wrong -----------------------------------------------------------------------------------------------------


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


def test_a_database_of_an_old_version(root: Path, empty_store: Path) -> None:
    import sqlite3

    copy = root / "mlflow.db"
    root.mkdir()
    shutil.copyfile(empty_store, copy)
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
