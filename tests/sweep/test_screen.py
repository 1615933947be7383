"""The table of trials in the terminal, and the lines in its place where there is no terminal."""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from saccade.sweep.reader import read_sweep
from saccade.sweep.screen import Screen, table
from saccade.sweep.spec import Sweep
from saccade.sweep.standing import Standing

from .conftest import EXPERIMENT, SWEEP

RATE, MARGIN = "pretrain.learning_rate", "saccade.margin_h"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)
    (tmp_path / "try.yaml").write_text(SWEEP.replace("NAME", "try").replace("TRIALS", "8"))
    return read_sweep(tmp_path / "try.yaml")


def trial(number: int, state: TrialState, value: float | None = None, **others: object) -> FrozenTrial:
    ended, now = state.is_finished(), datetime.now()
    return FrozenTrial(
        number=number,
        state=state,
        value=value,
        datetime_start=now - timedelta(seconds=600 if ended else 300),
        datetime_complete=now if ended else None,
        params={RATE: 0.0123456, MARGIN: 4 * number},
        distributions={RATE: FloatDistribution(1e-3, 0.3, log=True), MARGIN: IntDistribution(0, 24, step=4)},
        user_attrs=dict(others.get("user", {})),  # type: ignore[call-overload]
        system_attrs=dict(others.get("system", {})),  # type: ignore[call-overload]
        intermediate_values=dict(others.get("within", {})),  # type: ignore[call-overload]
        trial_id=number + 1,
    )


@pytest.fixture
def now() -> Standing:
    best = trial(1, TrialState.COMPLETE, 0.75)
    trials = (
        trial(0, TrialState.COMPLETE, 0.5),
        best,
        trial(2, TrialState.PRUNED, 0.25, user={"why": "pruned at epoch 2"}),
        trial(3, TrialState.FAIL),
        trial(4, TrialState.RUNNING, within={2: 0.3, 4: 0.375}),
        trial(5, TrialState.WAITING, system={"failed_trial": 3, "retry_history": [3]}),
    )
    return Standing(trials, (best,), 8)


def test_the_table(sweep: Sweep, now: Standing) -> None:
    # Of eight trials three have ended (the failed one goes on as number 5); each takes ten minutes, and the one that
    # runs has done five: 5 x 10 - 5 minutes for two workers.
    assert table(sweep, now, 2, rows=4) == [
        "try: 3 of 8 trials ended, 1 running, 1 pruned; about 22.5 min left",
        "   trial  state                val/retrieval_top1  learning_rate  margin_h",
        "*  1      complete             0.75                0.01235        4",
        "   2      pruned               0.25                0.01235        8",
        "   3      failed                                   0.01235        12",
        "   4      epoch 4              (0.375)             0.01235        16",
        "   5      waiting, retry of 3                      0.01235        20",
    ]


def test_without_a_terminal_each_change_is_a_line(
    sweep: Sweep, now: Standing, capfd: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(sweep, 1)
    screen.show(now)
    lines = capfd.readouterr().err.splitlines()
    assert lines[1] == "sweep: trial 1 complete: val/retrieval_top1 0.75; learning_rate 0.01235, margin_h 4"
    assert lines[2].startswith("sweep: trial 2 pruned: val/retrieval_top1 0.25; pruned at epoch 2; ")
    assert len(lines) == 5  # the one that waits has nothing to say
    screen.show(now)
    assert capfd.readouterr().err == ""


def test_on_a_terminal_the_table_is_drawn_over_itself(
    sweep: Sweep, now: Standing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((40, 12)))
    screen = Screen(sweep, 1)
    screen.show(now)
    first = capsys.readouterr().err
    assert max(map(len, first.splitlines())) == 39
    screen.say("sweep: the storage is back")
    screen.show(now)
    height = first.count("\n")
    assert capsys.readouterr().err == f"\x1b[{height}F\x1b[Jsweep: the storage is back\n{first}"
