"""Saved views of the MLflow UI, so that an experiment opens on what one wants to compare.

MLflow keeps a view as a tag of the experiment, `mlflow.sharedViewState.<id>`: a name, two times and the state of the
page, deflated. The format is nowhere documented; it is that of MLflow 3.17.2, and tests/screens opens it in a browser.
"""

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from saccade.tracking.address import is_server, runs_link
from saccade.tracking.errors import DeniedError, RefusedError, translated
from saccade.tracking.store import Store

__all__ = ["STANDARD_VIEWS", "View", "sweep_view", "view_link", "write_views"]

_TAG = "mlflow.sharedViewState."
_CURVES = ("pretrain/loss", "pretrain/loss_saccade", "pretrain/prototype_accuracy", "val/retrieval_top1")
_SCORES = (
    *("test/retrieval_top1", "test/retrieval_top5", "val/retrieval_top1", "best/val_retrieval_top1"),
    *("test/linear_probe_top1", "test/finetune_top1", "baseline/random_encoder/retrieval_top1"),
)
_LETTER_PX = 6
_COSTS = ("pretrain/loss", "perf/clips_per_sec")


@dataclass(frozen=True)
class View:
    """A view to be saved."""

    key: str
    """Its place among the tags, and in links."""
    name: str
    state: Mapping[str, Any]
    """Of the page of runs."""
    charts: bool = False
    """Opens on the charts, not on the table."""


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _columns(*, metrics: Sequence[str], params: Sequence[str], tags: Sequence[str] = ()) -> list[str]:
    return [
        *(_column("metrics", name) for name in metrics),
        *(_column("params", name) for name in params),
        *(_column("tags", name) for name in tags),
    ]


def _state(columns: Sequence[str], *, order_by: str, ascending: bool = False, **more: object) -> dict[str, Any]:
    state = {
        "searchFilter": "",
        "orderByKey": order_by,
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        # Wide enough for names such as test/retrieval_top1, which the UI would cut.
        "columnWidths": {column: _LETTER_PX * len(column) for column in columns},
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": None,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
    }
    return state | more


def _charts(*sections: tuple[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Sections of charts with their titles; the UI adds none of its own between them."""
    charts, titles = [], []
    for number, (title, members) in enumerate(sections):
        section = f"saccade-section-{number}"
        shape = {"columns": 1, "cardHeight": 420} if len(members) == 1 else {}
        titles.append({"uuid": section, "name": title, "display": True, "isReordered": True, **shape})
        for place, chart in enumerate(members):
            settings = {"uuid": f"{section}-{place}", "metricSectionId": section, "deleted": False}
            charts.append({**settings, "isGenerated": False, **chart})
    return {"compareRunCharts": charts, "compareRunSections": titles, "isAccordionReordered": True}


def _line(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "runsCountToCompare": 20,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
    }


def _bar(metric: str) -> dict[str, Any]:
    return {"type": "BAR", "runsCountToCompare": 50, "metricKey": metric}


def _runs() -> View:
    columns = _columns(
        metrics=(*_SCORES, *_COSTS),
        params=("encoder.name", "pretrain.epochs", "seed"),
        tags=("dataset", "stage", "host"),
    )
    charts = _charts(("Scores", [_bar(name) for name in _SCORES]), ("Training", [_line(name) for name in _CURVES]))
    return View("saccade-runs", "Runs and their scores", _state(columns, order_by="attributes.start_time", **charts))


def _seeds() -> View:
    keys = [{"mode": "param", "groupByData": "name"}, {"mode": "tag", "groupByData": "group_hash"}]
    state = _state(
        _columns(metrics=_SCORES, params=("seed",)),
        order_by="attributes.start_time",
        groupBy={"aggregateFunction": "average", "groupByKeys": keys},
        **_charts(
            ("Training: mean and range", [_line(n) for n in _CURVES]),
            ("Scores: mean", [_bar(name) for name in _SCORES]),
        ),
    )
    return View("saccade-seeds", "Seeds: mean and range", state, charts=True)


STANDARD_VIEWS = (_runs(), _seeds())
"""Of every experiment."""


def sweep_view(
    name: str, run_filter: str, params: Sequence[str], objective: str, *, maximise: bool, metrics: Sequence[str] = ()
) -> View:
    """The trials of a sweep: parallel coordinates of what is varied and the objective, the best trial first.

    Args:
        name: The sweep's.
        run_filter: What its runs have in common, as MLflow searches: tags.`optuna.study_id` = '...'.
        params: Dotted paths of the settings that it varies.
        objective: The metric.
        maximise: Whether more of it is better.
        metrics: Others to show in the table.
    """
    order = _column("metrics", objective)
    shown = dict.fromkeys((objective, *metrics, "pretrain/loss"))
    parallel = {
        "type": "PARALLEL",
        "runsCountToCompare": 100,
        "selectedParams": list(params),
        "selectedMetrics": [objective],
        "showAllRuns": False,
    }
    others = [_bar(objective), _line(objective), _line("pretrain/loss")]
    charts = _charts((f"Trials of {name}", [parallel]), ("Their scores and their training", others))
    columns = _columns(metrics=list(shown), params=params, tags=("optuna.state",))
    state = _state(columns, order_by=order, ascending=not maximise, searchFilter=run_filter, **charts)
    key = hashlib.sha256(run_filter.encode()).hexdigest()[:12]
    return View(f"saccade-sweep-{key}", f"Sweep {name}", state, charts=True)


def view_link(uri: str, experiment_id: str, view: View) -> str:
    """Where a view opens; empty for a database, which has no address before a server shows it."""
    if not is_server(uri):
        return ""
    mode = "&compareRunsMode=CHART" if view.charts else ""
    return f"{runs_link(uri, experiment_id)}&viewStateShareKey={view.key}{mode}"


def write_views(store: Store, experiment_id: str, views: Sequence[View] = STANDARD_VIEWS) -> dict[str, str]:
    """Save views that are not there; those that are, and may have been changed in the UI, stay as they are.

    Whoever may not change an experiment does without them.

    Returns:
        A link for each view by its name; empty for a database.

    Raises:
        OutageError: The server does not answer.
    """
    with suppress(DeniedError, RefusedError), translated():
        there = store.client.get_experiment(experiment_id).tags
        for view in views:
            if _TAG + view.key not in there:
                store.client.set_experiment_tag(experiment_id, _TAG + view.key, _packed(view))
    return {view.name: view_link(store.uri, experiment_id, view) for view in views}


def _packed(view: View) -> str:
    now = time.time_ns() // 1_000_000
    state = base64.b64encode(zlib.compress(json.dumps(view.state).encode())).decode()
    return json.dumps({"name": view.name, "createdAt": now, "updatedAt": now, "state": f"deflate;{state}"})
