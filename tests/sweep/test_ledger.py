"""The books of a study: an exact budget, no trial given away twice, none lost, whoever is killed where."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from saccade.sweep.ledger import RETRY_OF, WORKER, Ledger, Taken

Trials = dict[int, optuna.trial.FrozenTrial]


class Clock:
    """The time of the database, which passes when a test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, 0)

    def __call__(self) -> datetime:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("saccade.sweep.ledger.utc_now", clock)
    return clock


@pytest.fixture
def storage(tmp_path: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{tmp_path}/sweeps.db", engine_kwargs={"connect_args": {"timeout": 60}})


@pytest.fixture
def study(storage: RDBStorage) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(storage=storage, study_name="books", direction="maximize")


@pytest.fixture
def books(storage: RDBStorage, study: optuna.Study) -> Callable[..., Ledger]:
    def make(renew_sec: float = 10, grace_sec: float = 60) -> Ledger:
        return Ledger(storage.engine, study._study_id, renew_sec=renew_sec, grace_sec=grace_sec)

    return make


def take(ledger: Ledger, worker: str, trials: int | None = 10, hours: float | None = None) -> Taken:
    return ledger.take(worker, trials=trials, hours=hours, fixed=lambda place: None)


def trials(study: optuna.Study) -> Trials:
    return {trial.number: trial for trial in study.get_trials()}


def stay_in_touch(ledger: Ledger, clock: Clock, seconds: int) -> None:
    """As a worker that waits does."""
    for step in (*[10] * (seconds // 10), seconds % 10):
        clock.passes(step)
        ledger.left(trials=0, hours=None)


def test_the_budget_is_exact_with_any_number_of_workers(storage: RDBStorage, study: optuna.Study) -> None:
    def work(name: str) -> None:
        ledger = Ledger(storage.engine, study._study_id, renew_sec=10, grace_sec=60)
        own = optuna.load_study(storage=storage, study_name="books")
        while not (taken := take(ledger, name, trials=12)).done:
            if taken.trial_id is not None:
                own.get_trials()
                own.tell(storage.get_trial(taken.trial_id).number, 1.0)

    threads = [threading.Thread(target=work, args=(f"worker {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = trials(study)
    assert sorted(found) == list(range(12))
    assert {trial.state for trial in found.values()} == {TrialState.COMPLETE}
    assert len({trial.system_attrs[WORKER] for trial in found.values()}) > 1


def test_a_worker_that_asks_again_gets_the_trial_that_it_has(books: Callable[..., Ledger], study: optuna.Study) -> None:
    first, again = take(books(), "a"), take(books(), "a")
    assert first == again
    assert len(trials(study)) == 1
    assert take(books(), "b") != first


def test_a_dead_workers_trial_is_taken_up_once_with_all_that_is_known_of_it(
    books: Callable[..., Ledger], study: optuna.Study, clock: Clock
) -> None:
    lost = take(books(), "dead", trials=1).trial_id
    assert lost is not None
    study.get_trials()
    trial = optuna.Trial(study, lost)
    trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("list", ["[8]", "[16, 24]"])
    trial.set_user_attr("runs", ["run-1"])
    params = trials(study)[0].params

    other = books()
    stay_in_touch(other, clock, 60)
    assert take(other, "b", trials=1) == Taken(None, done=False)  # There may be something to take up yet.
    stay_in_touch(other, clock, 1)
    taken = take(other, "b", trials=1)
    assert taken.trial_id not in (None, lost)
    found = trials(study)
    assert (found[0].state, found[1].state) == (TrialState.FAIL, TrialState.RUNNING)
    assert found[1].params == params
    assert found[1].user_attrs == {"runs": ["run-1"]}
    assert found[1].system_attrs[RETRY_OF] == 0
    assert found[1].system_attrs["retry_history"] == [0]
    with pytest.warns(ExperimentalWarning):  # Optuna itself and its Dashboard understand it
        assert optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(found[1]) == 0

    # It dies there too: then that is that, and the budget of one trial is spent.
    last = books()
    stay_in_touch(last, clock, 61)
    assert take(last, "c", trials=1) == Taken(None, done=True)
    assert [trial.state for trial in trials(study).values()] == [TrialState.FAIL] * 2
    # The one who was taken for dead is not heard any more.
    with pytest.raises(ValueError, match="Cannot tell a FAIL trial"):
        study.tell(0, 0.5)


def test_whoever_renews_keeps_its_trial(books: Callable[..., Ledger], study: optuna.Study, clock: Clock) -> None:
    owner, other = books(), books()
    taken = take(owner, "owner")
    assert taken.trial_id is not None
    for _ in range(20):
        stay_in_touch(other, clock, 10)
        assert owner.renew(taken.trial_id).held
        assert take(other, "other", trials=1) == Taken(None)
    assert Counter(trial.state for trial in trials(study).values()) == {TrialState.RUNNING: 1}
    stay_in_touch(other, clock, 61)
    take(other, "other", trials=1)
    assert not owner.renew(taken.trial_id).held


def test_nobody_is_told_dead_right_after_an_outage(
    books: Callable[..., Ledger], study: optuna.Study, clock: Clock
) -> None:
    owner, other = books(), books()
    taken = take(owner, "owner", trials=1)
    assert taken.trial_id is not None
    stay_in_touch(other, clock, 40)
    clock.passes(3600)  # The storage is away for everybody, or the machine asleep.
    assert take(other, "other", trials=1) == Taken(None)
    stay_in_touch(other, clock, 9)
    assert owner.renew(taken.trial_id).held
    stay_in_touch(other, clock, 50)
    assert take(other, "other", trials=1) == Taken(None)
    assert trials(study)[0].state == TrialState.RUNNING


@pytest.mark.parametrize("jump_sec", [86_400, -86_400])
def test_a_clock_that_jumps_tells_nobody_dead_who_lives(
    books: Callable[..., Ledger], study: optuna.Study, clock: Clock, jump_sec: int
) -> None:
    dead, alive, other = books(), books(), books()
    lost, held = take(dead, "dead").trial_id, take(alive, "alive").trial_id
    assert lost is not None
    assert held is not None
    stay_in_touch(other, clock, 30)
    clock.passes(jump_sec)
    for _ in range(3):
        assert alive.renew(held).held
        assert take(other, "other", trials=2).trial_id is None
        clock.passes(7)
    taken = take(other, "other", trials=2).trial_id
    assert alive.renew(held).held
    again = next(trial for trial in study.trials if trial._trial_id == taken)
    assert study.trials[again.system_attrs[RETRY_OF]]._trial_id == lost


def test_a_worker_that_has_just_come_judges_nobody(
    books: Callable[..., Ledger], study: optuna.Study, clock: Clock
) -> None:
    take(books(), "dead", trials=1)
    clock.passes(3600)
    new = books()
    assert take(new, "new", trials=1) == Taken(None)
    stay_in_touch(new, clock, 19)
    assert take(new, "new", trials=1) == Taken(None)
    stay_in_touch(new, clock, 1)
    assert take(new, "new", trials=1).trial_id is not None


def test_a_trial_that_was_handed_back_is_gone_on_with_as_the_same(
    books: Callable[..., Ledger], study: optuna.Study
) -> None:
    ledger = books()
    taken = take(ledger, "a", trials=1)
    assert taken.trial_id is not None
    ledger.hand_back(taken.trial_id)
    assert ledger.left(trials=1, hours=None)
    assert take(books(), "b", trials=1) == taken
    found = trials(study)
    assert len(found) == 1
    assert found[0].system_attrs[WORKER] == "b"
    assert RETRY_OF not in found[0].system_attrs


def test_hours_are_counted_from_the_first_trial(
    books: Callable[..., Ledger], study: optuna.Study, clock: Clock
) -> None:
    ledger = books()
    for number in range(2):
        assert take(ledger, "a", trials=None, hours=2).trial_id is not None
        study.get_trials()
        study.tell(number, 1.0)
        clock.passes(1.1 * 3600)
    assert take(ledger, "a", trials=None, hours=2) == Taken(None, done=True)
    assert take(ledger, "a", trials=None, hours=3).trial_id is not None


def test_given_values_go_to_new_trials_by_their_place(books: Callable[..., Ledger], study: optuna.Study) -> None:
    ledger = books()
    for place in range(3):
        ledger.take(f"w{place}", trials=3, hours=None, fixed=lambda at: {"x": at / 10} if at < 2 else None)
    fixed = [trial.system_attrs.get("fixed_params") for trial in trials(study).values()]
    assert fixed == [{"x": 0.0}, {"x": 0.1}, None]


def test_a_request_to_stop_reaches_who_renews(books: Callable[..., Ledger]) -> None:
    ledger = books()
    taken = take(ledger, "a")
    assert taken.trial_id is not None
    assert not ledger.renew(taken.trial_id).stop
    books().ask_to_stop(True)
    assert ledger.renew(taken.trial_id).stop
    books().ask_to_stop(False)
    assert not ledger.renew(taken.trial_id).stop


def test_one_machine_at_a_time_has_the_turn(books: Callable[..., Ledger]) -> None:
    assert [books().take_turn("published", 60) for _ in range(3)] == [True, False, False]
    assert books().take_turn("published", 0)


def test_what_was_defined_first_stays(books: Callable[..., Ledger], study: optuna.Study) -> None:
    for value in ({"a": 1}, {"a": 2}):
        books().define("definition", value)
    assert study.user_attrs["definition"] == {"a": 1}
