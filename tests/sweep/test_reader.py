"""Sweep specs: every mistake is one line that begins with its place, and what is right comes out as it stands."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from saccade.errors import SpecError
from saccade.spec_wording import schemas_of
from saccade.sweep.checks import objective_metrics
from saccade.sweep.reader import read_sweep
from saccade.sweep.space import Space
from saccade.sweep.spec import SweepFile

from .specs import EXPERIMENT, SEARCH

SWEEP = f"""\
name: try
experiment: toy.yaml
set:
  saccade.focus_num: 2
objective: val/retrieval_top1
{SEARCH}pruner: asha
budget: {{trials: 10}}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the sweep, with one piece of it replaced by another."""
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)

    def write(before: str = "", after: str = "") -> Path:
        assert before in SWEEP
        (tmp_path / "try.yaml").write_text(SWEEP.replace(before, after, 1) if before else SWEEP)
        return tmp_path / "try.yaml"

    return write


def test_what_is_right(write: Callable[..., Path]) -> None:
    sweep = read_sweep(write())
    assert [each.path for each in sweep.dimensions] == [
        "pretrain.optimizer",
        "pretrain.learning_rate",
        "pretrain.momentum",
        "saccade.margin_h",
        "prototypes.num_clusters",
    ]
    optimizer, rate, momentum, margin, clusters = sweep.dimensions
    assert optimizer.choices == ("sgd", "adam")
    assert (rate.low, rate.high, rate.log, rate.step, rate.whole) == (0.001, 0.3, True, None, False)
    assert momentum.when == {"pretrain.optimizer": ("sgd",)}
    assert (margin.low, margin.high, margin.step, margin.whole) == (0, 24, 4, True)
    assert clusters.choices == ((8,), (16, 24), ())
    assert sweep.start.saccade.focus_num == 2
    assert sweep.file.pruner.name == "asha"
    assert (sweep.file.objective[0].metric, sweep.file.objective[0].direction) == ("val/retrieval_top1", "maximize")


def test_the_spec_of_a_trial(write: Callable[..., Path]) -> None:
    sweep = read_sweep(write(), ["data.root=/elsewhere"])
    spec = sweep.trial_spec({"pretrain.learning_rate": 0.0123456789012345, "prototypes.num_clusters": (16, 24)})
    assert spec.pretrain.learning_rate == 0.0123456789012345
    assert spec.prototypes.num_clusters == (16, 24)
    assert spec.saccade.focus_num == 2
    assert spec.data.root == "/elsewhere"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("learning_rate:", "learning_rat:", "8: search.pretrain.learning_rat: unknown key, did you mean"),
        ("min: 1e-3", "min: 0", "8: search.pretrain.learning_rate: min 0 has no logarithm; log: true needs"),
        ("{min: 1e-3, max: 0.3, log: true}", "{min: -1, max: 0.3}", "8: search.pretrain.learning_rate: min -1.0:"),
        ("max: 0.3", "max: 1e-4", "8: search.pretrain.learning_rate: min 0.001 is not below max 0.0001"),
        ("log: true", "lgo: true", "8: search.pretrain.learning_rate: lgo: unknown key, did you mean log?"),
        ("log: true", "log: 3", "8: search.pretrain.learning_rate: log must be true or false; got 3"),
        (", max: 0.3", "", "8: search.pretrain.learning_rate: max is missing; a range is {min: 1, max: 8}"),
        ("max: 24", "max: 23", "10: search.saccade.margin_h: steps of 4 from 0 do not end at max 23; make it 20"),
        ("step: 4", "step: 0.5", "10: search.saccade.margin_h: the setting takes whole numbers"),
        ("[16, 24]", "[8.5]", "11: search.prototypes.num_clusters: [8.5]: entry 1 must be a whole number"),
        ("[16, 24]", "[8]", "11: search.prototypes.num_clusters: (8,) stands in it twice; remove one"),
        ("[sgd, adam]", "[sgd, adm]", "7: search.pretrain.optimizer: adm: must be sgd or adam"),
        ("[sgd, adam]", "{min: 1, max: 2}", "7: search.pretrain.optimizer: has no range, for it is not a number"),
        ("{pretrain.optimizer: sgd}", "{pretrain.optimizer: lion}", "9: search.pretrain.momentum: when: pretrain.opt"),
        ("{pretrain.optimizer: sgd}", "{encoder.name: r3d}", "9: search.pretrain.momentum: when: encoder.name: is not"),
        ("pruner: asha", "pruner: ahsa", "12: pruner.name: must be none or median or asha or hyperband; got"),
        ("pruner: asha", "pruner: {name: asha, min_epoch: 3}", "12: pruner.min_epoch: unknown key, did you"),
        ("pruner: asha", "pruner: {name: asha, min_epochs: 20}", "12: pruner: min_epochs 20 is not below"),
        ("val/retrieval_top1", "test/retrieval_top1", "5: objective: test/retrieval_top1 is a test score, which no"),
        ("val/retrieval_top1", "best/test_selected_linear_probe_top1", "5: objective: best/test_selected"),
        ("val/retrieval_top1", "val/retrieval_top2", "5: objective: val/retrieval_top2 is not a validation score"),
        ("val/retrieval_top1", f"val/retrieval_top{10**900}", "5: objective: val/retrieval_top10000000000000000000000"),
        ("val/retrieval_top1", "[val/retrieval_top1, val/retrieval_top5]", "12: pruner: asha compares trials by one"),
        ("val/retrieval_top1", "{metric: val/retrieval_top1, direction: max}", "5: objective.direction: must be max"),
        ("budget: {trials: 10}", "budget: {trials: 0}", "13: budget.trials: must be a whole number, 1 or more"),
        ("budget: {trials: 10}", "", "try.yaml: budget: says neither trials nor hours"),
        ("budget:", "budgets:", "13: budgets: unknown key, did you mean budget?"),
        ("toy.yaml", "toys.yaml", "2: experiment: "),
        ("name: try", "name: a b", "1: name: must be of at most 100 letters, digits, '_', '.' and '-'; got 'a b'"),
        ("name: try", "name:", "1: name: has no value; it must be rates, margin_h-2026.11 or the like"),
        ("name: try", "name: 5", "1: name: must be rates, margin_h-2026.11 or the like; got 5; for a text put it in"),
        ("name: try\n", "", "try.yaml: name: is missing; add a line 'name: ...'"),
        ("saccade.focus_num: 2", "saccade.focus_nm: 2", "4: set: saccade.focus_nm: unknown key, did you mean"),
        ("saccade.focus_num: 2", "saccade.focus_num: two", "4: set: saccade.focus_num: must be a whole number"),
        ("saccade.focus_num: 2", "saccade: {focus_num: 2}", "4: set: saccade: write the dotted path of each setting"),
        ("saccade.focus_num: 2", "saccade.margin_h: 4", "10: search.saccade.margin_h: is set to one value"),
        ("[sgd, adam]", "[sgd, adam]\n  engine.threads: [1, 2]", "8: search.engine.threads: cannot be sea"),
        ("min: 0, max: 24, step: 4", "min: 4, max: 8", "start: trial 0 is the experiment as it is, but"),
        ("pruner: asha", "sampler: grid", "12: sampler: grid needs steps or choices, and pretrain.learning_rate has"),
        ("pruner: asha", "lease: {grace_sec: 20}", "12: lease: grace_sec 20 is less than 5 x renew_sec 10"),
        ("pruner: asha", "storage: mysql://h/d", "12: storage: must be postgresql://"),
        # Alone each is fine, but not together.
        ("saccade.margin_h: {min: 0, max: 24, step: 4}",
         "pretrain.epochs: {min: 11, max: 30}\n  prototypes.warmup_epoch: {min: 2, max: 12}", "6: search: trials at "),
        ("saccade.margin_h: {min: 0, max: 24, step: 4}", "pretrain.epochs: {min: 4, max: 30}",
         "10: search.pretrain.epochs: min 4: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(before: str, after: str, said: str, write: Callable[..., Path]) -> None:
    with pytest.raises(SpecError) as error:
        read_sweep(write(before, after))
    message = str(error.value)
    assert "\n" not in message
    assert said in message
    assert "try.yaml" in message
    assert len(message) < 900


def test_settings_of_the_machine_may_differ_and_no_others(write: Callable[..., Path]) -> None:
    with pytest.raises(SpecError, match=r"--set pretrain\.epochs=3: every machine of a sweep runs the same"):
        read_sweep(write(), ["engine.workers=0", "pretrain.epochs=3"])


def test_the_scores_that_an_experiment_logs(write: Callable[..., Path]) -> None:
    start = read_sweep(write()).start
    assert objective_metrics(start) == [
        *(f"val/retrieval_top{k}" for k in (1, 5, 10, 20, 50)),
        "best/val_retrieval_top1",
    ]
    blind = start.model_copy(update={"data": start.data.model_copy(update={"validation": ()})})
    assert objective_metrics(blind) == []


GRID = """\
name: grid
experiment: toy.yaml
objective: val/retrieval_top1
search:
  pretrain.optimizer: [adam, sgd]
  pretrain.momentum: {min: 0.8, max: 0.9, step: 0.1, when: {pretrain.optimizer: sgd}}
  saccade.margin_h: {min: 0, max: 24, step: 12}
