"""`saccade runs list` and `show`: what a table and a page of text say, and that JSON says the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.run_dir import RunDir
from saccade.runs.listing import kind
from saccade.runs.record import local_record

from .conftest import rows

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Make = Callable[..., RunDir]
Ship = Callable[[RunDir, str], str]
Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("overrides", "status", "expected"),
    [
        ([], "finished", "pretrain"),
        (
            ["evaluation.finetune.enabled=true", "evaluation.linear_probe.enabled=true"],
            "finished",
            "pretrain+probe+finetune",
        ),
        (["pretrain.epochs=0"], "finished", "retrieval"),
        (["pretrain.epochs=0", "evaluation.retrieval.enabled=false"], "finished", "nothing"),
        ([], "", "pretrain"),  # the stage that it was at
    ],
)
def test_what_a_run_does(make: Make, overrides: list[str], status: str, expected: str) -> None:
    assert kind(local_record(make("x", *overrides, status=status))) == expected


def test_the_table(make: Make, saccade: Command, root: Path) -> None:
    one = make("one", "seed=7", curves={"test/retrieval_top1": [(4, 0.1875)], "pretrain/loss": [(4, 3.0)]})
    two = make("two", curves={"pretrain/loss": [(2, 4.5), (4, 3.25)]}, status="stopped")
    code, out, err = saccade("runs", "list", "--here")
    assert (code, err) == (0, "")
    head, _, second, first = rows(out)
    assert head[:6] == ["run", "name", "status", "stage", "encoder", "dataset"]
    assert head[6:] == ["seed", "scores", "started (UTC)", "took", "where"]
    assert first[:8] == [one.id, "one", "FINISHED", "pretrain", "r3d", "UCF101", "7", "retrieval 18.8 %"]
    assert second[:8] == [two.id, "two", "KILLED", "pretrain", "r3d", "UCF101", "632", "loss 3.25"]
    assert first[8] == f"{one.id[:4]}-{one.id[4:6]}-{one.id[6:8]} {one.id[9:11]}:{one.id[11:13]}"
    assert first[-1] == "here"
    found = json.loads(saccade("runs", "list", "--here", "--json")[1])
    assert [entry["id"] for entry in found] == [two.id, one.id]
    assert found[1]["scores"] == {"test/retrieval_top1": 0.1875, "pretrain/loss": 3.0}
    assert (found[1]["seed"], found[1]["status"], found[1]["folder"]) == (7, "FINISHED", str(one.path))


def test_filters_and_order(make: Make, saccade: Command, root: Path) -> None:
    metric = "test/retrieval_top1"
    runs = [
        make(
            f"r{place}",
            f"tracking.experiment={experiment}",
            curves={metric: [(1, value)]} if value else {},
            status=status,
        )
        for place, (experiment, value, status) in enumerate(
            [
                ("a", 0.2, "finished"),
                ("b", 0.9, "finished"),
                ("a", None, "stopped"),
                ("a", float("nan"), "finished"),
                ("a", 0.4, "finished"),
            ]
        )
    ]

    def names(*options: str) -> list[str]:
        code, out, err = saccade("runs", "list", "--here", "--json", *options)
        assert (code, err) == (0, "")
        return [entry["name"] for entry in json.loads(out)]

    assert names() == ["r4", "r3", "r2", "r1", "r0"]
    assert names("--limit", "2") == ["r4", "r3"]
    assert names("--experiment", "a") == ["r4", "r3", "r2", "r0"]
    assert names("--status", "killed") == ["r2"]
    assert names("--sort", metric, "--limit", "3") == ["r1", "r4", "r0"]
    assert set(names("--sort", metric)[3:]) == {"r2", "r3"}
    assert "no runs" in saccade("runs", "list", "--here", "--experiment", "zzz")[1]
    assert "90.0 %" in saccade("runs", "list", "--here", "--sort", metric)[1].splitlines()[2]
    assert runs[0].path.is_dir()


def test_a_run_that_is_being_trained(make: Make, saccade: Command, root: Path) -> None:
    run = make("x", status="")
    with run.lock():
        assert rows(saccade("runs", "list", "--here")[1])[2][2] == "RUNNING"
    assert rows(saccade("runs", "list", "--here")[1])[2][2] == "KILLED"


def test_a_page_of_text(make: Make, saccade: Command, root: Path) -> None:
    scores = {
        "test/retrieval_top1": [(4, 0.1875)],
        "test/retrieval_top5": [(4, 0.6875)],
        "baseline/pixels/retrieval_top1": [(0, 0.0625)],
        "baseline/pixels/retrieval_top5": [(0, 0.375)],
        "perf/clips_per_sec": [(2, 160.0)],
    }
    run = make("shown", "seed=7", "encoder.width=4", "pretrain.learning_rate=0.05", curves=scores)
    code, out, _ = saccade("runs", "show", run.id)
    assert code == 0
    cells = rows(out)
    assert cells[0] == ["shown", f"({run.id})"]
    for row in (
        ["what", "pretrain: r3d of width 4 on UCF101 split 1, seed 7, 300 epochs"],
        ["status", "FINISHED"],
        ["data", "digest 5b4f"],
        ["command", "saccade run x.yaml"],
        ["folder", str(run.path)],
        ["retrieval", "top-1", "top-5"],
        ["after pre-training", "18.8 %", "68.8 %"],
        ["4 x 4 pixels of the middle frame", "6.2 %", "37.5 %"],
        ["setting", "here", "default"],
        ["seed", "7", "632"],
        ["pretrain.learning_rate", "0.05", "0.1"],
        [f"saccade runs verify {run.id}", "run it again and say whether it comes out the same"],
    ):
        assert row in cells, row
    assert any(line.startswith("Settings that differ from the defaults (3 of ") for line in out.splitlines())
    shown = json.loads(saccade("runs", "show", run.id, "--json")[1])
    assert shown["differs_from_defaults"] == {"seed": "7", "encoder.width": "4", "pretrain.learning_rate": "0.05"}
    assert shown["scores"] == {name: points[-1][1] for name, points in scores.items()}


def test_a_server_that_is_away_is_a_warning(
    make: Make, saccade: Command, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("here")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, out, err = saccade("runs", "list")
    assert code == 1
    assert rows(out)[2][0] == run.id
    assert err == (
        "warning: http://127.0.0.1:9: [Errno 111] Connection refused; start the server, or set MLFLOW_TRACKING_URI\n"
    )


def test_mistakes_are_one_line(make: Make, saccade: Command, root: Path) -> None:
    run = make("here")
    for words, said in (
        (["show", run.id[:-4] + "zzzz"], f"did you mean {run.id}"),
        (["list", "--status", "lost"], "lost"),
        (["compare", run.id], "only one run given; it takes two"),
        (["compare"], "0 finished runs found; it takes two"),
        (["compare", run.id, "--experiment", "a"], "give RUN... or --experiment, not both"),
        (["sync", "nothing"], "no run 'nothing'"),
        (["rm", run.id], "give --yes"),
    ):
        code, _, err = saccade("runs", *words)
        assert code == 2, words
        assert said in err
        assert err.count("\n") == 1
