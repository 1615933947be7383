"""`saccade runs`: what to do with runs that exist."""

from pathlib import Path
from typing import Annotated

import typer

from saccade.commands.options import RunsRoot

__all__ = ["app"]

app = typer.Typer(help="Runs that are on this machine.", no_args_is_help=True)


@app.command()
def sync(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's id, folder or MLflow id; default: every run.")
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Ship to MLflow what it has not got yet, and put the status of runs right whose supervisor died."""
    from saccade.tracking.sync import sync_runs

    raise typer.Exit(sync_runs(runs_root, run))
