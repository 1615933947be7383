"""Statistics over seeds against numbers worked by hand or printed in the literature; which runs make a group."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from saccade.run_dir import RunDir
from saccade.runs.record import RunRecord, local_record
from saccade.runs.seeds import group_runs, holm, paired_test, summarise

Make = Callable[..., RunDir]

# Student (1908), "The probable error of a mean": hours of sleep gained by ten patients with each of two drugs. He
# gives the mean difference 1.58; R's t.test(extra ~ group, data = sleep, paired = TRUE) the rest.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def by_seed(values: list[float]) -> dict[tuple[int, ...], float]:
    return {(seed,): value for seed, value in enumerate(values)}


def test_the_paired_test_on_students_sleep_data() -> None:
    found = paired_test(by_seed(FIRST), by_seed(SECOND))
    assert found.n == 10
    assert found.mean == pytest.approx(1.58)
    assert found.t == pytest.approx(4.0621, abs=5e-5)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert (found.low, found.high) == (pytest.approx(0.7001142, abs=5e-7), pytest.approx(2.4598858, abs=5e-7))


def test_only_seeds_that_both_have_count() -> None:
    first, second = by_seed(FIRST), by_seed(SECOND)
    whole = paired_test(first, second)
    assert paired_test({**first, (77,): 1e6}, {**second, (99,): -1e6, (98, 3): 5.0}) == whole
    assert paired_test({**first, (77,): math.nan}, {**second, (77,): 3.0}) == whole


def test_mean_deviation_and_interval_by_hand() -> None:
    # 1 2 3 4: squares of the deviations 2.25 + 0.25 + 0.25 + 2.25 = 5, over 3; t of 97.5 % with 3 degrees is 3.182446.
    found = summarise([1.0, 2.0, 3.0, 4.0])
    assert (found.n, found.mean) == (4, 2.5)
    assert found.std == pytest.approx(math.sqrt(5 / 3))
    half = 3.182446 * math.sqrt(5 / 3) / 2
    assert (found.low, found.high) == (pytest.approx(2.5 - half, abs=1e-5), pytest.approx(2.5 + half, abs=1e-5))


def test_one_value_has_no_spread() -> None:
    found = summarise([0.25])
    assert (found.n, found.mean) == (1, 0.25)
    assert all(math.isnan(value) for value in (found.std, found.low, found.high))


@pytest.mark.parametrize(
    ("first", "second", "n", "mean"),
    [
        ([], [], 0, math.nan),
        ([0.1], [0.3], 1, 0.2),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], 3, 0.0),
        # 0.3 - 0.1 and 0.4 - 0.2 differ in the last bit, which is no spread.
        ([0.1, 0.2, 0.7], [0.3, 0.4, 0.9], 3, 0.2),
    ],
)
def test_what_cannot_be_tested(first: list[float], second: list[float], n: int, mean: float) -> None:
    found = paired_test(by_seed(first), by_seed(second))
    assert found.n == n
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(found.t)
    assert math.isnan(found.p)


def test_holm_by_hand() -> None:
    # Smallest first: 0.01 x 3; 0.03 x 2; 0.04 x 1, but not below its predecessor.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, math.nan, 0.5]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)


# Groups --------------------------------------------------------------------------------------------------------------


def groups(*runs: RunDir) -> list[Any]:
    records = {run.id: local_record(run) for run in runs}
    return [
        (group.name, sorted(group.runs), group.left_out)
        for group in group_runs(list(records.values()), lambda ref: records.get(ref))
    ]


def test_what_makes_a_group(make: Make) -> None:
    same = [make("a", f"seed={seed}", curves={"test/x_top1": [(1, 0.5)]}) for seed in (3, 1)]
    # Another name, machine, place or record is no other experiment.
    other = make(
        "b", "seed=2", "engine.workers=0", "data.root=/d", "tracking.experiment=e", "checkpoint.every_epochs=9"
    )
    warmer = make("c", "seed=1", "contrast.temperature=0.5")
    elsewhere = make("a", "seed=1", tags={"dataset_digest": "ffff"})
    assert groups(*same, other, warmer, elsewhere) == [
        ("a", [(1,), (2,), (3,)], ()),
        ("c", [(1,)], ()),
        ("a", [(1,)], ()),
    ]


def test_of_two_runs_of_a_seed_the_latest_counts(make: Make) -> None:
    earlier, later, other = make("a", "seed=1"), make("a", "seed=1"), make("a", "seed=2")
    assert groups(later, other, earlier) == [("a", [(1,), (2,)], (earlier.id,))]


def test_a_run_from_before_a_setting_existed_is_of_the_group_of_its_default(make: Make) -> None:
    import json

    old, new = make("a", "seed=1"), make("a", "seed=2")
    record = json.loads((old.path / "run.json").read_text())
    del record["params"]["consistency.distance"]
    (old.path / "run.json").write_text(json.dumps(record))
    assert groups(old, new) == [("a", [(1,), (2,)], ())]


def test_finetunings_of_pretrainings_that_differ_in_the_seed_are_one_group(make: Make) -> None:
    first = [make("pre", f"seed={seed}") for seed in (1, 2)]
    other = make("pre", "seed=1", "contrast.temperature=0.5")
    tuned = [
        make("tune", f"encoder.weights={run.id}", "pretrain.epochs=0", tags={"weights_sha256": run.id[-4:] * 16})
        for run in (*first, other)
    ]
    assert groups(*first, other, *tuned)[2:] == [
        ("tune", [(632, 1), (632, 2)], ()),
        ("tune", [(632, 1)], ()),
    ]


def test_the_same_weights_at_another_place_are_the_same(make: Make) -> None:
    runs = [
        make("a", f"seed={seed}", f"encoder.weights={place}", tags={"weights_sha256": "ab" * 32})
        for seed, place in ((1, "/x/w.safetensors"), (2, "w.safetensors"))
    ]
    assert groups(*runs) == [("a", [(1,), (2,)], ())]


def test_values_are_the_last_ones(make: Make) -> None:
    record: RunRecord = local_record(make("a", curves={"val/x": [(1, 0.1), (9, 0.9), (5, 0.5)]}))
    (group,) = group_runs([record], lambda _: None)
    assert group.values("val/x") == {(632,): 0.9}
    assert group.values("val/y") == {}
