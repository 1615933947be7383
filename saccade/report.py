"""What a run was, what it found, how long it took, how to repeat it: `summary.md`, curves, a table for the terminal.

Everything is read back from the journal, so a resumed run reports its whole life.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from saccade.amounts import counted, duration
from saccade.datasets.layout import Dataset
from saccade.figures.curves import Series, draw_curves
from saccade.initial_weights import read_record
from saccade.journal import read_journal
from saccade.run_dir import RunDir
from saccade.spec import Spec
from saccade.spec_reader import spec_hash

__all__ = [
    "PREVIEWS",
    "classifier_table",
    "curves_of",
    "results_table",
    "stage_seconds",
    "write_first_report",
    "write_report",
]

PREVIEWS = "previews"
"""Folder of the small copies of pictures that the summary shows."""

_PREVIEW_PX = 760
_ROWS = {
    "test": "after pre-training",
    "baseline/given_weights": "before pre-training (given weights)",
    "baseline/random_encoder": "before pre-training (random encoder)",
    "baseline/pixels": "4 x 4 pixels of the middle frame",
    "val": "after pre-training, validation videos",
}
_CLASSIFIERS = {"linear_probe": "linear probe", "finetune": "fine-tuning"}
_CURVES = re.compile(
    r"(pretrain|val|optim|clusters/\d+)/.*|(linear_probe|finetune)(/split\d+)?/(loss|accuracy|test_top1)"
)
_PICTURES = {
    "figures/curves.png": "Metrics over the optimiser steps",
    "figures/embedding.png": "All videos on a map",
    "figures/neighbours.png": "Test videos and their nearest training videos",
    "figures/confusion_retrieval.png": "Retrieval: classes of the test videos and those of their nearest neighbours",
    "figures/confusion_linear_probe*.png": "Linear probe: classes of the test videos and what they are taken for",
    "figures/confusion_finetune*.png": "Fine-tuning: classes of the test videos and what they are taken for",
    "figures/scanpaths.png": "Scanpaths of training videos",
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


def results_table(curves: Mapping[str, Series], rows: Mapping[str, str] = _ROWS) -> list[list[str]]:
    """Retrieval scores, a row for each kind of feature, the header first; empty when nothing was evaluated."""
    ks = sorted(
        int(name.removeprefix("test/retrieval_top")) for name in curves if name.startswith("test/retrieval_top")
    )
    if not ks:
        return []
    table = [["retrieval", *(f"top-{k}" for k in ks)]]
    for prefix, label in rows.items():
        if f"{prefix}/retrieval_top{ks[0]}" in curves:
            table.append([label, *(_percent(curves, f"{prefix}/retrieval_top{k}") for k in ks)])
    return table


def classifier_table(curves: Mapping[str, Series]) -> list[list[str]]:
    """Scores of the classifiers, a row for each mean or split, the header first; empty when none was trained."""
    ks = [k for k in (1, 5) if any(f"test/{name}_top{k}" in curves for name in _CLASSIFIERS)]
    table = [["classification", *(f"top-{k}" for k in ks)]] if ks else []
    for name, label in _CLASSIFIERS.items():
        splits = sorted(
            int(found[1]) for metric in curves if (found := re.fullmatch(rf"test/split(\d+)/{name}_top1", metric))
        )
        notes = [f"mean of {len(splits)} splits"] if splits else []
        rows = {f"test/{name}": _noted(label, *notes)}
        rows |= {f"test/split{n}/{name}": f"{label}, split {n}" for n in splits}
        rows[f"best/test_selected_{name}"] = _noted(label, "best epoch, chosen on the test videos", *notes)
        rows[f"val/{name}"] = _noted(label, "validation videos", *notes)
        for prefix, words in rows.items():
            if f"{prefix}_top1" in curves:
                table.append([words, *(_percent(curves, f"{prefix}_top{k}") for k in ks)])
    return table


def _noted(label: str, *notes: str) -> str:
    return f"{label} ({'; '.join(notes)})" if notes else label


def _percent(curves: Mapping[str, Series], name: str) -> str:
    return f"{100 * curves[name][1][-1]:.1f} %" if name in curves else ""


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
        The tables of results for the terminal, or "" when nothing was evaluated.
    """
    events = [event for event, _ in read_journal(folder / "journal.jsonl")]
    curves = curves_of(events)
    _draw_curves(folder / "figures" / "curves.png", curves)
    retrieval, classification = results_table(curves, _rows(spec)), classifier_table(curves)
    tables = [table for table in (retrieval, classification) if table]
    attempts = sum(event["kind"] == "attempt" for event in events)
    seconds = stage_seconds(events)
    lines = [
        f"# {spec.name}",
        "",
        # First: the MLflow UI shows the beginning and folds the rest.
        *([" ".join(_headline(table) for table in tables), ""] if tables else []),
        _subject(spec, data),
        "",
        *_origin(folder, spec),
        "## What it found",
        "",
    ]
    lines += _findings(retrieval, classification, chance=1 / len({video.label for video in data.train}))
    lines += [
        "## How long it took",
        "",
        f"{duration(sum(seconds.values()))} in {counted(attempts, 'attempt')}: "
        + ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
        + f"; {machine}.",
        "",
    ]
    lines += [*_repetition(folder, spec, data), *_clusters(folder, curves), *_pictures(folder)]
    (folder / "summary.md").write_text("\n".join(lines), encoding="utf-8")
    return "\n\n".join(as_text(table) for table in tables)