sampler: grid
"""


def test_a_grid_is_every_point_once_from_the_experiment_on(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)
    (tmp_path / "grid.yaml").write_text(GRID)
    sweep = read_sweep(tmp_path / "grid.yaml")
    space = Space(sweep.dimensions)
    points = [tuple(point.values()) for point in space.grid(space.of_experiment(sweep))]
    assert points[0] == ("sgd", 0.9, 12)
    assert points[1:] == [
        *(("adam", margin) for margin in (0, 12, 24)),
        *(("sgd", 0.8, margin) for margin in (0, 12, 24)),
        *(("sgd", 0.9, margin) for margin in (0, 24)),
    ]
    for point in space.grid(None):
        assert space.decoded(space.encoded(point)) == point


def test_points_to_try_obey_ranges_and_conditions(write: Callable[..., Path]) -> None:
    sweep = read_sweep(write())
    points = list(Space(sweep.dimensions).sample(64))
    assert points == list(Space(sweep.dimensions).sample(64))
    for point in points:
        assert ("pretrain.momentum" in point) == (point["pretrain.optimizer"] == "sgd")
        assert 0.001 <= float(str(point["pretrain.learning_rate"])) <= 0.3
        assert point["saccade.margin_h"] in range(0, 25, 4)
    assert len({str(point) for point in points}) > 32


@pytest.mark.parametrize("path", [path for path in schemas_of(SweepFile) if path])
def test_whatever_stands_where_a_value_belongs(path: str, write: Callable[..., Path]) -> None:
    file = write()
    content = yaml.safe_load(file.read_text())
    content |= {"objective": [{"metric": "val/retrieval_top1"}], "pruner": {"name": "asha"}}
    *above, last = path.split(".")
    section = content
    for key in above:
        section = section.setdefault(key, {})
    section[last] = "VALUE"
    text = yaml.safe_dump(content, sort_keys=False)
    for value in ("", "5", "-1.5", "x y", "''", "~", "true", "[1, a]", "[]", "{a: 1}", "{}", "[[]]", "[{}]"):
        file.write_text(text.replace("VALUE", value))
        try:
            read_sweep(file)
        except SpecError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some of them are values that may stand there
