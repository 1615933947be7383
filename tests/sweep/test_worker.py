"""What a worker does with trials whose runs are formulas: repeatable, exact, each point once, truthful at every end."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from saccade.errors import RunError, SpecError
from saccade.sweep.reader import read_sweep
from saccade.sweep.storage import open_study
from saccade.sweep.trial import Ending, Result
from saccade.sweep.worker import Job, Worker

from .cheap_trainer import score
from .conftest import load

Work = Callable[[Any], Result]


class Formula:
    """In place of a trial's runs: its result is known at once."""

    result: Work

    def __init__(self, sweep: Any, trial: Any, facts: Any, spec: Any, **others: Any) -> None:
        self.trial, self.facts, self.spec, self.others = trial, facts, spec, others

    def work(self) -> Result:
        return type(self).result(self)


@pytest.fixture
def work(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let workers work at a sweep, each in a thread; gives their exit codes."""
    monkeypatch.setattr("saccade.sweep.worker.TrialRuns", Formula)

    def work(sweep: Path, result: Work, workers: int = 1) -> list[int]:
        Formula.result = staticmethod(result)  # type: ignore[method-assign]
        open_study(read_sweep(sweep), Path("runs")).close()
        job = Job(str(sweep), (), "runs", 1)
        codes: list[int] = []

        def one(worker: Worker) -> None:
            try:
                codes.append(worker.work())
            except RunError:
                codes.append(2)

        crew = [Worker(job, threading.Event(), lambda text: None) for _ in range(workers)]
        threads = [threading.Thread(target=one, args=(worker,)) for worker in crew]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return codes

    return work


def complete(runs: Formula) -> Result:
    return Result(Ending.COMPLETE, (score(runs.spec, 6),))


def test_the_same_seed_and_one_worker_give_the_same_trials(
    write_sweep: Callable[..., Path], work: Callable[..., list[int]]
) -> None:
    found = []
    for name, seed, trials in (("one", 1, 13), ("two", 1, 13), ("three", 2, 2)):
        sweep = write_sweep(trials, f"seed: {seed}", name=name)
        assert work(sweep, complete) == [0]
        found.append([(trial.params, trial.value) for trial in load(sweep).get_trials()])
    assert found[0] == found[1]  # the first ten at random, three by TPE
    assert found[0][0] == found[2][0]  # the experiment as it is
    assert found[0][1] != found[2][1]
    assert len({str(params) for params, _ in found[0]}) == 13


def test_several_workers_choose_different_points_and_keep_to_the_budget(
    write_sweep: Callable[..., Path], work: Callable[..., list[int]]
) -> None:
    sweep = write_sweep(8)
    assert work(sweep, complete, workers=3) == [0, 0, 0]
    trials = load(sweep).get_trials()
    assert [trial.number for trial in trials] == list(range(8))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({str(trial.params) for trial in trials}) == 8


def test_a_grid_with_several_workers_is_every_point_once(
    write_sweep: Callable[..., Path], work: Callable[..., list[int]]
) -> None:
    sweep = write_sweep(100, "sampler: grid")
    text = sweep.read_text().replace("{min: 1e-3, max: 0.3, log: true}", "[0.05, 0.1]").replace("step: 4", "step: 12")
    sweep.write_text(text)
    assert work(sweep, complete, workers=3) == [0, 0, 0]
    points = [tuple(trial.params.values()) for trial in load(sweep).get_trials()]
    assert points[0] == (0.05, 12)
    assert sorted(points) == [(rate, margin) for rate in (0.05, 0.1) for margin in (0, 12, 24)]


def test_several_objectives(write_sweep: Callable[..., Path], work: Callable[..., list[int]]) -> None:
    sweep = write_sweep(6)
    sweep.write_text(
        sweep.read_text().replace(
            "val/retrieval_top1", "[val/retrieval_top1, {metric: val/retrieval_top5, direction: minimize}]"
        )
    )
    assert work(sweep, lambda runs: Result(Ending.COMPLETE, (score(runs.spec, 6), 0.5))) == [0]
    (best,) = load(sweep).best_trials
    assert best.values[0] == max(trial.values[0] for trial in load(sweep).get_trials())


def test_a_study_that_fails_and_fails_is_left(write_sweep: Callable[..., Path], work: Callable[..., list[int]]) -> None:
    sweep = write_sweep(10)
    assert work(sweep, lambda runs: Result(Ending.FAILED, why="exit code 1")) == [1]
    trials = load(sweep).get_trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3
    assert trials[0].user_attrs["why"] == "exit code 1"


def test_what_is_wrong_with_the_machine_costs_no_trial(
    write_sweep: Callable[..., Path], work: Callable[..., list[int]]
) -> None:
    sweep = write_sweep(2)

    def refused(runs: Formula) -> Result:
        raise RunError("cannot track run x: no permission")

    assert work(sweep, refused) == [2]
    assert [trial.state for trial in load(sweep).get_trials()] == [TrialState.WAITING]
    assert work(sweep, complete) == [0]
    assert [trial.state for trial in load(sweep).get_trials()] == [TrialState.COMPLETE] * 2


def test_a_request_to_stop_reaches_a_worker_and_its_trial_goes_on_later(
    write_sweep: Callable[..., Path],
    work: Callable[..., list[int]],
    saccade: Callable[..., tuple[int, str, str]],
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = write_sweep(2, "")
    sweep.write_text(sweep.read_text().replace("renew_sec: 1,", "renew_sec: 0.2,"))
    monkeypatch.chdir(own_folder)

    def until_stopped(runs: Formula) -> Result:
        code, out, _ = saccade("sweep", "stop", str(sweep))
        assert code == 0
        assert "asked 1 running trial of try to stop" in out
        assert runs.others["stop"].wait(60)
        return Result(Ending.LEFT)

    assert work(sweep, until_stopped) == [0]
    assert [trial.state for trial in load(sweep).get_trials()] == [TrialState.WAITING]
    code, out, _ = saccade("sweep", "status", str(sweep))
    assert code == 0
    assert "waiting" in out


def test_a_study_is_not_mixed_with_another_one_of_its_name(write_sweep: Callable[..., Path], own_folder: Path) -> None:
    sweep = write_sweep(2)
    open_study(read_sweep(sweep), Path("runs")).close()
    larger = write_sweep(3, "# a larger budget, and another lease, change nothing")
    open_study(read_sweep(larger), Path("runs")).close()
    sweep.write_text(sweep.read_text().replace("max: 0.3", "max: 0.4"))
    with pytest.raises(SpecError, match=r"was begun with search\.pretrain\.learning_rate = .*0\.3.* now"):
        open_study(read_sweep(sweep), Path("runs"))
    write_sweep(3)
    (own_folder / "toy.yaml").write_text((own_folder / "toy.yaml").read_text().replace("epochs: 6,", "epochs: 7,"))
    with pytest.raises(SpecError, match=r"was begun with experiment\.pretrain\.epochs = 6, and it is 7 now"):
        open_study(read_sweep(sweep), Path("runs"))


def test_what_is_not_there_is_said(
    write_sweep: Callable[..., Path], saccade: Callable[..., tuple[int, str, str]]
) -> None:
    sweep = write_sweep(2)
    for command in ("status", "best", "stop"):
        code, _, err = saccade("sweep", command, str(sweep))
        assert code == 2
        assert "begin it with saccade sweep" in err
        assert err.count("\n") == 1
