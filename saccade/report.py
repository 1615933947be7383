"""What a run was, what it found, how long it took, how to repeat it: `summary.md`, curves, a table for the terminal.

Everything is read back from the journal, so a resumed run reports its whole life.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saccade.datasets.layout import Dataset
from saccade.figures.curves import Series, draw_curves
from saccade.journal import read_journal
from saccade.spec import Spec
from saccade.spec_reader import spec_hash

__all__ = ["curves_of", "results_table", "stage_seconds", "write_report"]

_ROWS = {
    "test": "after pre-training",
    "baseline/random_encoder": "before pre-training (random encoder)",
    "baseline/pixels": "4 x 4 pixels of the middle frame",
    "val": "after pre-training, validation videos",
}
_CURVES = ("pretrain/", "optim/", "clusters/0/")
_PICTURES = {
    "figures/curves.png": "Metrics over the optimiser steps",
    "figures/neighbours.png": "Test videos and their nearest training videos",
    "figures/training_clips.png": "Training clips with their fixation masks",
}


def curves_of(events: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """Steps and values of every logged metric, in order of step."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for event in events:
        if event["kind"] == "metrics":
            for name, value in event["values"].items():
                steps, values = curves.setdefault(name, ([], []))
                steps.append(event["step"])
                values.append(value)
    return dict(curves)


def stage_seconds(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Time spent in each stage, s, over all attempts; the time between two attempts counts for none."""
    seconds: dict[str, float] = {}
    stage, since, now = "", 0, 0
    for event in events:
        if event["kind"] in ("stage", "attempt"):
            end = now if event["kind"] == "attempt" else event["t"]
            if stage:
                seconds[stage] = seconds.get(stage, 0.0) + (end - since) / 1000
            stage = event["name"] if event["kind"] == "stage" else ""
            since = event["t"]
        now = event["t"]
    if stage:
        seconds[stage] = seconds.get(stage, 0.0) + (now - since) / 1000
    return seconds


def results_table(curves: Mapping[str, Series]) -> list[list[str]]:
    """Retrieval scores, a row for each kind of feature, the header first; empty when nothing was evaluated."""
    ks = sorted(
        int(name.removeprefix("test/retrieval_top")) for name in curves if name.startswith("test/retrieval_top")
    )
    if not ks:
        return []
    table = [["retrieval", *(f"top-{k}" for k in ks)]]
    for prefix, label in _ROWS.items():
        if f"{prefix}/retrieval_top{ks[0]}" in curves:
            table.append([label, *(f"{100 * curves[f'{prefix}/retrieval_top{k}'][1][-1]:.1f} %" for k in ks)])
    return table


def as_text(table: list[list[str]]) -> str:
    """A table in columns, for the terminal."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def _as_markdown(table: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [table[0], ["---"] + ["---:"] * (len(table[0]) - 1), *table[1:]]]


def write_report(folder: Path, spec: Spec, data: Dataset, machine: str) -> str:
    """Write `summary.md` and `figures/curves.png` into a run's folder.

    Args:
        folder: The run's folder, whose journal holds everything but the end.
        spec: What was done.
        data: On which videos.
        machine: Description of the device.

    Returns:
        The table of results for the terminal, or "" when nothing was evaluated.
    """
    events = [event for event, _ in read_journal(folder / "journal.jsonl")]
    curves = curves_of(events)
    drawn = {name: series for name, series in curves.items() if name.startswith(_CURVES) and len(series[0]) > 1}
    if drawn:
        draw_curves(folder / "figures" / "curves.png", drawn)
    table = results_table(curves)
    chance = 1 / len({video.label for video in data.train})
    attempts = sum(event["kind"] == "attempt" for event in events)
    seconds = stage_seconds(events)
    lines = [
        f"# {spec.name}",
        "",
        *([_headline(table), ""] if table else []),  # first: the MLflow UI shows the beginning and folds the rest
        f"Saccade-guided pre-training of **{spec.encoder.name}** (width {spec.encoder.width}) on **{data.name}** split "
        f"{spec.data.split}: {len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test "
        f"videos, {len({video.label for video in data.train})} classes; {_counted(spec.pretrain.epochs, 'epoch')} of "
        f"{_counted(spec.saccade.focus_num, 'fixation')} a video, seed {spec.seed}.",
        "",
        "## What it found",
        "",
    ]
    if table:
        lines += _as_markdown(table)
        lines += ["", f"Part of the test videos with their class among the k nearest training videos (hit@k). "
                  f"A blind guess is right in {100 * chance:.1f} % at top-1."]  # fmt: skip
    else:
        lines.append("Nothing was evaluated (`evaluation.retrieval.enabled: false`).")
    lines += [
        "",
        "## How long it took",
        "",
        ", ".join(f"{name} {_duration(value)}" for name, value in seconds.items())
        + f"; {_counted(attempts, 'attempt')}; {machine}.",
        "",
        "## How to repeat it",
        "",
        f"`saccade run spec.yaml` with this run's `spec.yaml` (spec {spec_hash(spec)}, dataset digest {data.digest}); "
        "`environment.txt` and `git.diff` say on which code.",
        "",
    ]
    for path, words in _PICTURES.items():
        if (folder / path).exists():
            lines += [f"## {words}", "", f"![{words}]({path})", ""]
    (folder / "summary.md").write_text("\n".join(lines), encoding="utf-8")
    return as_text(table) if table else ""


def _headline(table: list[list[str]]) -> str:
    """The first score of each row, in one line."""
    return f"**Retrieval {table[0][1]}: " + ", ".join(f"{row[1]} {row[0]}" for row in table[1:]) + ".**"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
