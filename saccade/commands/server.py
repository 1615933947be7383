"""`saccade server`: an MLflow server for several people, without Docker."""

from pathlib import Path
from typing import Annotated

import typer

from saccade.commands.options import RunsRoot

__all__ = ["server"]


def server(
    database: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_BACKEND_STORE_URI",
            metavar="URL",
            help="postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:////FILE; default: mlflow.db in the runs' folder. "
            "In the variable a password is not for all on this machine to see; nor is it in $PGPASSWORD.",
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="A folder or s3://BUCKET/PREFIX; default: mlartifacts in the runs' folder."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name that people call it by, as mlflow.lab.example; repeatable."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
    auth: Annotated[
        Path | None,
        typer.Option(metavar="INI", help="Ask for passwords, as this file says; mlflow/auth.ini is an example."),
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Serve MLflow to others until Ctrl-C, as docker/compose.yaml does in containers; see docs/server.md."""
    from saccade.tracking.address import local_uri
    from saccade.tracking.server import ServerSettings, host_names, serve
    from saccade.tracking.server_checks import artifacts_uri, database_uri

    settings = ServerSettings(
        database=database_uri(database or local_uri(runs_root)),
        artifacts=artifacts_uri(artifacts or str(runs_root / "mlartifacts")),
        host=host,
        port=port,
        workers=workers,
        names=host_names(host, allowed_hosts or []),
        auth=auth,
    )
    raise typer.Exit(serve(settings, lambda address: typer.echo(settings.summary(address))))
