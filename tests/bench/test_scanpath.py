from pathlib import Path

import numpy as np
import pytest

from saccade.bench.made_videos import drifting_texture
from saccade.bench.scanpath import _LiteralGaze, bench_scanpath
from saccade.errors import DataError
from saccade.gaze.detail import detail_maps, shrink
from saccade.gaze.geymol import Field


def test_the_baseline_pulls_the_gaze_as_we_do() -> None:
    frame = shrink(next(drifting_texture(1, 120, 160, seed=0)))
    literal, field = _LiteralGaze(*frame.shape[:2]), Field(detail_maps(frame))
    features = _LiteralGaze.features(frame)
    for row, column in [(40, 60), (5, 200), (160, 10)]:
        *_, down, across = literal._change(np.array([row, column, 0.0, 0.0]), 0.0, features)
        assert (down, across) == pytest.approx(field.acceleration(row, column), rel=1e-3, abs=1e-4)


def test_parts_and_the_whole_are_measured() -> None:
    report = bench_scanpath(rounds=1, frames=10)
    literal, ours = (row for row in report.rows if row.group == "gaze")
    assert literal.ratio is None
    assert ours.ratio == pytest.approx(literal.value / ours.value)
    parts = [row for row in report.rows if row.group == "parts"]
    assert len(parts) == 4
    assert all(row.value > 0 and row.ratio is None for row in parts)


def test_a_folder_of_too_few_frames(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 0 frames; give a folder of at least 10"):
        bench_scanpath(tmp_path)
