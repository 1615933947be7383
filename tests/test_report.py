"""What a report says, from journals worked by hand."""

from pathlib import Path
from typing import Any

import pytest

from saccade.datasets.layout import Dataset, Video
from saccade.journal import Journal
from saccade.report import as_text, curves_of, results_table, stage_seconds, write_report
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


def dataset(test: int = 3) -> Dataset:
    videos = [Video(f"v{i}", i % 2, Path(), 20, ()) for i in range(8)]
    return Dataset("toy", ("a", "b"), tuple(videos[:4]), (videos[4],), tuple(videos[5 : 5 + test]), "d" * 32)


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
    table = write_report(folder, spec, dataset(), "CPU, 1 threads, fp32")
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
    assert "1 attempt; CPU, 1 threads, fp32." in text
    assert f"spec {spec_hash(spec)}, dataset digest {'d' * 32}" in text
    assert "![Metrics over the optimiser steps](figures/curves.png)" in text
    assert "neighbours.png" not in text  # there is none in the folder
    assert (tmp_path / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_reports_both_attempts(tmp_path: Path, spec: Any) -> None:
    _, text = write(tmp_path, spec, attempts=2)
    assert "2 attempts; " in text


def test_without_evaluation(tmp_path: Path, spec: Any) -> None:
    table, text = write(tmp_path, spec, evaluated=False)
    assert table == ""
    assert "Nothing was evaluated" in text


def test_the_same_journal_gives_the_same_summary(tmp_path: Path, spec: Any) -> None:
    _, text = write(tmp_path, spec)
    write_report(tmp_path, spec, dataset(), "CPU, 1 threads, fp32")
    assert (tmp_path / "summary.md").read_text() == text