def write_first_report(folder: Path, spec: Spec, data: Dataset) -> None:
    """Write `summary.md` as it stands while a run goes on, and if it never ends."""
    lines = [
        f"# {spec.name}",
        "",
        _subject(spec, data),
        "",
        "*It is under way, or has ended early: what it found will stand here when it has finished.*",
        "",
        *_origin(folder, spec),
        *_repetition(folder, spec, data),
    ]
    (folder / "summary.md").write_text("\n".join(lines), encoding="utf-8")


def _draw_curves(path: Path, curves: Mapping[str, Series]) -> None:
    drawn = {name: series for name, series in curves.items() if _CURVES.fullmatch(name) and len(series[0]) > 1}
    if not drawn:
        return
    first = [name.split("/")[0] for name in drawn]
    together = dict(sorted(drawn.items(), key=lambda item: first.index(item[0].split("/")[0])))
    steps = [series[0][0] for name, series in curves.items() if name.startswith("clusters/")]
    draw_curves(path, together, events={"pretrain/": {min(steps): "prototypes"}} if steps else {})


def _rows(spec: Spec) -> dict[str, str]:
    """What each row of the retrieval scores is called in this run."""
    if spec.pretrain.epochs:
        return _ROWS
    evaluated = "given weights" if spec.encoder.weights else "random encoder, no pre-training"
    return {**_ROWS, "test": evaluated, "val": f"{evaluated}, validation videos"}


def _subject(spec: Spec, data: Dataset) -> str:
    deed, training = "Evaluation", ""
    if spec.pretrain.epochs:
        deed = "Saccade-guided pre-training"
        epochs, fixations = counted(spec.pretrain.epochs, "epoch"), counted(spec.saccade.focus_num, "fixation")
        training = f"{epochs} of {fixations} a video, "
    return (
        f"{deed} of **{spec.encoder.name}** (width {spec.encoder.width}) on **{data.name}** split "
        f"{spec.data.split}: {len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test "
        f"videos, {len({video.label for video in data.train})} classes; {training}seed {spec.seed}."
    )


def _origin(folder: Path, spec: Spec) -> list[str]:
    """Where the weights come from that the run started with."""
    if not spec.encoder.weights:
        return []
    record = read_record(folder)
    source = record["description"]["source"] or {}
    imported = f", imported from `{source['file']}`" if "file" in source else ""
    if record["projection"]:
        projection = "and its projection"
    elif spec.pretrain.epochs:
        projection = "without a projection, which starts at random"
    else:
        projection = "without a projection, so retrieval compares the encoder's own normalised features"
    plain = record["description"]["mean"] == [0.0, 0.0, 0.0]
    range_ = (
        "; it was trained on clips in [0, 1], and sees normalised ones here but where `normalise: false`"
        if plain
        else ""
    )
    return [
        f"Started from `{record['given']}`{imported}: an encoder {projection}{range_} (sha256 {record['sha256']}).",
        "",
    ]


