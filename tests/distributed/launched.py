"""`python -m saccade.engine.torchrun` on another program: runpy gives ARGUMENTS and PROGRAM as globals."""

from typing import Any

from saccade.engine import torchrun

if "PROGRAM" in globals():
    given: dict[str, Any] = globals()
    torchrun.end(torchrun.main(given["ARGUMENTS"], [given["PROGRAM"]]))
