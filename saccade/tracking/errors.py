"""What MLflow's client, and what lies below it, raises: the many exceptions as four of ours."""

import contextlib
import sqlite3
import traceback
from collections.abc import Iterator

from saccade.provenance import redact

__all__ = ["DeniedError", "GoneError", "OutageError", "RefusedError", "TrackingError", "line", "translated"]


class TrackingError(Exception):
    """A request that MLflow did not fulfil; the message has one line and no password."""


class OutageError(TrackingError):
    """It could not be asked, or could not answer: later it may."""


class DeniedError(OutageError):
    """It does not let us in."""


class RefusedError(TrackingError):
    """It said no, and will say no again."""


class GoneError(TrackingError):
    """The run or experiment was deleted."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what MLflow and what lies below it raise into a `TrackingError`."""
    import requests
    import sqlalchemy
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise _from_mlflow(str(error), int(error.get_http_status_code())) from None  # type: ignore[no-untyped-call]
    except requests.RequestException as error:
        status = error.response.status_code if error.response is not None else 503
        raise _from_status(status, str(error)) from None
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise OutageError(line(str(error))) from None
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        # MLflow's client takes some answers apart without a look: what is no MLflow server, or a broken one.
        if not _raised_elsewhere(error):
            raise
        raise OutageError(line(f"an answer that MLflow's client cannot read ({error!r})")) from None


def _raised_elsewhere(error: Exception) -> bool:
    """Whether an exception comes from below a library, so that no mistake of ours passes for one of a server."""
    frames = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not str(frames[-1]).startswith("saccade.")


def _from_mlflow(message: str, status: int) -> TrackingError:
    if "must be in the 'active' state" in message or ("Run with id=" in message and "not found" in message):
        return GoneError(line(message))
    # A proxy's 404 while the server restarts is no answer of MLflow's.
    return _from_status(503 if status == 404 else status, message)


def _from_status(status: int, message: str) -> TrackingError:
    if status in (401, 403):
        return DeniedError(line(message))
    if 400 <= status < 500 and status not in (408, 425, 429):
        return RefusedError(line(message))
    return OutageError(line(message))


def line(message: str) -> str:
    """An exception's message in one line, without passwords."""
    text = redact(" ".join(message.split()))
    if "Caused by " in text:  # urllib3 nests what happened in two layers of how it was asked for.
        text = text.rpartition("Caused by ")[2].rstrip(") ")
    return text if len(text) <= 300 else text[:300] + "..."
