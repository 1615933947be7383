"""The benchmark of clustering, small: what it says it has measured is what it has."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saccade.bench import clustering
from saccade.bench.clustering import bench_clustering, bench_slots, clustered, unstructured
from saccade.bench.measure import Report, Row
from saccade.errors import DataError
from saccade.prototypes import fit_prototypes


def test_made_features_are_of_length_one_and_those_of_a_video_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_ROWS", 50)  # several blocks, and a last one that is not full
    features = clustered(1000, 16)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    alike = (features[0:999:3] * features[1:999:3]).sum(axis=1).mean()
    others = (features[0:990:3] * features[6:996:3]).sum(axis=1).mean()
    assert alike > others + 0.3
    assert abs(unstructured(1000, 16).mean()) < 0.01


def test_both_ways_are_measured_with_the_same_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = clustered(400, 8)
    np.save(tmp_path / "own.npy", features)
    report = bench_clustering(tmp_path / "own.npy", seeds=2, num_clusters=20)
    (published, ours), (mean, worst) = report.rows[:2], report.rows[2:]
    assert published.ratio is None
    assert ours.ratio == pytest.approx(
        np.median([slow / fast for slow, fast in zip(published.rounds, ours.rounds, strict=True)])
    )
    objectives = {
        way: [fit_prototypes(features, 20, seed=seed, temperature=0.07, seeding=way).objective for seed in (1234, 1235)]
        for way in ("kmeans++", "random")
    }
    assert mean.value == pytest.approx(100 * (sum(objectives["kmeans++"]) / sum(objectives["random"]) - 1))
    assert worst.value == max(worst.rounds)
    assert len(capsys.readouterr().err.splitlines()) == 4  # it takes long: one sees where it is


def test_a_memory_bank_of_many_slots() -> None:
    report = bench_slots(3000, dim=16, num_clusters=20, sampled=30)
    values = {row.name: row.value for row in report.rows}
    assert len(values) == 7
    assert all(value > 0 for value in values.values())
    assert values["of which bank and features"] == pytest.approx(2 * 3000 * 16 * 4 / 2**20)
    assert values["process before"] <= values["most with the memory bank"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((5, 3), np.float64), r"holds float64 \[5, 3\]; features are float32 \[N, D\], at least 4 of them"),
        (np.zeros((3, 3), np.float32), r"holds float32 \[3, 3\]"),
        (None, r"not an \.npy file of features"),
    ],
)
def test_other_files(tmp_path: Path, content: np.ndarray | None, said: str) -> None:
    path = tmp_path / "features.npy"
    path.write_bytes(b"nonsense") if content is None else np.save(path, content)
    with pytest.raises(DataError, match=said):
        bench_clustering(path, num_clusters=4)


def test_the_command(monkeypatch: pytest.MonkeyPatch, saccade: Callable[..., tuple[int, str, str]]) -> None:
    asked = []

    def fake(*given: object, **settings: object) -> Report:
        asked.append((given, settings))
        return Report("clustering", {}, [Row("k-means", "plain", 1.0, "s", None, (1.0,))], {"processor": "x"})

    monkeypatch.setattr(clustering, "bench_clustering", fake)
    monkeypatch.setattr(clustering, "bench_slots", fake)
    code, out, _ = saccade("bench", "clustering", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["name"] == "plain"
    code, out, _ = saccade("bench", "clustering", "x.npy", "--seeds", "2")
    assert out.splitlines()[-1].split() == ["plain", "1"]
    assert saccade("bench", "clustering", "--slots", "1000000")[0] == 0
    assert asked == [((None,), {"seeds": 5}), ((Path("x.npy"),), {"seeds": 2}), ((1_000_000,), {})]
