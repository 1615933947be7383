"""`saccade plan`: what a run will take, measured before it is paid for."""

import json
from pathlib import Path
from typing import Annotated

import typer

from saccade.commands.options import Overrides, RunsRoot, SpecPath

__all__ = ["plan"]


def plan(
    spec: SpecPath,
    overrides: Overrides = None,
    runs_root: RunsRoot = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes and seconds.")] = False,
) -> None:
    """Measure three training steps, a clustering and an evaluation, and say what the whole run will take."""
    from saccade.plan.driver import chain_text, plan_chain

    plans = plan_chain(spec, overrides or [], runs_root)
    if as_json:
        typer.echo(json.dumps([each["plan"] for each in plans], indent=1))
    else:
        typer.echo(chain_text(plans))
