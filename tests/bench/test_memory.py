"""The benchmark of host memory, small."""

import json
from collections.abc import Callable

import pytest

from saccade.bench import memory
from saccade.bench.measure import Report, Row
from saccade.spec import EngineSpec, PretrainSpec, PrototypeSpec


def test_memory_grows_by_what_is_added() -> None:
    report = memory.bench_memory(
        videos=40,
        batches=2,
        dim=8,
        prototypes=PrototypeSpec(num_clusters=(3,)),
        pretrain=PretrainSpec(batch_size=4),
        engine=EngineSpec(workers=1),
    )
    values = {row.name: row.value for row in report.rows}
    *growing, frames = values.values()
    assert growing == sorted(growing)
    assert len(growing) == 4
    # Four videos, each of 37 distinct frames, of 256 x 340 px.
    assert frames == pytest.approx(4 * 37 * 256 * 340 * 3 / 1e6)


def test_the_command(monkeypatch: pytest.MonkeyPatch, saccade: Callable[..., tuple[int, str, str]]) -> None:
    row = Row("host memory", "program", 260.0, "MB", None, (260.0,))
    monkeypatch.setattr(memory, "bench_memory", lambda: Report("memory", {}, [row], {"processor": "x"}))
    code, out, _ = saccade("bench", "memory", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["value"] == 260.0
    assert saccade("bench", "memory")[1].splitlines()[-1].split() == ["program", "260"]
