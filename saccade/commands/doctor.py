"""`saccade doctor`: what is right and wrong with this installation, and the remedy for each problem."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from saccade.commands.options import RunsRoot

__all__ = ["doctor"]


def doctor(
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Server to ask; default: $MLFLOW_TRACKING_URI, else the local file."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of a dataset, or of several, to look at too.")
    ] = None,
    runs_root: RunsRoot = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for what is wrong with this machine, its packages and the tracking server; exit code 1 if anything is."""
    from saccade.doctor.checks import BAD
    from saccade.doctor.driver import as_text, examine

    checks = examine(runs_root, tracking_uri, data)
    typer.echo(json.dumps([asdict(check) for check in checks], indent=1) if as_json else as_text(checks))
    raise typer.Exit(1 if any(check.state == BAD for check in checks) else 0)
