"""`saccade runs compare`: differences side by side, curves over each other, and statistics over seeds as text."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from saccade.errors import RunError
from saccade.run_dir import RunDir
from saccade.runs.compare import compare_text, groups_text, score_metrics
from saccade.runs.compared import compare_groups, compare_runs, find_to_compare
from saccade.runs.pictures import draw_groups, draw_overlay
from saccade.runs.record import local_record
from saccade.runs.seeds import group_runs

from .conftest import rows, seeds_of

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Make = Callable[..., RunDir]
Ship = Callable[[RunDir, str], str]
Command = Callable[..., tuple[int, str, str]]
TOP1, LOSS = "test/retrieval_top1", "pretrain/loss"
# First two colours of the picture, as (red, green, blue).
BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def test_two_runs_side_by_side(make: Make) -> None:
    same = {"val/x": [(4, 1.0)], "perf/clips_per_sec": [(4, 160.0)], "test/y": [(4, float("nan"))]}
    one = make("one", "pretrain.learning_rate=0.05", curves={**same, TOP1: [(4, 0.25)], LOSS: [(2, 9.0), (4, 3.0)]})
    two = make(
        "two",
        "seed=7",
        "prototypes.num_clusters=[4, 6]",
        curves={
            **same,
            TOP1: [(4, 0.375)],
            LOSS: [(2, 9.0), (4, 2.5)],
            "perf/clips_per_sec": [(4, 99.0)],
            "best/z": [(4, 2)],
        },
        tags={"dataset_digest": "ffff"},
    )
    text = compare_text([local_record(one), local_record(two)])
    assert rows(text)[2:4] == [["A", one.id, "one", "FINISHED"], ["B", two.id, "two", "FINISHED"]]
    for row in (
        ["seed", "632", "7"],
        ["pretrain.learning_rate", "0.05", "0.1"],
        ["prototypes.num_clusters", "1500 1500 1500", "4 6"],
        ["data digest", "5b4f", "ffff"],
        ["metric (last value)", "A", "B", "B - A"],
        [TOP1, "25.0 %", "37.5 %", "+12.5"],
        [LOSS, "3", "2.5", "-0.5"],
        ["best/z", "-", "2"],
        ["(2 metrics are the same in all of them)"],
    ):
        assert row in rows(text), row
    assert "perf/" not in text
    assert "encoder.name" not in text


def test_equal_runs(make: Make) -> None:
    runs = [local_record(make("one", curves={LOSS: [(4, 3.0)]})) for _ in range(3)]
    text = compare_text(runs)
    assert "Settings in which they differ\n  none" in text
    assert "none: 1 metric is the same in all of them" in text


def _pixels(path: Path, colour: tuple[int, int, int]) -> int:
    image = cv2.imread(str(path))[:, :, ::-1]
    return int((np.abs(image.astype(int) - np.array(colour)).max(axis=2) < 8).sum())


def test_each_run_has_a_line_in_the_picture(tmp_path: Path) -> None:
    steps = list(range(50))
    rising, falling = (steps, [float(step) for step in steps]), (steps, [49.0 - step for step in steps])
    for name, curves in (("both", {"A": {"x": rising}, "B": {"x": falling}}), ("one", {"A": {"x": rising}, "B": {}})):
        draw_overlay(tmp_path / f"{name}.png", curves, ["x"])
    assert min(_pixels(tmp_path / "both.png", colour) for colour in (BLUE, ORANGE)) > 300
    # Of a run without the metric only the legend has the colour.
    assert _pixels(tmp_path / "one.png", ORANGE) < _pixels(tmp_path / "both.png", ORANGE) / 3


def test_from_the_command_line(make: Make, saccade: Command, root: Path) -> None:
    one = make("one", curves={LOSS: [(2, 9.0), (4, 3.0)]})
    two = make("two", "seed=1", curves={LOSS: [(2, 9.0), (4, 2.5)], "val/flat": [(2, 1.0), (4, 1.0)]})
    code, out, err = saccade("runs", "compare", "one", two.id, "--out", "pictures/c.png")
    assert (code, err) == (0, "")
    assert out.endswith("curves: pictures/c.png\n")
    assert cv2.imread("pictures/c.png").shape[2] == 3
    for words, said in (
        (["--metric", "x/y"], "--metric x/y: none of these runs has it; there are: val/flat, pretrain/loss"),
        (["--out", "c.txt"], "c.txt: the picture cannot be written"),
        (["--out", f"{one.journal}/c.png"], "the picture cannot be written"),
        (["--group", "encoder"], "encoder"),
    ):
        code, _, err = saccade("runs", "compare", "one", "two", *words)
        assert code == 2, words
        assert said in err
        assert err.count("\n") == 1


def test_what_cannot_be_compared(make: Make, root: Path, tmp_path: Path) -> None:
    records = [local_record(make(name)) for name in ("one", "two")]
    with pytest.raises(RunError, match=r"give RUN\.\.\. or --experiment, not both"):
        find_to_compare(root, ["one", "two"], "saccade", everything=False)
    text = compare_runs(records, root, [], tmp_path / "curves.png")
    assert text.endswith("no curves to draw: no metric of these runs changes")
    with pytest.raises(RunError, match="these runs have no metrics yet"):
        compare_groups(records, root, [], tmp_path / "groups.png")
    assert not list(tmp_path.glob("*.png"))


def test_an_experiment_with_a_damaged_run_has_no_statistics(make: Make, root: Path) -> None:
    runs = [make("toy", f"seed={seed}", curves={TOP1: [(4, 0.5)]}) for seed in (1, 2)]
    found = find_to_compare(root, [], None, everything=True)
    assert {record.id for record in found} == {run.id for run in runs}
    (runs[0].path / "run.json").write_text("{")
    with pytest.raises(RunError, match=rf"{runs[0].id}"):
        find_to_compare(root, [], None, everything=True)


def test_seeds_of_evaluations_are_those_of_the_encoders(make: Make, root: Path, tmp_path: Path) -> None:
    """Two encoders of other seeds, each probed: one group of two, though its runs have one seed and other weights."""
    encoders = [make("pre", f"seed={seed}") for seed in (1, 2)]
    records = [
        local_record(
            make(
                "probe",
                "pretrain.epochs=0",
                f"encoder.weights={run.id}",
                curves={TOP1: [(4, value)]},
                tags={"weights_sha256": run.id[-4:] * 16},
            )
        )
        for run, value in zip(encoders, (0.1, 0.3), strict=True)
    ]
    text = compare_groups(records, root, [], tmp_path / "groups.png")
    # 20 % in the mean; deviation 14.1, and 12.706 x 14.1 / sqrt 2 to each side
    assert [TOP1, "A", "2", "20.0 %", "14.1 %", "-107.1 % .. 147.1 %"] in rows(text)
    assert (tmp_path / "groups.png").exists()


# Seeds ---------------------------------------------------------------------------------------------------------------


def compared(*runs: RunDir) -> list[list[str]]:
    records = [local_record(run) for run in runs]
    groups = group_runs(records, lambda _: None)
    return rows(groups_text(groups, score_metrics(records)))


def test_seeds_in_numbers_worked_by_hand(make: Make) -> None:
    """A 10 20 30 %, B 15 30 30 %: B - A is 5 10 0, mean 5, deviation 5, so t = 5 / (5 / sqrt 3) = 1.732; with two
    degrees of freedom p = 1 - t / sqrt(2 + t^2) = 1 - 1.732 / 2.236 = 0.225, and 4.3027 x 2.887 = 12.42 to each side.
    """
    cells = compared(
        *seeds_of(make, "cool", {1: 0.1, 2: 0.2, 3: 0.3}),
        *seeds_of(make, "warm", {3: 0.3, 1: 0.15, 2: 0.3}, "contrast.temperature=0.5"),
    )
    for row in (
        ["A", "cool", "3", "1 2 3"],
        ["contrast.temperature", "0.07", "0.5"],
        # 20 +- 4.3027 x 10 / sqrt 3; 25 +- 4.3027 x 8.660 / sqrt 3
        [TOP1, "A", "3", "20.0 %", "10.0 %", "-4.8 % .. 44.8 %"],
        [TOP1, "B", "3", "25.0 %", "8.7 %", "3.5 % .. 46.5 %"],
        [TOP1, "B - A", "3", "+5.0", "-7.4 .. +17.4", "1.73", "0.225", "no difference shown"],
    ):
        assert row in cells, row
    assert any("n below 5 is small" in cell for row in cells for cell in row)


def test_a_difference_that_is_one(make: Make) -> None:
    better = {seed: value + 0.2 for seed, value in {1: 0.101, 2: 0.2, 3: 0.302, 4: 0.25, 5: 0.149}.items()}
    worse = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.25, 5: 0.15}
    cells = compared(*seeds_of(make, "good", better), *seeds_of(make, "bad", worse, "contrast.temperature=0.5"))
    (found,) = [row for row in cells if "B - A" in row]
    assert found[:4] == [TOP1, "B - A", "5", "-20.0"]
    assert found[-1] == "B is lower than A"
    assert not any("is small" in cell for row in cells for cell in row)


def test_what_cannot_be_said_is_said(make: Make) -> None:
    cells = compared(
        *seeds_of(make, "a", {1: 0.1, 2: 0.2}),
        *seeds_of(make, "b", {1: 0.3}, "contrast.temperature=0.5"),
        *seeds_of(make, "c", {8: 0.3, 9: 0.4}, "contrast.temperature=0.6"),
        *seeds_of(make, "d", {1: 0.1, 2: 0.2}, "contrast.temperature=0.7"),
    )
    verdicts = {row[1]: (row[2], row[-1]) for row in cells if len(row) > 3 and " - " in row[1]}
    assert verdicts["B - A"] == ("1", "one common seed says nothing; 2 are needed, 5 are better")
    assert verdicts["C - A"] == ("0", "no common seed: nothing to pair")
    assert verdicts["D - A"] == ("2", "the same in every seed")
    assert [TOP1, "B", "1", "30.0 %", "-", "needs 2 seeds"] in cells
    assert any("p corrected for 6 pairs (Holm)" in cell for row in cells for cell in row)


def test_what_is_worth_knowing_of_a_group(make: Make) -> None:
    earlier, *_ = seeds_of(make, "a", {1: 0.1, 2: 0.2})
    again = make(
        "a", "seed=1", curves={TOP1: [(4, 0.5)]}, tags={"git_commit": "f" * 40, "host": "gpu01"}, status="stopped"
    )
    (cells,) = [compared(earlier, again, *seeds_of(make, "a", {2: 0.2}))]
    text = " | ".join(cell for row in cells for cell in row)
    assert f"A: only the latest run of a seed counts; left out: {earlier.id}" in text
    assert "A: its runs come from 2 commits: " in text
    assert "A: its runs come from 2 machines: " in text
    assert f"A: not finished: {again.id}" in text


def test_the_picture_of_groups(make: Make, tmp_path: Path) -> None:
    runs = [
        make(name, f"seed={seed}", override, curves={LOSS: [(step, level + seed * 0.1) for step in range(60)]})
        for name, override, level in (("a", "contrast.temperature=0.1", 1.0), ("b", "contrast.temperature=0.5", 2.0))
        for seed in (1, 2)
    ]
    groups = group_runs([local_record(run) for run in runs], lambda _: None)
    draw_groups(tmp_path / "curves.png", groups, [], [LOSS])
    draw_groups(tmp_path / "points.png", groups, [LOSS], [])
    for name in ("curves", "points"):
        assert min(_pixels(tmp_path / f"{name}.png", colour) for colour in (BLUE, ORANGE)) > 60
    # The band of mean 1.15 +- 12.7062 x 0.0707 / sqrt 2 = 0.635 is drawn in a light blue.
    light = tuple(round(255 - 0.18 * (255 - value)) for value in BLUE)
    assert _pixels(tmp_path / "curves.png", light) > 3000  # type: ignore[arg-type]
    assert _pixels(tmp_path / "points.png", light) < 100  # type: ignore[arg-type]
