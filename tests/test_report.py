"""What a report says, from journals worked by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from saccade.datasets.layout import Dataset, Video
from saccade.journal import Journal
from saccade.report import (
    as_text,
    classifier_table,
    curves_of,
    results_table,
    stage_seconds,
    write_first_report,
    write_report,
)
from saccade.run_dir import create_run
from saccade.spec_reader import parse_spec, spec_hash


def event(t: float, kind: str, **content: Any) -> dict[str, Any]:
    return {"t": round(t * 1000), "kind": kind, **content}


class TestStageSeconds:
    def test_one_attempt(self) -> None:
        events = [
            event(100.0, "attempt", number=1),
            event(100.5, "tags", values={}),
            event(101.0, "stage", name="baselines"),
            event(104.0, "metrics", step=0, values={}),
            event(105.5, "stage", name="pretrain"),
            event(125.5, "stage", name="report"),
            event(126.0, "artifact", path="encoder"),
        ]
        assert stage_seconds(events) == {"baselines": 4.5, "pretrain": 20.0, "report": 0.5}

    def test_two_attempts_and_the_night_between_them(self) -> None:
        events = [
            event(0.0, "attempt", number=1),
            event(1.0, "stage", name="baselines"),
            event(4.0, "stage", name="pretrain"),
            event(10.0, "metrics", step=10, values={}),
            # Killed; resumed eight hours later.
            event(28_800.0, "attempt", number=2),
            event(28_801.0, "tags", values={}),
            event(28_803.0, "stage", name="pretrain"),
            event(28_813.0, "metrics", step=20, values={}),
            event(28_815.0, "stage", name="evaluate"),
            event(28_815.5, "metrics", step=20, values={}),
        ]
        assert stage_seconds(events) == {"baselines": 3.0, "pretrain": 6.0 + 12.0, "evaluate": 0.5}

    def test_nothing(self) -> None:
        assert stage_seconds([]) == {}
        assert stage_seconds([event(0, "attempt", number=1), event(1, "attempt", number=2)]) == {}


def test_curves_are_the_points_of_each_metric() -> None:
    events = [
        event(0, "attempt", number=1),
        event(1, "metrics", step=10, values={"a": 1.0, "b": 2.0}),
        event(2, "artifact", path="x"),
        event(3, "metrics", step=20, values={"a": 0.5}),
        event(4, "metrics", step=30, values={"b": 3.0, "c": 9.0}),
    ]
    assert curves_of(events) == {"a": ([10, 20], [1.0, 0.5]), "b": ([10, 30], [2.0, 3.0]), "c": ([30], [9.0])}


CURVES = {
    "test/retrieval_top10": ([100], [0.75]),
    "test/retrieval_top1": ([100], [0.5]),
    "test/retrieval_top5": ([100], [0.625]),
    **{f"baseline/pixels/retrieval_top{k}": ([0], [value]) for k, value in ((1, 0.1), (5, 0.2), (10, 1.0))},
    "pretrain/loss": ([10, 20], [2.0, 1.0]),
}


class TestTable:
    def test_a_row_for_each_kind_of_feature(self) -> None:
        assert results_table(CURVES) == [
            ["retrieval", "top-1", "top-5", "top-10"],
            ["after pre-training", "50.0 %", "62.5 %", "75.0 %"],
            ["4 x 4 pixels of the middle frame", "10.0 %", "20.0 %", "100.0 %"],
        ]

    def test_nothing_was_evaluated(self) -> None:
        assert results_table({"pretrain/loss": ([1], [2.0])}) == []

    def test_columns_line_up(self) -> None:
        assert as_text(results_table(CURVES)).splitlines() == [
            "retrieval                          top-1   top-5   top-10",
            "---------------------------------------------------------",
            "after pre-training                50.0 %  62.5 %   75.0 %",
            "4 x 4 pixels of the middle frame  10.0 %  20.0 %  100.0 %",
        ]


def scores(name: str, *values: float) -> dict[str, Any]:
    return {f"{name}_top{k}": ([40], [value]) for k, value in zip((1, 5), values, strict=False)}


class TestClassifiers:
    def test_one_split_of_each(self) -> None:
        curves = {
            **scores("test/linear_probe", 0.25, 0.5),
            **scores("val/linear_probe", 0.125, 0.25),
            **scores("test/finetune", 0.5, 1.0),
            **scores("best/test_selected_finetune", 0.75, 0.875),
        }
        assert classifier_table(curves) == [
            ["classification", "top-1", "top-5"],
            ["linear probe", "25.0 %", "50.0 %"],
            ["linear probe (validation videos)", "12.5 %", "25.0 %"],
            ["fine-tuning", "50.0 %", "100.0 %"],
            ["fine-tuning (best epoch, chosen on the test videos)", "75.0 %", "87.5 %"],
        ]

    def test_several_splits_of_few_classes(self) -> None:
        curves = {
            **{f"test/split{n}/finetune_top1": ([40], [value]) for n, value in ((10, 0.5), (2, 1.0))},
            **{f"{name}_top1": ([40], [0.75]) for name in ("test/finetune", "best/test_selected_finetune")},
        }
        assert classifier_table(curves) == [
            ["classification", "top-1"],
            ["fine-tuning (mean of 2 splits)", "75.0 %"],
            ["fine-tuning, split 2", "100.0 %"],
            ["fine-tuning, split 10", "50.0 %"],
            ["fine-tuning (best epoch, chosen on the test videos; mean of 2 splits)", "75.0 %"],
        ]

    def test_none(self) -> None:
        assert classifier_table(CURVES) == []


def dataset(test: int = 3) -> Dataset:
    videos = [Video(f"v{i}", i % 2, Path(), 20, ()) for i in range(8)]
    return Dataset("toy", ("a", "b"), tuple(videos[:4]), (videos[4],), tuple(videos[5 : 5 + test]), "d" * 32)


def draw(path: Path, width: int) -> None:
    """A picture of three quarters of its width, red in its left half."""
    image = Image.new("RGB", (width, width * 3 // 4), "white")
    image.paste((255, 0, 0), (0, 0, width // 2, width))
    image.save(path)


@pytest.fixture
def spec():  # type: ignore[no-untyped-def]
    return parse_spec("{name: my run, seed: 3, encoder: {width: 8}, saccade: {focus_num: 2}}", "x.yaml")


def write(folder: Path, spec: Any, *, evaluated: bool = True, attempts: int = 1) -> tuple[str, str]:
    """The table and the text of summary.md."""
    for _ in range(attempts):
        with Journal.open(folder / "journal.jsonl", mark=None, attempted=1 << 40) as journal:
            journal.stage("pretrain")
            journal.metrics({"pretrain/loss": 2.0, "epoch": 1, "perf/clips_per_sec": 5}, 10)
            journal.metrics({"pretrain/loss": 1.0, "epoch": 2, "perf/clips_per_sec": 6}, 20)
            if evaluated:
                journal.metrics({f"test/retrieval_top{k}": v for k, v in ((1, 0.5), (5, 1.0))}, 20)
    table = write_report(folder, spec, dataset(), "CPU, 1 thread, fp32")
    return table, (folder / "summary.md").read_text()


def test_the_summary_says_what_was_done_and_found(tmp_path: Path, spec: Any) -> None:
    table, text = write(tmp_path, spec)
    assert table.splitlines()[-1].split() == ["after", "pre-training", "50.0", "%", "100.0", "%"]
    lines = text.splitlines()
    assert lines[0] == "# my run"
    assert (
        "Saccade-guided pre-training of **r3d** (width 8) on **toy** split 1: 4 training, 1 validation and 3 test "
        "videos, 2 classes; 300 epochs of 2 fixations a video, seed 3."
    ) in lines
    start = lines.index("| retrieval | top-1 | top-5 |")
    assert lines[start + 1 : start + 3] == ["| --- | ---: | ---: |", "| after pre-training | 50.0 % | 100.0 % |"]
    assert "A blind guess is right in 50.0 % at top-1." in text
    assert re.search(r"^[\d.]+ m?s in 1 attempt: pretrain [\d.]+ m?s; CPU, 1 thread, fp32\.$", text, re.M)
    assert f"spec {spec_hash(spec)}, dataset digest {'d' * 32}" in text
    assert "![Metrics over the optimiser steps](figures/curves.png)" in text
    assert "neighbours.png" not in text  # there is none in the folder
    assert (tmp_path / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_reports_both_attempts(tmp_path: Path, spec: Any) -> None:
    _, text = write(tmp_path, spec, attempts=2)
    assert re.search(r"^[\d.]+ m?s in 2 attempts: ", text, re.M)


def test_classifiers_have_a_table_a_headline_and_their_pictures(tmp_path: Path, spec: Any) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("confusion_finetune_split2", "confusion_finetune_split1"):
        draw(tmp_path / "figures" / f"{name}.png", 700)
    with Journal.open(tmp_path / "journal.jsonl", mark=None, attempted=0) as journal:
        journal.metrics({"test/retrieval_top1": 0.5}, 20)
        for step in (1, 2):
            journal.metrics({"finetune/split1/loss": 1.0 / step, "finetune/split1/learning_rate": 0.1}, step)
        for split in (1, 2):
            journal.metrics({f"test/split{split}/finetune_top1": 0.5 * split}, 2)
        journal.metrics({"test/finetune_top1": 0.75}, 2)
    table = write_report(tmp_path, spec, dataset(), "CPU, 1 thread, fp32")
    assert [line.split("  ")[0].strip("-") for line in table.splitlines()] == [
        *("retrieval", "", "after pre-training", ""),
        *("classification", "", "fine-tuning (mean of 2 splits)", "fine-tuning, split 1", "fine-tuning, split 2"),
    ]
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert lines[2] == (
        "**Retrieval top-1: 50.0 % after pre-training.** "
        "**Classification top-1: 75.0 % fine-tuning (mean of 2 splits).**"
    )
    assert "| fine-tuning, split 2 | 100.0 % |" in lines
    pictures = [line for line in lines if "](figures/confusion" in line]
    assert [line.split("_")[-1] for line in pictures] == ["split1.png)", "split2.png)"]
    assert sum(line.startswith("## Fine-tuning") for line in lines) == 1


def test_without_evaluation(tmp_path: Path, spec: Any) -> None:
    table, text = write(tmp_path, spec, evaluated=False)
    assert table == ""
    assert "Nothing was evaluated" in text


def test_the_same_journal_gives_the_same_summary(tmp_path: Path, spec: Any) -> None:
    _, text = write(tmp_path, spec)
    write_report(tmp_path, spec, dataset(), "CPU, 1 thread, fp32")
    assert (tmp_path / "summary.md").read_text() == text


def test_how_to_repeat_it_by_id_and_by_hand(tmp_path: Path, spec: Any) -> None:
    run = create_run(tmp_path, spec, ["/usr/bin/saccade", "run", "my spec.yaml"])
    record = run.record()
    for git, words in (
        ({"commit": "0123456789abcdef" * 2, "branch": "main", "dirty": False}, "`git checkout 0123456789ab`; `env"),
        (
            {"commit": "f" * 40, "branch": "", "dirty": True},
            "`git checkout ffffffffffff`, then `git apply git.diff`; `env",
        ),
        ({"commit": "", "branch": "", "dirty": False}, "`git.diff` says what the code was; `env"),
    ):
        (run.path / "run.json").write_text(json.dumps({**record, "git": git, "host": "gpu01"}))
        _, text = write(run.path, spec)
        assert f"`saccade runs rerun {run.id}` says first" in text
        assert "It was started on gpu01 with `saccade run 'my spec.yaml'`." in text
        assert words in text


def test_while_it_goes_on_the_summary_says_what_it_is_and_how_to_repeat_it(tmp_path: Path, spec: Any) -> None:
    write_first_report(tmp_path, spec, dataset())
    first = (tmp_path / "summary.md").read_text().splitlines()
    assert first[0] == "# my run"
    assert first[2].startswith("Saccade-guided pre-training of **r3d** (width 8) on **toy** split 1: 4 training")
    assert first[4].startswith("*It is under way, or has ended early")
    assert "## How to repeat it" in first
    _, text = write(tmp_path, spec)
    assert "under way" not in text
    # Nothing that the first one says is lost.
    assert {line for line in first if line and not line.startswith("*It")} <= set(text.splitlines())


def test_clusters_are_those_of_the_last_clustering(tmp_path: Path, spec: Any) -> None:
    for epoch in ("0004", "0010"):
        (tmp_path / "clusters" / f"epoch_{epoch}").mkdir(parents=True)
        for number in (0, 1):
            draw(tmp_path / "clusters" / f"epoch_{epoch}" / f"montage_{number}.png", 700)
    with Journal.open(tmp_path / "journal.jsonl", mark=None, attempted=0) as journal:
        journal.metrics({"pretrain/loss": 2.0, "clusters/0/nonempty": 12, "clusters/1/nonempty": 16}, 40)
        values = {"nonempty": 11, "ari_to_previous": 0.256, "nmi_to_previous": 0.5}
        journal.metrics({f"clusters/0/{name}": value for name, value in values.items()}, 100)
        journal.metrics({"clusters/1/nonempty": 15, "pretrain/loss": 3.0}, 100)
    write_report(tmp_path, spec, dataset(), "CPU")
    lines = (tmp_path / "summary.md").read_text().splitlines()
    start = lines.index("## Clusters")
    assert lines[start + 2 : start + 6] == [
        "| clustering | clusters in use | ARI to the one before | NMI to the one before |",
        "| --- | ---: | ---: | ---: |",
        "| 0 | 11 | 0.26 | 0.50 |",
        "| 1 | 15 |  |  |",
    ]
    pictures = [line.partition("](")[2] for line in lines if "montage" in line]
    assert pictures == ["clusters/epoch_0010/montage_0.png)", "clusters/epoch_0010/montage_1.png)"]


def test_a_wide_picture_is_shown_small_with_a_link_to_the_whole(tmp_path: Path, spec: Any) -> None:
    (tmp_path / "figures").mkdir()
    draw(tmp_path / "figures" / "neighbours.png", 1520)
    draw(tmp_path / "figures" / "embedding.png", 760)
    _, text = write(tmp_path, spec)
    lines = text.splitlines()
    start = lines.index("## Test videos and their nearest training videos")
    assert lines[start + 2 : start + 5] == [
        "![Test videos and their nearest training videos](previews/neighbours.png)",
        "",
        "[figures/neighbours.png](figures/neighbours.png)",
    ]
    assert "![All videos on a map](figures/embedding.png)" in lines
    with Image.open(tmp_path / "previews" / "neighbours.png") as image:
        assert image.size == (760, 570)
        assert [image.getpixel((x, 300)) for x in (10, 370, 390, 750)] == [(255, 0, 0)] * 2 + [(255, 255, 255)] * 2
