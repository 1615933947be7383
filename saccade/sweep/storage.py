"""The study's database: opened, waited for while it is away, and the study in it."""

import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

from saccade.errors import RunError, SpecError
from saccade.provenance import redact
from saccade.rng import derive_seed
from saccade.spec_reader import expand_env
from saccade.sweep.definition import definition, difference
from saccade.sweep.ledger import Ledger
from saccade.sweep.spec import Sweep

__all__ = [
    "AwayError",
    "Opened",
    "build_pruner",
    "build_sampler",
    "check_definition",
    "open_study",
    "patiently",
    "reason",
    "storage_url",
]

DEFINITION = "saccade:definition"
"""User attribute of a study: what every machine has to agree on."""
STUDY_ID = "saccade:id"
"""User attribute of a study: its name on MLflow servers, where others of the same name may be."""
_PAUSE_SEC = (0.2, 5.0)
_TABLE_TRIES = 5
# The last is what Optuna makes of the first: for SQLite's sake it asks in smaller portions after an OperationalError.
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.PendingRollbackError)
_T = TypeVar("_T")


class AwayError(RunError):
    """The storage cannot be reached, and it was not waited for any longer."""


class Opened:
    """A study, with its books.

    Args:
        storage: Its database.
        study: As Optuna sees it.
        ledger: Who works at what.
    """

    def __init__(self, storage: RDBStorage, study: optuna.Study, ledger: Ledger) -> None:
        self.storage, self.study, self.ledger = storage, study, ledger

    def close(self) -> None:
        """Close the connections of this process."""
        self.storage.remove_session()
        self.storage.engine.dispose()


def storage_url(sweep: Sweep, runs_root: Path) -> str:
    """The address of a sweep's storage, as SQLAlchemy takes it.

    Raises:
        SpecError: An environment variable in it is not set.
    """
    url = expand_env(sweep.file.storage, "storage")
    if not url:
        return f"sqlite:///{runs_root.absolute() / 'sweeps.db'}"
    if not url.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///")):
        raise SpecError(
            f"storage: cannot be {redact(url)}; give postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///"
        )
    # The driver that comes with saccade[server], whatever the version of SQLAlchemy takes by itself.
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def open_study(sweep: Sweep, runs_root: Path, *, create: bool = True) -> Opened:
    """Open the study of a sweep, or begin it.

    Raises:
        AwayError: Its database cannot be reached.
        SpecError: The study was begun by another sweep spec of the same name, or there is none.
    """
    url = storage_url(sweep, runs_root)
    storage = _connect(url, runs_root, create)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [each.direction for each in sweep.file.objective]
    name = sweep.file.name
    try:
        if create:
            study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        else:
            study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        raise SpecError(f"there is no study '{name}' at {redact(url)} yet; begin it with saccade sweep") from None
    lease = sweep.file.lease
    ledger = Ledger(storage.engine, study._study_id, renew_sec=lease.renew_sec, grace_sec=lease.grace_sec)
    try:
        ledger.define(DEFINITION, definition(sweep))
        ledger.define(STUDY_ID, secrets.token_hex(8))
        check_definition(sweep, study)
    except (ValueError, RecursionError) as error:  # of the JSON that the database holds
        raise SpecError(
            f"the study '{name}' at {redact(url)} is damaged ({str(error)[:100]}); restore its database from a backup, "
            "or give this sweep another name"
        ) from None
    return Opened(storage, study, ledger)


def check_definition(sweep: Sweep, study: optuna.Study) -> None:
    """Refuse to go on with a study that was begun by something else than the sweep and its files as they are now.

    Raises:
        SpecError: Says what differs.
    """
    before = study.user_attrs[DEFINITION]
    changed = difference(before, definition(sweep)) if isinstance(before, dict) else "something that is no sweep"
    if changed:
        raise SpecError(
            f"{sweep.path}: the study '{sweep.file.name}' was begun with {changed}; restore that, or give this sweep "
            "another name"
        )


