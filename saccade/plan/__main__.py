"""The process that measures, so that its peak of memory is its own: `python -m saccade.plan FOLDER RUNS [follows]`.

FOLDER is a scratch folder that holds spec.yaml, and inputs/ where the run starts from weights; plan.json is written
into it, or error.txt (one line) for a user's mistake.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from saccade.engine.host import process_age_sec
from saccade.engine.stop import StopRequest
from saccade.errors import SaccadeError
from saccade.evaluation.retrieval import check_gallery
from saccade.journal import Journal
from saccade.plan.advice import advise_on_data, advise_on_schedule
from saccade.plan.driver import ERROR_FILE
from saccade.plan.forecast import Plan, forecast
from saccade.plan.machine_advice import advise_on_machine
from saccade.plan.measure import machinery, measure
from saccade.plan.peak import PeakMemory
from saccade.plan.text import as_json, as_text
from saccade.spec import Spec
from saccade.spec_reader import expand_env, read_spec
from saccade.stages.classifiers import plan_classifiers
from saccade.stages.run import Run
from saccade.tracking.address import is_server, resolve_uri

__all__ = ["main", "plan_run"]


def plan_run(spec: Spec, folder: Path, runs_root: Path, *, follows: bool) -> Plan:
    """Measure a spec and say what will become of it.

    Args:
        spec: What is going to be run.
        folder: A scratch folder.
        runs_root: Where the run is going to be.
        follows: It is going to start from the encoder of a run that is not there yet.
    """
    with PeakMemory() as peak, Journal.open(folder / "journal.jsonl", mark=None, attempted=0) as journal:
        run = Run(spec, folder, journal, StopRequest())
        retrieval = spec.evaluation.retrieval
        if retrieval.enabled or retrieval.validate_every_epochs is not None:
            check_gallery(retrieval.topk, run.data.train)
        tasks = plan_classifiers(run)
        run.take_weights()
        where, start_sec = machinery(run, runs_root), process_age_sec()
        measured = measure(run, tasks, where=where, start_sec=start_sec, peak=peak, say=_say)
    weights = follows or run.weights is not None
    plan = forecast(spec, measured, tasks, weights=weights)
    tracked_here = not is_server(resolve_uri(expand_env(spec.tracking.uri, "tracking.uri"), runs_root))
    advice = [
        *advise_on_machine(spec, plan, tracked_here=tracked_here),
        *advise_on_schedule(spec, plan),
        *advise_on_data(spec, run.data, plan),
    ]
    if not weights and not spec.pretrain.epochs:
        advice.insert(0, "encoder.weights: not set, and nothing is trained: it is the random encoder that is evaluated")
    return replace(plan, advice=tuple(advice))


def _say(what: str) -> None:
    print(f"saccade plan: measuring {what}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Plan the spec of a scratch folder; returns the exit code."""
    folder, runs_root, *rest = argv
    try:
        plan = plan_run(
            read_spec(Path(folder) / "spec.yaml"), Path(folder), Path(runs_root), follows=rest == ["follows"]
        )
    except SaccadeError as error:
        (Path(folder) / ERROR_FILE).write_text(str(error), encoding="utf-8")
        return 2
    (Path(folder) / "plan.json").write_text(json.dumps({"plan": as_json(plan), "text": as_text(plan)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
