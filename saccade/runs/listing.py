"""`saccade runs list` and `saccade runs show`: runs in a table, and one of them as a page of text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from saccade.amounts import duration
from saccade.provenance import redact
from saccade.report import as_text, classifier_table, results_table, stage_seconds
from saccade.runs.record import RunRecord, defaults
from saccade.runs.tables import score, table_text
from saccade.supervisor import runs_option

__all__ = ["as_json", "kind", "list_text", "show_text", "sorted_by"]

_SCORES = {
    "test/finetune_top1": "fine-tuning",
    "test/linear_probe_top1": "probe",
    "test/retrieval_top1": "retrieval",
    "val/retrieval_top1": "validation",
    "pretrain/loss": "loss",
}
"""What a run is judged by, the most telling first."""
_IN_TABLE = 2
_SHORT_COMMIT = 10


def kind(record: RunRecord) -> str:
    """What a run does: its stages, or the one that it is at."""
    if record.status != "FINISHED" and record.tags.get("stage"):
        return record.tags["stage"]
    settings, done = record.settings, []
    if settings["pretrain.epochs"] != "0":
        done.append("pretrain")
    for name, word in (("linear_probe", "probe"), ("finetune", "finetune")):
        if settings[f"evaluation.{name}.enabled"] == "true":
            done.append(word)
    if not done and settings["evaluation.retrieval.enabled"] == "true":
        done.append("retrieval")
    return "+".join(done) or "nothing"


def key_scores(record: RunRecord) -> dict[str, float]:
    """The scores that a run is judged by, of those that it has."""
    return {name: record.last[name] for name in _SCORES if name in record.last}


def sorted_by(records: Sequence[RunRecord], metric: str) -> list[RunRecord]:
    """The highest last value first, runs without the metric last."""
    return sorted(records, key=lambda record: _rank(record.last.get(metric)))


def _rank(value: float | None) -> tuple[bool, float]:
    return (True, 0.0) if value is None or math.isnan(value) else (False, -value)


def list_text(records: Sequence[RunRecord], metric: str | None = None) -> str:
    """Runs as a table; `metric` gets a column of its own."""
    head = ["run", "name", "status", "stage", "encoder", "dataset", "seed", "scores", "started (UTC)", "took", "where"]
    rows = [[*head[:7], *([metric] if metric else []), *head[7:]]]
    for record in records:
        value = record.last.get(metric) if metric else None
        rows.append(
            [
                record.id,
                record.name,
                record.status,
                kind(record),
                record.settings["encoder.name"],
                record.settings["data.dataset"],
                record.settings["seed"],
                *(["-" if value is None else score(metric, value)] if metric else []),
                ", ".join(f"{_SCORES[name]} {score(name, value)}" for name, value in _few(key_scores(record))) or "-",
                f"{record.created:%Y-%m-%d %H:%M}",
                duration(record.seconds),
                "here" if record.run is not None else "server",
            ]
        )
    return table_text(rows, right=(6, len(rows[0]) - 2))


def _few(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """The loss says little where something was measured."""
    measured = [item for item in scores.items() if item[0] != "pretrain/loss"]
    return (measured or list(scores.items()))[:_IN_TABLE]


def as_json(record: RunRecord, *, whole: bool = False) -> dict[str, Any]:
    """A run as plain values; NaN and infinity as null, which JSON has no words for."""
    found = record.last if whole else key_scores(record)
    entry: dict[str, Any] = {
        "id": record.id,
        "name": record.name,
        "experiment": record.experiment,
        "status": record.status,
        "stage": kind(record),
        "encoder": record.settings["encoder.name"],
        "dataset": record.settings["data.dataset"],
        "seed": int(record.settings["seed"]),
        "started": record.created.isoformat(timespec="seconds"),
        "seconds": round(record.seconds, 1),
        "scores": {name: value if math.isfinite(value) else None for name, value in found.items()},
        "folder": str(record.run.path) if record.run is not None else None,
        "link": record.link or None,
    }
    if whole:
        entry |= {"settings": dict(record.params), "differs_from_defaults": differs_from_defaults(record)}
        entry["tags"] = dict(record.tags)
    return entry


def differs_from_defaults(record: RunRecord) -> dict[str, str]:
    """Settings of a run that are not the defaults of today."""
    usual = defaults()
    return {key: value for key, value in record.params.items() if key != "name" and usual.get(key) != value}


def show_text(record: RunRecord) -> str:
    """What a run is, what it found, how long it took, what is special about it and how to repeat it."""
    scores = {name: ((0,), (value,)) for name, value in record.last.items()}
    tables = [as_text(table) for table in (results_table(scores), classifier_table(scores)) if table]
    usual, option = defaults(), runs_option(record.run) if record.run is not None else ""
    changed = [
        [key, value, usual.get(key, "(no such setting any more)")]
        for key, value in differs_from_defaults(record).items()
    ]
    parts = [
        f"{record.name}  ({record.id})",
        table_text(_facts(record), rule=False, indent="  ", widest=2000),
        "What it found",
        "\n".join("  " + line for table in tables for line in [*table.splitlines(), ""]).rstrip()
        or f"  {_losses(record)}",
        f"Settings that differ from the defaults ({len(changed)} of {len(record.params)})",
        table_text([["setting", "here", "default"], *changed], indent="  ") if changed else "  none",
        "How to repeat it",
        table_text(
            [
                [f"saccade runs verify {record.id}{option}", "run it again and say whether it comes out the same"],
                [f"saccade runs rerun {record.id}{option}", "a new run of the same spec; says what differs now"],
                [f"saccade runs export {record.id} OUT{option}", "a folder that reproduces it elsewhere"],
            ],
            rule=False,
            indent="  ",
            widest=2000,
        ),
    ]
    return "\n".join(f"\n{part}" if part and not part.startswith("  ") else part for part in parts).lstrip("\n")


def _facts(record: RunRecord) -> list[list[str]]:
    settings, tags = record.settings, record.tags
    what = f"{kind(record)}: {settings['encoder.name']} of width {settings['encoder.width']} on "
    what += f"{settings['data.dataset']} split {settings['data.split']}, seed {settings['seed']}"
    if settings["pretrain.epochs"] != "0":
        what += f", {settings['pretrain.epochs']} epochs"
    code = tags.get("git_commit", "")[:_SHORT_COMMIT] or "not a git checkout"
    if tags.get("mlflow.source.git.branch"):
        code += f" on {tags['mlflow.source.git.branch']}"
    if tags.get("git_dirty") == "true":
        code += ", with changes (git.diff)"
    facts = {
        "what": what,
        "status": ", ".join(filter(None, [record.status, tags.get("saccade.ended", "")])),
        "started": f"{record.created:%Y-%m-%d %H:%M:%S} UTC",
        "took": _took(record),
        "data": f"digest {tags['dataset_digest']}" if "dataset_digest" in tags else "",
        "weights": settings["encoder.weights"],
        "machine": ", ".join(filter(None, [tags.get("host", ""), tags.get("device", "")])),
        "by": tags.get("mlflow.user", ""),
        "code": code,
        "command": tags.get("mlflow.source.name", ""),
        "spec": f"{record.spec_hash}, which runs share whose settings differ only in place and name",
        "follows": record.follows,
        "repeats": tags.get("saccade.rerun_of", ""),
        "folder": str(record.run.path) if record.run is not None else "not on this machine",
        "tracked": record.link or (redact(record.tracked.uri) if record.tracked is not None else ""),
    }
    return [[key, value] for key, value in facts.items() if value]


def _took(record: RunRecord) -> str:
    stages = stage_seconds(record.events)
    each = ", ".join(f"{name} {duration(value)}" for name, value in stages.items())
    attempts = record.tags.get("attempt", "1")
    text = duration(record.seconds) + (f" ({each})" if each else "")
    return text if attempts == "1" else f"{text}, in {attempts} attempts"


def _losses(record: RunRecord) -> str:
    losses = [f"{name} {score(name, value)}" for name, value in record.last.items() if name.startswith("pretrain/loss")]
    return "nothing was evaluated" + (f"; the last {', '.join(losses)}" if losses else "")
