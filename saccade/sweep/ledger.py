"""Who works at which trial, kept in the study's own database so that any number of workers on any machines agree.

Every decision is one transaction that first locks the study's row, so the budget is exact and a trial is never given
away twice; a worker that dies between two statements leaves nothing half done. The clock is the database's.

The tables are Optuna's own (its heartbeats included), so Optuna Dashboard and `optuna` commands see what there is.
Optuna's `fail_stale_trials` marks a dead trial in one transaction and queues it again in the next: a worker that is
killed in between loses it. Here it is one. And `n_trials` counts per worker: four workers of 20 make 80 trials or, with
`MaxTrialsCallback(20)`, 23.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models as optuna_models
from optuna.trial import TrialState
from sqlalchemy import orm

__all__ = ["RETRY_OF", "WORKER", "Ledger", "Renewal", "Taken", "utc_now"]

RETRY_OF, _HISTORY = "failed_trial", "retry_history"
"""System attributes of a trial that takes up another one, named as by Optuna's RetryHeartbeatStaleTrialCallback."""
WORKER = "saccade:worker"
"""System attribute: the worker that has or had the trial."""
STOP = "saccade:stop"
"""User attribute of a study whose workers are to stop."""
_MOST_RETRIES = 1

System = Mapping[str, Any]
Row = Any
"""A row of one of Optuna's tables, whose classes are declared without types."""
models: Any = optuna_models


@dataclass(frozen=True)
class Taken:
    """What a worker is given."""

    trial_id: int | None
    """A trial to work at; None: there is none now."""
    done: bool = False
    """None will come any more, either."""


@dataclass(frozen=True)
class Renewal:
    """What a worker learns when it renews its lease."""

    held: bool
    """The trial is still its own."""
    stop: bool
    """Somebody asked all workers to stop."""


