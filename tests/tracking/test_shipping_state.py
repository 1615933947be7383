"""shipping.json: what is written is read, and damage is told."""

import json
from pathlib import Path

import pytest

from saccade.errors import RunError
from saccade.tracking.shipping_state import LetGoError, Outcome, ShippingState, attempted_offset


def test_round_trip(tmp_path: Path) -> None:
    outcome = Outcome(status="FAILED", end_ms=5, tags={"saccade.exit_code": "1"})
    state = ShippingState(
        folder=tmp_path,
        tracking_uri="http://h",
        offset=3,
        attempted=7,
        pending=["a"],
        uploaded={"b": "c"},
        outcome=outcome,
    )
    assert ShippingState.load(tmp_path) is None
    assert attempted_offset(tmp_path) == 0
    state.save()
    assert ShippingState.load(tmp_path) == state
    assert attempted_offset(tmp_path) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["shipping.json"]  # No temporary file is left.


def test_nothing_is_written_after_the_run_was_let_go(tmp_path: Path) -> None:
    state = ShippingState(folder=tmp_path, attempted=1)
    state.save()
    state.close()
    state.attempted = 2
    with pytest.raises(LetGoError):
        state.save()
    assert attempted_offset(tmp_path) == 1


def test_a_newer_or_older_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "shipping.json").write_text(json.dumps({"attempted": 4, "outcome": None, "of_a_later_version": 1}))
    state = ShippingState.load(tmp_path)
    assert state is not None
    assert (state.attempted, state.pending) == (4, [])


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"outcome": {"status": "x"}}'),
        '{"outcome": null, "tags": {"a": 1}}',
        '{"outcome": null, "offset": -1}',
        '{"outcome": {"status": "DONE", "end_ms": 1, "tags": {}}}',
    ],
)
def test_damage_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "shipping.json").write_text(text)
    with pytest.raises(RunError, match=r"shipping.json: cannot be read .*; restore it, or remove it"):
        ShippingState.load(tmp_path)
