"""Saved views: what MLflow keeps of them, in the format that its UI reads (tests/screens opens them in a browser)."""

import base64
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from saccade.tracking.errors import DeniedError, RefusedError
from saccade.tracking.store import Store
from saccade.tracking.views import STANDARD_VIEWS, sweep_view, view_link, write_views

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

PREFIX = "mlflow.sharedViewState."


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


def saved(store: Store, experiment: str) -> dict[str, dict[str, Any]]:
    tags = store.client.get_experiment(experiment).tags
    return {key.removeprefix(PREFIX): json.loads(value) for key, value in tags.items() if key.startswith(PREFIX)}


def state(value: dict[str, Any]) -> dict[str, Any]:
    kind, _, packed = value["state"].partition(";")
    assert kind == "deflate"
    content: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return content


def test_an_experiment_gets_the_views_once(store: Store) -> None:
    experiment = store.open_experiment("tests")
    write_views(store, experiment)
    first = saved(store, experiment)
    assert {key: value["name"] for key, value in first.items()} == {
        "saccade-runs": "Runs and their scores",
        "saccade-seeds": "Seeds: mean and range",
    }
    # Somebody has changed one in the UI, and a colleague's run comes.
    changed = {**first["saccade-runs"], "updatedAt": 1}
    store.client.set_experiment_tag(experiment, f"{PREFIX}saccade-runs", json.dumps(changed))
    write_views(store, experiment)
    assert saved(store, experiment) == {**first, "saccade-runs": changed}


def test_the_table_has_the_columns_that_a_run_logs(store: Store) -> None:
    experiment = store.open_experiment("tests")
    write_views(store, experiment)
    content = state(saved(store, experiment)["saccade-runs"])
    assert {"metrics.`test/retrieval_top1`", "params.`seed`", "tags.`dataset`"} <= set(content["selectedColumns"])
    assert content["columnOrder"] == content["selectedColumns"]
    assert (content["orderByKey"], content["orderByAsc"], content["groupBy"]) == ("attributes.start_time", False, None)


def test_seeds_are_the_runs_of_one_spec_but_for_the_seed(store: Store) -> None:
    experiment = store.open_experiment("tests")
    write_views(store, experiment)
    content = state(saved(store, experiment)["saccade-seeds"])
    assert content["groupBy"] == {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": "name"}, {"mode": "tag", "groupByData": "group_hash"}],
    }
    assert content["useGroupedValuesInCharts"] is True
    sections = {section["uuid"] for section in content["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in content["compareRunCharts"]} == sections
    assert ("LINE", "pretrain/loss") in {(chart["type"], chart["metricKey"]) for chart in content["compareRunCharts"]}


def test_a_sweep_has_parallel_coordinates_of_what_it_varies(store: Store) -> None:
    experiment, run_filter = store.open_experiment("tests"), "tags.`optuna.study_id` = 'a1'"
    varied, objective = ["pretrain.learning_rate", "contrast.temperature"], "best/val_retrieval_top1"
    view = sweep_view("rates", run_filter, varied, objective, maximise=True)
    assert list(write_views(store, experiment, [view])) == ["Sweep rates"]
    content = state(saved(store, experiment)[view.key])
    assert content["searchFilter"] == run_filter
    assert (content["orderByKey"], content["orderByAsc"]) == (f"metrics.`{objective}`", False)
    (parallel,) = [chart for chart in content["compareRunCharts"] if chart["type"] == "PARALLEL"]
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (varied, [objective])
    assert {f"params.`{name}`" for name in varied} <= set(content["selectedColumns"])
    lowest_first = sweep_view("rates", run_filter, varied, "pretrain/loss", maximise=False)
    assert lowest_first.state["orderByAsc"] is True
    # Another sweep of the same name has a view of its own.
    assert sweep_view("rates", run_filter.replace("a1", "b2"), varied, objective, maximise=True).key != view.key


def test_links(store: Store) -> None:
    runs, seeds = STANDARD_VIEWS
    page = "http://host:5000/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey="
    assert view_link("http://user:secret@host:5000", "7", runs) == f"{page}saccade-runs"
    assert view_link("http://host:5000", "7", seeds) == f"{page}saccade-seeds&compareRunsMode=CHART"
    assert write_views(store, store.open_experiment("tests")) == {runs.name: "", seeds.name: ""}


@pytest.mark.parametrize("error", [DeniedError("no"), RefusedError("no")])
def test_who_may_not_change_the_experiment_does_without(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    experiment = store.open_experiment("tests")

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(store.client, "set_experiment_tag", refuse)
    write_views(store, experiment)
    assert saved(store, experiment) == {}
