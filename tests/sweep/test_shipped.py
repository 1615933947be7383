"""Every sweep of the repository: readable, explained, and about what its name says."""

import re
from pathlib import Path

import pytest

from saccade.spec_reader import spec_diff
from saccade.sweep.reader import read_sweep
from saccade.sweep.space import Space
from saccade.sweep.spec import Sweep

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
SEARCHED: dict[str, list[str]] = {
    "ablations": ["base"],
    "joint": [
        "saccade.margin_h",
        "saccade.focus_num",
        "prototypes.num_clusters",
        "prototypes.weight",
        "contrast.temperature",
        "pretrain.learning_rate",
        "pretrain.projection_lr_ratio",
    ],
    "learning_rates": ["pretrain.learning_rate", "pretrain.projection_lr_ratio"],
    "linear_probe_rate": ["evaluation.linear_probe.learning_rate", "evaluation.linear_probe.weight_decay"],
    "margin_h": ["saccade.margin_h"],
    "multi_fidelity": [
        "saccade.margin_h",
        "contrast.temperature",
        "contrast.memory_momentum",
        "pretrain.learning_rate",
        "pretrain.projection_lr_ratio",
        "pretrain.weight_decay",
    ],
    "num_clusters": ["prototypes.num_clusters"],
    "quickstart": ["pretrain.learning_rate", "pretrain.projection_lr_ratio", "saccade.margin_h"],
}


@pytest.fixture(scope="module")
def sweeps() -> dict[str, Sweep]:
    return {path.stem: read_sweep(path) for path in sorted(SWEEPS.glob("*.yaml"))}


def test_each_is_valid_and_searches_what_it_says(sweeps: dict[str, Sweep]) -> None:
    assert {name: [each.path for each in sweep.dimensions] for name, sweep in sweeps.items()} == SEARCHED
    names = [sweep.file.name for sweep in sweeps.values()]
    assert len(set(names)) == len(names)
    assert not [path for path in SWEEPS.iterdir() if path.suffix != ".yaml"]


def test_none_looks_at_the_test_videos(sweeps: dict[str, Sweep]) -> None:
    for name, sweep in sweeps.items():
        assert sweep.start.data.validation
        # Retrieval of the test videos is off; the classifiers' objective is that of held-out videos.
        assert not sweep.start.evaluation.retrieval.enabled
        assert all("val" in each.metric for each in sweep.file.objective), name


@pytest.mark.parametrize("name", SEARCHED)
def test_the_header_says_what_a_reader_needs(name: str) -> None:
    lines = (SWEEPS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = "\n".join(lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))])
    for word in ("Purpose", "Command", "Time", "Score"):
        (said,) = re.findall(rf"^# {word}: +(\S.*)$", header, re.MULTILINE)
        assert said not in ("TIME", "SCORE")
    assert f"saccade sweep sweeps/{name}.yaml" in header


def test_every_row_of_the_ablation_is_one_trial(sweeps: dict[str, Sweep]) -> None:
    sweep = sweeps["ablations"]
    space = Space(sweep.dimensions)
    points = space.grid(space.of_experiment(sweep))
    specs = {Path(str(point["base"])).stem: sweep.trial_spec(point) for point in points}
    assert next(iter(specs)) == "pretrain_r3d"
    rows = {path.stem for path in (SWEEPS.parent / "experiments" / "ablations").glob("*.yaml")}
    assert specs.keys() == rows | {"pretrain_r3d"}
    assert len(rows) == 13
    for name in rows:
        changed = spec_diff(specs["pretrain_r3d"], specs[name])
        changed.pop("name")
        assert len(changed) == 1, name  # each row changes one thing, the validation being everybody's
