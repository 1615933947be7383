"""`saccade sweep`: a hyperparameter search from one YAML file, on one core or many machines."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from saccade.commands.completion import complete_sweep
from saccade.commands.options import Overrides, RunsRoot

__all__ = ["app"]

_START = "start"


class _StartByDefault(TyperGroup):
    """`saccade sweep SPEC` is `saccade sweep start SPEC`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args.insert(0, _START)
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_StartByDefault,
    help="Search for good settings: saccade sweep SPEC [--workers N]. The same command, here or on another machine, "
    "joins the study or goes on with it.",
    no_args_is_help=True,
)

SweepPath = Annotated[
    Path,
    typer.Argument(
        metavar="SPEC",
        help="Sweep spec, a YAML file such as sweeps/margin_h.yaml.",
        autocompletion=complete_sweep,
    ),
]


@app.command(_START)
def start(
    spec: SweepPath,
    workers: Annotated[int, typer.Option(min=1, help="Trials that run here at a time.")] = 1,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="0,1,2",
            help="A worker for each of these GPUs, or groups of them (0+1,2+3) for engine.processes, in place of "
            "--workers.",
        ),
    ] = None,
    slurm: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="Submit --workers jobs to SLURM, each a worker: partition=gpu,gpus_per_node=1,time=600 (minutes).",
        ),
    ] = None,
    overrides: Overrides = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Begin, join or go on with a study; Ctrl-C stops in good order."""
    if slurm is not None:
        from saccade.slurm import describe, submit
        from saccade.sweep.reader import check_shareable

        check_shareable(spec, overrides or [], slurm)
        words = ["sweep", _START, str(spec), "--runs", str(runs_root)]
        words += [word for each in overrides or [] for word in ("--set", each)]
        jobs = submit(words, slurm, runs_root=runs_root, jobs=workers, name=f"sweep-{spec.stem}")
        typer.echo(describe(jobs, runs_root))
        raise typer.Exit
    from saccade.sweep.driver import drive

    chosen = devices.split(",") if devices else []
    raise typer.Exit(drive(spec, overrides or [], runs_root, workers=workers, devices=chosen))


@app.command()
def status(spec: SweepPath, runs_root: RunsRoot = Path("runs")) -> None:
    """Show the trials of a study."""
    from saccade.sweep.look import show_status

    typer.echo(show_status(spec, runs_root), nl=False)


@app.command()
def best(
    spec: SweepPath,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there; default: print it.")] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Give the best trial's spec, ready for saccade run."""
    from saccade.sweep.look import best_spec

    text = best_spec(spec, runs_root)
    if out is None:
        typer.echo(text, nl=False)
    else:
        from saccade import atomic

        atomic.write_text(out, text)
        typer.echo(str(out))


@app.command()
def export(
    spec: SweepPath,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the table, summary and pictures go.")],
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Write all trials as CSV, the summary, the pictures and the best specs."""
    from saccade.sweep.look import export_study

    for path in export_study(spec, runs_root, out):
        typer.echo(str(path))


@app.command()
def stop(spec: SweepPath, runs_root: RunsRoot = Path("runs")) -> None:
    """Ask all workers of a study, on every machine, to stop; saccade sweep SPEC goes on."""
    from saccade.sweep.look import stop_study

    typer.echo(stop_study(spec, runs_root))


@app.command()
def check(spec: SweepPath) -> None:
    """Check a sweep spec and say what it searches; needs no data and no storage."""
    from saccade.sweep.look import describe

    typer.echo(describe(spec), nl=False)