def utc_now() -> datetime:
    """This machine's time, as databases keep it: without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


class Ledger:
    """The books of one study. From one thread at a time.

    Args:
        engine: Of the database.
        study_id: Optuna's number of the study.
        renew_sec: How often workers renew.
        grace_sec: How long a trial may go unrenewed.
    """

    def __init__(self, engine: sa.Engine, study_id: int, *, renew_sec: float, grace_sec: float) -> None:
        self._engine, self._study_id = engine, study_id
        self._renew_sec, self._grace_sec = renew_sec, grace_sec
        self._contact: tuple[datetime, datetime] | None = None

    def copy(self) -> "Ledger":
        """The same books for another thread."""
        return Ledger(self._engine, self._study_id, renew_sec=self._renew_sec, grace_sec=self._grace_sec)

    # For workers -----------------------------------------------------------------------------------------------------

    def take(
        self,
        worker: str,
        *,
        trials: int | None,
        hours: float | None,
        fixed: Callable[[int], Mapping[str, object] | None],
    ) -> Taken:
        """Give the worker a trial: one whose worker is gone, one that was handed back, or a new one.

        Args:
            worker: Its name, unlike any other's.
            trials: The most trials that the study may have, those taken up again not counted.
            hours: Since the first trial began, after which no new one does.
            fixed: From the place of a new trial among all new ones, from 0 on, to its values; None: the sampler's.
        """
        with self._locked() as session:
            now = self._now(session)
            own = self._running_of(session, worker)
            if own is not None:  # Given before, but the answer got lost.
                return Taken(own)
            if self._may_judge(now):
                self._requeue_stale(session, now)
            waiting = self._first_waiting(session)
            if waiting is not None:
                self._begin(session, waiting, worker, now)
                return Taken(waiting.trial_id)
            place = self._new_ones(session)
            if (trials is None or place < trials) and not self._is_late(session, hours, now):
                trial = self._add(session, TrialState.RUNNING, {}, [])
                values = fixed(place)
                if values is not None:
                    self._set(session, trial, "fixed_params", values)
                self._begin(session, trial, worker, now)
                return Taken(trial.trial_id)
            return Taken(None, done=self._count(session, TrialState.RUNNING) == 0)

    def renew(self, trial_id: int) -> Renewal:
        """Say that somebody works at a trial."""
        with self._locked() as session:
            now = self._now(session)
            trial = session.get_one(models.TrialModel, trial_id)
            if trial.state == TrialState.RUNNING:
                self._beat(session, trial_id, now)
            asked = self._study_attribute(session, STOP)
            return Renewal(held=bool(trial.state == TrialState.RUNNING), stop=bool(asked))

    def hand_back(self, trial_id: int) -> None:
        """Let others go on with a trial that was stopped in good order."""
        with self._locked() as session:
            trial = session.get_one(models.TrialModel, trial_id)
            if trial.state == TrialState.RUNNING:
                trial.state = TrialState.WAITING
                session.execute(sa.delete(models.TrialHeartbeatModel).filter_by(trial_id=trial_id))

    def left(self, *, trials: int | None, hours: float | None) -> bool:
        """Whether there is anything to do or under way."""
        with self._locked() as session:
            now = self._now(session)
            if self._count(session, TrialState.RUNNING) or self._count(session, TrialState.WAITING):
                return True
            more = trials is None or self._new_ones(session) < trials
            return more and not self._is_late(session, hours, now)

    def define(self, key: str, value: object) -> None:
        """Note something about the study for good, unless it is there."""
        with self._locked() as session:
            if self._study_attribute(session, key) is None:
                self._set_study(session, key, value)

    def ask_to_stop(self, wanted: bool) -> None:
        """Ask all workers to stop, or take that back."""
        with self._locked() as session:
            self._set_study(session, STOP, wanted)

    def take_turn(self, key: str, every_sec: float) -> bool:
        """Whether something that one machine is enough for is to be done now, and by the caller."""
        with self._locked() as session:
            now = self._now(session)
            last = self._study_attribute(session, key)
            if last is not None and abs(now - datetime.fromisoformat(str(last))) < timedelta(seconds=every_sec):
                return False
            self._set_study(session, key, now.isoformat())
            return True

    # Transactions ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[orm.Session]:
        with orm.Session(self._engine) as session, session.begin():
            # A write, since SQLite has no SELECT ... FOR UPDATE: others wait for the end of this transaction here.
            study = sa.update(models.StudyModel).where(models.StudyModel.study_id == self._study_id)
            session.execute(study.values(study_name=models.StudyModel.study_name))
            yield session

    def _now(self, session: orm.Session) -> datetime:
        """The database's time, UTC; contacts are noted."""
        if self._engine.dialect.name == "sqlite":  # Here, with the one machine's clock to the millisecond
            now = utc_now()
        else:
            now = session.execute(sa.text("SELECT clock_timestamp() AT TIME ZONE 'utc'")).scalar_one()
        first, last = self._contact or (now, now)
        unbroken = abs(now - last) <= timedelta(seconds=2 * self._renew_sec)  # Clocks are put back, too.
        self._contact = (first if unbroken else now, now)
        return now

    def _may_judge(self, now: datetime) -> bool:
        """After an outage, a night of sleep or a jump of the clock all workers look dead, until each can deny it.

        So only who has been in contact for two renewals tells others dead.
        """
        assert self._contact is not None
        return now - self._contact[0] >= timedelta(seconds=2 * self._renew_sec)

    # What is there ---------------------------------------------------------------------------------------------------

    def _trials(self, session: orm.Session, state: TrialState) -> list[Row]:
        query = session.query(models.TrialModel).filter_by(study_id=self._study_id, state=state)
        return list(query.order_by(models.TrialModel.number))

    def _count(self, session: orm.Session, state: TrialState) -> int:
        return int(session.query(models.TrialModel).filter_by(study_id=self._study_id, state=state).count())

    def _new_ones(self, session: orm.Session) -> int:
        """How many trials were begun, each counted once however often it was taken up."""
        everything = session.query(models.TrialModel).filter_by(study_id=self._study_id)
        retries = everything.join(models.TrialSystemAttributeModel).filter(
            models.TrialSystemAttributeModel.key == RETRY_OF
        )
        return int(everything.count() - retries.count())

    def _is_late(self, session: orm.Session, hours: float | None, now: datetime) -> bool:
        first = session.query(sa.func.min(models.TrialModel._datetime_start_utc)).filter_by(study_id=self._study_id)
        begun = first.scalar()
        return hours is not None and begun is not None and bool(now - begun > timedelta(hours=hours))

    def _first_waiting(self, session: orm.Session) -> Row | None:
        return next(iter(self._trials(session, TrialState.WAITING)), None)

    def _running_of(self, session: orm.Session, worker: str) -> int | None:
        for trial in self._trials(session, TrialState.RUNNING):
            if self._get(session, trial).get(WORKER) == worker:
                return int(trial.trial_id)
        return None

    def _study_attribute(self, session: orm.Session, key: str) -> object:
        found = session.query(models.StudyUserAttributeModel).filter_by(study_id=self._study_id, key=key).one_or_none()
        return None if found is None else json.loads(found.value_json)

    def _set_study(self, session: orm.Session, key: str, value: object) -> None:
        found = session.query(models.StudyUserAttributeModel).filter_by(study_id=self._study_id, key=key).one_or_none()
        if found is None:
            found = models.StudyUserAttributeModel(study_id=self._study_id, key=key)
            session.add(found)
        found.value_json = json.dumps(value)

    @staticmethod
    def _get(session: orm.Session, trial: Row) -> System:
        attributes = models.TrialSystemAttributeModel.where_trial_id(trial.trial_id, session)
        return {each.key: json.loads(each.value_json) for each in attributes}

    # What changes ----------------------------------------------------------------------------------------------------

    def _requeue_stale(self, session: orm.Session, now: datetime) -> None:
        """Fail the trials whose worker is gone, and queue each once more; its attributes say where its runs are."""
        for trial in self._trials(session, TrialState.RUNNING):
            beat = models.TrialHeartbeatModel.where_trial_id(trial.trial_id, session)
            # None: of a user of Optuna, not of ours. Of a time to come: from before the clock was put back, and whoever
            # lives has renewed it since.
            if beat is None or abs(now - beat.heartbeat) <= timedelta(seconds=self._grace_sec):
                continue
            trial.state, trial._datetime_complete_utc = TrialState.FAIL, now
            system = self._get(session, trial)
            history = [*system.get(_HISTORY, []), trial.number]
            if len(history) > _MOST_RETRIES:
                continue
            kept = {key: value for key, value in system.items() if key != WORKER}
            again = self._add(session, TrialState.WAITING, {**kept, RETRY_OF: history[0], _HISTORY: history}, [trial])
            assert again.number > trial.number

    def _add(self, session: orm.Session, state: TrialState, system: System, of: list[Row]) -> Row:
        """A new trial, with the parameters and user attributes of the one that it takes up, if any."""
        trial = models.TrialModel(study_id=self._study_id, state=state)
        trial.number = session.query(models.TrialModel).filter_by(study_id=self._study_id).count()
        session.add(trial)
        session.flush()
        for key, value in system.items():
            self._set(session, trial, key, value)
        for other in of:
            for each in models.TrialParamModel.where_trial_id(other.trial_id, session):
                copy = models.TrialParamModel(
                    trial_id=trial.trial_id,
                    param_name=each.param_name,
                    param_value=each.param_value,
                    distribution_json=each.distribution_json,
                )
                session.add(copy)
            for each in models.TrialUserAttributeModel.where_trial_id(other.trial_id, session):
                session.add(
                    models.TrialUserAttributeModel(trial_id=trial.trial_id, key=each.key, value_json=each.value_json)
                )
        return trial

    def _begin(self, session: orm.Session, trial: Row, worker: str, now: datetime) -> None:
        trial.state = TrialState.RUNNING
        if trial._datetime_start_utc is None:
            trial._datetime_start_utc = now
        self._set(session, trial, WORKER, worker)
        self._beat(session, trial.trial_id, now)

    @staticmethod
    def _set(session: orm.Session, trial: Row, key: str, value: object) -> None:
        found = models.TrialSystemAttributeModel.find_by_trial_and_key(trial, key, session)
        if found is None:
            found = models.TrialSystemAttributeModel(trial_id=trial.trial_id, key=key)
            session.add(found)
        found.value_json = json.dumps(value)

    @staticmethod
    def _beat(session: orm.Session, trial_id: int, now: datetime) -> None:
        beat = models.TrialHeartbeatModel.where_trial_id(trial_id, session)
        if beat is None:
            session.add(models.TrialHeartbeatModel(trial_id=trial_id, heartbeat=now))
        else:
            beat.heartbeat = now
