"""What makes a study the one that it is: all that its machines, and its later continuations, have to agree on."""

import hashlib
import json
from typing import Any

from saccade.errors import shorten
from saccade.spec import Spec
from saccade.spec_reader import flatten
from saccade.sweep.spec import BASE, Sweep

__all__ = ["definition", "difference"]

_OF_MACHINE = ("name", "data.root", "engine.", "tracking.", "checkpoint.")
"""Settings that may differ from machine to machine, as in `--set` of a sweep."""
_FREE = {"name", "experiment", "budget", "storage", "lease", "confirm_seeds"}
"""Keys of a sweep that may change while its study goes on, or that are in the definition in another form."""
_SHOWN = 300
"""Letters of a value in a message, which holds two."""


def definition(sweep: Sweep) -> dict[str, Any]:
    """The settings by dotted path, as JSON has them."""
    found: dict[str, Any] = {
        key: value for key, value in sweep.file.model_dump(mode="json").items() if key not in _FREE
    }
    for dimension in sweep.dimensions:
        found[f"search.{dimension.path}"] = {
            "choices": list(dimension.choices),
            "range": [dimension.low, dimension.high, dimension.step, dimension.log],
            "when": dict(dimension.when),
        }
        if dimension.path == BASE:
            for choice in dimension.choices:
                found[f"the spec {choice}"] = _digest(sweep.trial_spec({BASE: choice}))
    found |= {f"experiment.{path}": value for path, value in _shared(sweep.start).items()}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first thing in which two definitions differ, in words; empty when they are equal."""
    for key in [*before, *(key for key in after if key not in before)]:
        if key not in before:
            return f"no {shorten(key)}"
        if key not in after:
            return f"{shorten(key)}, which is not there any more"
        if before[key] != after[key]:
            if key.startswith("the spec "):
                return f"other settings in {shorten(key, _SHOWN)}"
            begun, now = (shorten(json.dumps(each[key]), _SHOWN) for each in (before, after))
            return f"{key} = {begun}, and it is {now} now"
    return ""


def _shared(spec: Spec) -> dict[str, Any]:
    return {path: value for path, value in flatten(spec).items() if not path.startswith(_OF_MACHINE)}


def _digest(spec: Spec) -> str:
    return hashlib.sha256(json.dumps(_shared(spec), sort_keys=True).encode()).hexdigest()[:12]
