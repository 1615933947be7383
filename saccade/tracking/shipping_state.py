"""shipping.json of a run: what of it is on the tracking server. Written by whoever holds the run's supervisor lock."""

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from saccade import atomic
from saccade.errors import RunError
from saccade.run_dir import SHIPPING_FILE
from saccade.strict_json import parse_object

__all__ = ["LetGoError", "Outcome", "ShippingState", "attempted_offset"]


class LetGoError(Exception):
    """The run is no longer ours."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    status: str
    """FINISHED, FAILED or KILLED."""
    end_ms: int
    """When, unix ms."""
    tags: dict[str, str]
    """Why: exit code, signal, last words."""


@dataclass(kw_only=True)
class ShippingState:
    """What of a run is on the tracking server, and what became of the run."""

    folder: Path
    """The run's folder; not in the file."""
    tracking_uri: str = ""
    """The server or database, without credentials."""
    experiment: str = ""
    experiment_id: str = ""
    mlflow_run_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    """What whoever started the run wants it to be found by (a sweep's trial, say), beside what the run says itself."""
    offset: int = 0
    """Bytes of the journal that are done with: on the server, refused by it, or in `pending`."""
    attempted: int = 0
    """Bytes of the journal that may be on the server; on disk before anything is sent."""
    pending: list[str] = field(default_factory=list)
    """Files and folders still to be uploaded, relative to the run's folder."""
    uploaded: dict[str, str] = field(default_factory=dict)
    """Files on the server: relative path -> sha256."""
    refused: dict[str, str] = field(default_factory=dict)
    """What the server does not take, and why: `metric <key>`, `tag <key>` or `file <path>`."""
    system_offset: int = 0
    """Bytes of system.jsonl that are on the server."""
    model_id: str = ""
    package: bool = True
    """The encoder of the finished run is to be tracked as an MLflow model too."""
    registered: str = ""
    """Id of the model that was made a version of a registered one."""
    goes_on: bool = True
    """Somebody may want to go on with the run: false once it was given up (`supervise(stop=...)`)."""
    outcome: Outcome | None = None
    """None while the run goes on, or when nobody saw its end."""
    status_final: bool = False
    """The server shows the outcome."""
    complete: bool = False
    """Nothing is left to be sent."""

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read a run's shipping.json; None when it has none.

        Raises:
            RunError: It is damaged.
        """
        path = folder / SHIPPING_FILE
        try:
            content = _checked(parse_object(path.read_bytes(), _KINDS))
            outcome = content.pop("outcome")
            return cls(
                folder=folder,
                outcome=Outcome(**outcome) if outcome else None,
                **{key: value for key, value in content.items() if key in _KINDS},
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path}: cannot be read ({str(error)[:200]}); restore it, or remove it to track in a new run"
            ) from None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """The run is no longer ours, though a request may still be under way: nothing more is written."""
        with self._lock:
            self._closed = True

    def save(self) -> None:
        """Write shipping.json; from any thread.

        Raises:
            LetGoError: After `close`. What this was to be written down for must not be sent: another process may be at
                work on the run, and send the same.
        """
        with self._lock:
            if self._closed:
                raise LetGoError
            content = asdict(self)
            del content["folder"]
            atomic.write_text(self.folder / SHIPPING_FILE, json.dumps(content, indent=1) + "\n")


def attempted_offset(folder: str | Path) -> int:
    """Bytes of a run's journal that may have reached the server: what a resume has to keep (see `saccade.journal`)."""
    state = ShippingState.load(Path(folder))
    return state.attempted if state is not None else 0


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("tracking_uri", "experiment", "experiment_id", "mlflow_run_id", "model_id", "registered"), str),
    **dict.fromkeys(("offset", "attempted", "system_offset"), int),
    **dict.fromkeys(("tags", "uploaded", "refused"), dict),
    **dict.fromkeys(("package", "goes_on", "status_final", "complete"), bool),
    **{"pending": list, "outcome": dict | None},
}


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Refuse what the types alone do not tell.

    Raises:
        ValueError: Says what is wrong.
    """
    if "outcome" not in content:
        raise ValueError("it holds no outcome")
    outcome = content["outcome"] or {"status": "FINISHED", "end_ms": 0, "tags": {}}
    if outcome.keys() != {"status", "end_ms", "tags"} or not isinstance(outcome["tags"], dict):
        raise ValueError("outcome has to hold status, end_ms and tags")
    texts = [*content.get("pending", []), outcome["status"]]
    for key in ("tags", "uploaded", "refused"):
        texts += [*content.get(key, {}), *content.get(key, {}).values()]
    texts += [*outcome["tags"], *outcome["tags"].values()]
    if not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise ValueError("something in it is no text")
    numbers = [content.get(key, 0) for key in ("offset", "attempted", "system_offset")] + [outcome["end_ms"]]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("an offset or time in it is out of range")
    if outcome["status"] not in ("FINISHED", "FAILED", "KILLED"):
        raise ValueError(f"status is {outcome['status'][:60]!r}")
    return content