def _repetition(folder: Path, spec: Spec, data: Dataset) -> list[str]:
    """How to repeat the run: by its id, and by hand."""
    lines = ["## How to repeat it", ""]
    code = "`git.diff` says what the code was"
    if (folder / "run.json").exists():
        record = RunDir(folder).record()
        lines += [f"`saccade runs rerun {record['id']}` says first what differs now, and then runs it again.", ""]
        git = record["git"]
        if git["commit"]:
            patch = ", then `git apply git.diff`" if git["dirty"] else ""
            code = f"the code is that of `git checkout {git['commit'][:12]}`{patch}"
        lines += [f"It was started on {record['host']} with `{record['command']}`.", ""] if record["command"] else []
    lines += [
        f"By hand: `saccade run spec.yaml` with this run's `spec.yaml` (spec {spec_hash(spec)}, dataset digest "
        f"{data.digest}); {code}; `environment.txt` lists the packages.",
        "",
    ]
    return lines


def _clusters(folder: Path, curves: Mapping[str, Series]) -> list[str]:
    """The last clustering of each kind: how many clusters, how much they kept of those before, what is in them."""
    numbers = sorted(int(found[1]) for name in curves if (found := re.fullmatch(r"clusters/(\d+)/nonempty", name)))
    epochs = sorted((folder / "clusters").glob("epoch_*"))
    if not numbers or not epochs:
        return []
    last = epochs[-1].relative_to(folder).as_posix()
    table = [["clustering", "clusters in use", "ARI to the one before", "NMI to the one before"]]
    for i in numbers:
        agreement = [curves.get(f"clusters/{i}/{name}_to_previous") for name in ("ari", "nmi")]
        table.append(
            [str(i), f"{curves[f'clusters/{i}/nonempty'][1][-1]:.0f}"]
            + ["" if series is None else f"{series[1][-1]:.2f}" for series in agreement]
        )
    lines = ["## Clusters", "", *_as_markdown(table), ""]
    lines += [f"`{last}/assignments.parquet` says of every fixation which cluster it is in, in each clustering.", ""]
    for path in sorted(epochs[-1].glob("montage_*.png")):
        lines += _picture(folder, path, f"What is in the clusters of clustering {path.stem.removeprefix('montage_')}")
    return lines


def _headline(table: list[list[str]]) -> str:
    """The first score of each row, in one line; of several splits their mean."""
    scores = ", ".join(f"{row[1]} {row[0]}" for row in table[1:] if ", split " not in row[0])
    return f"**{table[0][0].capitalize()} {table[0][1]}: {scores}.**"


def _findings(retrieval: list[list[str]], classification: list[list[str]], *, chance: float) -> list[str]:
    """The tables, and how to read them."""
    guess = f"A blind guess is right in {100 * chance:.1f} % at top-1."
    lines = []
    if retrieval:
        words = "Part of the test videos with their class among the k nearest training videos (hit@k)."
        lines += [*_as_markdown(retrieval), "", f"{words} {guess}", ""]
    if classification:
        words = "Part of the test videos whose class is among the k likeliest; `tables/` says how each class did."
        lines += [*_as_markdown(classification), "", f"{words} {guess}", ""]
    return lines or ["Nothing was evaluated: no part of `evaluation` is enabled.", ""]


def _pictures(folder: Path) -> list[str]:
    """Those that the run has made."""
    lines = []
    for pattern, words in _PICTURES.items():
        paths = sorted(folder.glob(pattern))
        lines += [f"## {words}", ""] if paths else []
        for path in paths:
            lines += _picture(folder, path, words)
    return lines


def _picture(folder: Path, path: Path, words: str) -> list[str]:
    """A picture in the text; of a wide one a small copy with a link to the whole.

    The MLflow UI shows pictures in their own size, and a wide one pushes what stands beside the description off the
    page: status, tags, datasets and models.
    """
    whole = path.relative_to(folder).as_posix()
    with Image.open(path) as image:
        if image.width <= _PREVIEW_PX:
            return [f"![{words}]({whole})", ""]
        height = round(image.height * _PREVIEW_PX / image.width)
        small = image.convert("RGB").resize((_PREVIEW_PX, height), Image.Resampling.LANCZOS)
    preview = f"{PREVIEWS}/{path.name}"
    (folder / PREVIEWS).mkdir(exist_ok=True)
    small.save(folder / preview)
    return [f"![{words}]({preview})", "", f"[{whole}]({whole})", ""]
