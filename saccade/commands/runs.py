"""`saccade runs`: what to do with runs that exist."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saccade.commands.completion import complete_run
from saccade.commands.options import Overrides, RunsRoot
from saccade.errors import RunError

__all__ = ["app"]

app = typer.Typer(
    help="Runs on this machine and on the tracking server. RUN is an id, the unique beginning of one, a folder, an "
    "MLflow id, or a name that only one run has.",
    no_args_is_help=True,
)

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run.", autocompletion=complete_run)]
Runs = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="The runs.", autocompletion=complete_run)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Status(StrEnum):
    """Of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"


class Grouping(StrEnum):
    """What runs of a group may differ in."""

    SEED = "seed"


@app.command("list")
def list_(
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this MLflow experiment.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only of this status.", case_sensitive=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    sort: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Highest last value first, as test/retrieval_top1.")
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only what has its folder here; asks no server.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Runs here and on the server, the newest first; exit code 1 when some could not be read."""
    from saccade.runs.find import all_runs
    from saccade.runs.listing import as_json as plain
    from saccade.runs.listing import list_text, sorted_by

    problems: list[str] = []
    wanted = status.name if status is not None else None
    limits = {} if sort else {"limit": limit}
    found = all_runs(runs_root, experiment=experiment, status=wanted, here=here, warn=problems.append, **limits)
    found = sorted_by(found, sort)[:limit] if sort else found
    if as_json:
        typer.echo(json.dumps([plain(record) for record in found], indent=1))
    else:
        typer.echo(list_text(found, sort) if found else f"no runs in {runs_root} that fit")
    for problem in problems:
        typer.echo(f"warning: {problem}", err=True)
    raise typer.Exit(1 if problems else 0)


@app.command()
def show(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all settings and metrics.")] = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """What a run is, what it found, how long it took, what is special about it and how to repeat it."""
    from saccade.runs.find import find_run
    from saccade.runs.listing import as_json as plain
    from saccade.runs.listing import show_text

    record = find_run(runs_root, run)
    typer.echo(json.dumps(plain(record, whole=True), indent=1) if as_json else show_text(record))


@app.command()
def compare(
    runs: Runs = None,
    group: Annotated[
        Grouping | None, typer.Option(help="Put together runs that are equal but for this: means, intervals, tests.")
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="All runs of this MLflow experiment, in place of RUN...")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Draw, and with --group test, this metric; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the curves go, a PNG.")] = Path("compare.png"),
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Settings and metrics that differ, side by side, and a picture of the curves; with --group seed, statistics.

    --group seed takes RUN..., or all finished runs of --experiment, or all finished runs there are.
    """
    from saccade.runs.compared import compare_groups, compare_runs, find_to_compare

    records = find_to_compare(runs_root, runs or [], experiment, everything=group is not None)
    compare_them = compare_groups if group is not None else compare_runs
    typer.echo(compare_them(records, runs_root, metric or [], out))


@app.command()
def verify(
    run: Run,
    overrides: Overrides = None,
    into: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the repeat is made; default: RUNS/verify.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the repeat, even when it is the same.")] = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Run it again, tracked nowhere, and say same (exit code 0), or where it first differs (exit code 1).

    --set is for what may change, such as data.root and engine.workers.
    """
    from saccade.runs.find import find_run
    from saccade.runs.repeat import prepare
    from saccade.runs.verify import verify as verify_run

    repeat = prepare(find_run(runs_root, run), runs_root, overrides or [])
    raise typer.Exit(verify_run(repeat, into or runs_root / "verify", keep=keep, say=typer.echo))


@app.command()
def rerun(run: Run, overrides: Overrides = None, yes: Yes = False, runs_root: RunsRoot = Path("runs")) -> None:
    """Start a new run of the same spec, tracked like any other; says first what differs now: code, data, packages."""
    from saccade.launch import start_again
    from saccade.runs.find import find_run
    from saccade.runs.repeat import changes_since, changes_text, prepare

    record = find_run(runs_root, run)
    repeat = prepare(record, runs_root, overrides or [])
    typer.echo(changes_text(repeat, changes_since(repeat)))
    if sys.stdin.isatty() and not yes and not typer.confirm("Start it?"):
        raise typer.Exit(1)
    raise typer.Exit(start_again(runs_root, repeat.spec, repeat.weights, record.id))


@app.command()
def sync(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="The run, of which the folder must be here; default: all.",
            autocompletion=complete_run,
        ),
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Ship to MLflow what it has not got yet, and put the status of runs right whose supervisor died."""
    from saccade.runs.find import find_folder
    from saccade.tracking.sync import sync_runs

    folder = find_folder(runs_root, run) if run is not None else None
    raise typer.Exit(sync_runs(runs_root, str(folder.path) if folder is not None else run))


@app.command()
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="The runs.", autocompletion=complete_run)],
    tracked: Annotated[bool, typer.Option("--tracked", help="Delete the MLflow run too.")] = False,
    yes: Yes = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Remove a run's folder, and with --tracked the MLflow run; asks first, and never removes one that is at work."""
    from saccade.runs.find import find_runs
    from saccade.runs.remove import plan_text, remove

    records = find_runs(runs_root, runs)
    for record in records:
        typer.echo(plan_text(record, tracked=tracked))
    if not yes and not sys.stdin.isatty():
        raise RunError("saccade runs rm: nobody to ask at this input; give --yes to remove without a question")
    if not yes and not typer.confirm("Remove?"):
        raise typer.Exit(1)
    for record in records:
        typer.echo(remove(record, tracked=tracked))


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder.")],
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Make a folder that reproduces a run elsewhere: spec, weights, code, packages, digests, scores, a README."""
    from saccade.runs.export import export as export_run
    from saccade.runs.find import find_run
    from saccade.runs.repeat import prepare

    record = find_run(runs_root, run)
    for line in export_run(record, out, prepare(record, runs_root).weights):
        typer.echo(f"warning: {line}", err=True)
    typer.echo(f"{out}: see {out / 'README.md'}")