def _connect(url: str, runs_root: Path, create: bool) -> RDBStorage:
    if url.startswith("sqlite:///"):
        file = Path(url.removeprefix("sqlite:///")).absolute()
        if not create and not file.exists():
            raise SpecError(f"there is no study yet: no {file}; begin it with saccade sweep")
        file.parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": 60}}
    else:
        # A restarted server has cut the connections that stand in the pool.
        options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}  # type: ignore[dict-item]
    for again in range(_TABLE_TRIES, -1, -1):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except ImportError:
            raise SpecError(f"{redact(url)}: needs the driver psycopg; pip install 'saccade[server]'") from None
        except (sa.exc.SQLAlchemyError, StorageInternalError) as error:
            # Two that make the tables at once get in each other's way, once.
            if not again:
                raise AwayError(f"the storage {redact(url)} cannot be opened: {reason(error)}") from None
            time.sleep(_PAUSE_SEC[0])
    raise AssertionError


def reason(error: Exception) -> str:
    """Why a storage did not answer, in one line without secrets: what its database said, not what it was asked."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    if isinstance(cause, sa.exc.PendingRollbackError):
        cause = cause.__context__ or cause
    original = getattr(cause, "orig", None) or cause
    return redact(" ".join(str(original).split()))[:300]


def patiently(act: Callable[[], _T], stop: threading.Event, say: Callable[[str], None]) -> _T:
    """Do something with the storage, again and again while that is away.

    Args:
        act: May be done twice when the answer of the first time got lost.
        stop: Waiting ends when it is set.
        say: Takes a line for the user.

    Raises:
        AwayError: It is away and `stop` is set.
    """
    pause, told = _PAUSE_SEC[0], False
    while True:
        with if_there() as answer:
            result = act()
        if not answer.trouble:
            if told:
                say("sweep: the storage is back")
            return result
        if stop.is_set():
            raise AwayError(f"the storage is away: {answer.trouble}")
        if pause > 1 and not told:
            say(f"sweep: the storage is away ({answer.trouble}); nothing is lost: waiting for it")
            told = True
        stop.wait(pause)
        pause = min(2 * pause, _PAUSE_SEC[1])


@dataclass
class Answer:
    """Whether the storage has answered."""

    trouble: str = ""
    """Why not, in one line; empty when it has."""


@contextmanager
def if_there() -> Iterator[Answer]:
    """Do something with the storage, and leave it at that when it is away or too busy."""
    answer = Answer()
    try:
        yield answer
    except _AWAY as error:
        answer.trouble = reason(error)
    except StorageInternalError as error:
        if not isinstance(error.__cause__, _AWAY):
            raise
        answer.trouble = reason(error)


@contextmanager
def _experimental() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def build_sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """A sampler for one trial: equal for equal numbers and histories, and different in every trial.

    Workers that shared a seed would choose the same points (11 distinct ones of 27, measured).
    """
    seed = derive_seed(sweep.file.seed, "sweep sampler", number) % 2**32
    with _experimental():
        match sweep.file.sampler:
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "qmc":  # The place in its one sequence is kept in the storage.
                return optuna.samplers.QMCSampler(seed=sweep.file.seed, warn_asynchronous_seeding=False)
            case _:  # A grid's points are given to its trials.
                return optuna.samplers.RandomSampler(seed=seed)


def build_pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    """The pruner, whose steps are epochs of pre-training."""
    settings = sweep.file.pruner
    with _experimental():
        match settings.name:
            case "median":
                return optuna.pruners.MedianPruner(
                    n_startup_trials=settings.startup_trials, n_warmup_steps=settings.min_epochs
                )
            case "asha":
                return optuna.pruners.SuccessiveHalvingPruner(
                    min_resource=settings.min_epochs, reduction_factor=settings.reduction_factor
                )
            case "hyperband":
                return optuna.pruners.HyperbandPruner(
                    min_resource=settings.min_epochs,
                    max_resource=sweep.start.pretrain.epochs,
                    reduction_factor=settings.reduction_factor,
                )
            case _:
                return optuna.pruners.NopPruner()
