"""The `saccade` command. Subcommands are thin; what is heavy is imported inside them, so `--help` answers at once."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from saccade import __version__
from saccade.commands import bench, data, runs, sweep
from saccade.commands.completion import complete_run, complete_spec
from saccade.commands.doctor import doctor
from saccade.commands.options import Overrides, RunsRoot, SpecPath
from saccade.commands.plan import plan
from saccade.commands.server import server
from saccade.errors import SaccadeError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Saccade-guided video self-supervision: a YAML spec goes in, a tracked, repeatable, comparable run comes out.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(sweep.app, name="sweep")
app.add_typer(bench.app, name="bench")
app.command()(server)
app.command()(plan)
app.command()(doctor)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"saccade {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Say which version this is.")
    ] = False,
) -> None:
    """Options of the program itself; its help stands above. Alone it says what to do next."""
    if context.invoked_subcommand is None:
        from saccade.commands.next_steps import next_steps

        typer.echo(next_steps())


@app.command()
def run(
    spec: Annotated[
        Path | None,
        typer.Argument(help="Experiment spec, a YAML file.", metavar="SPEC", autocompletion=complete_spec),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run: its id, folder or MLflow id; if it is not here, from its server.",
            autocompletion=complete_run,
        ),
    ] = None,
    slurm: Annotated[
        str | None,
        typer.Option(metavar="KEY=VALUE,...", help="Run as a SLURM job: partition=gpu,gpus_per_node=1,time=600 (min)."),
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Train and evaluate as the spec says, tracked in MLflow; Ctrl-C stops in good order, --resume goes on."""
    if slurm is not None:
        from saccade.slurm import submit_run

        typer.echo(submit_run(spec, overrides or [], resume, slurm, runs_root))
        raise typer.Exit
    from saccade.launch import resume_run, start_run

    if resume is not None:
        raise typer.Exit(resume_run(runs_root, resume, spec, overrides or []))
    if spec is None:
        raise SaccadeError("saccade run: give an experiment spec, such as experiments/quickstart.yaml, or --resume RUN")
    raise typer.Exit(start_run(runs_root, spec, overrides or []))


@app.command()
def validate(spec: SpecPath, overrides: Overrides = None) -> None:
    """Check a spec and print it with every default filled in."""
    from saccade.spec_reader import dump_spec, read_spec

    typer.echo(dump_spec(read_spec(spec, overrides or [])), nl=False)


@app.command()
def analyze(
    spec: SpecPath,
    overrides: Overrides = None,
    videos: Annotated[
        int | None, typer.Option(min=1, help="Number of training videos; default: as many as the dataset on disk has.")
    ] = None,
    tflops: Annotated[float | None, typer.Option(min=1e-6, help="TFLOP a second, to reckon time with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes, FLOP and seconds.")] = False,
) -> None:
    """Count what a training step costs, wherever it is run: parameters, FLOP, memory. `plan` measures it here."""
    from saccade.analysis.costs import analyse
    from saccade.analysis.table import as_text
    from saccade.spec_reader import read_spec

    analysis = analyse(read_spec(spec, overrides or []), videos=videos, tflops=tflops)
    typer.echo(json.dumps(asdict(analysis), indent=1) if as_json else as_text(analysis))


@app.command()
def schema(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write it; - for standard output.")] = Path("-"),
) -> None:
    """Write the JSON Schema of specs, for completion and checks in editors; to a file .md, every setting in words."""
    from saccade.spec_reader import json_schema
    from saccade.spec_reference import reference

    text = reference() if out.suffix == ".md" else json_schema()
    if str(out) == "-":
        typer.echo(text, nl=False)
    else:
        _write(out, text)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Open the MLflow UI on this machine's runs; where $MLFLOW_TRACKING_URI names a server, say where its UI is."""
    from saccade.tracking.sync import reconcile
    from saccade.tracking.ui import serve_ui

    reconcile(runs_root)
    raise typer.Exit(serve_ui(runs_root, port=port))


@app.command("import-weights")
def import_weights(
    published: Annotated[Path, typer.Argument(metavar="PUBLISHED", help="A checkpoint file of the published release.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, such as r3d.safetensors.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT when it exists.")] = False,
) -> None:
    """Convert published weights to a file for `saccade.load_encoder`, executing nothing of theirs."""
    from saccade.models.published import import_published

    typer.echo(str(import_published(published, out, overwrite=overwrite)))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SaccadeError(f"{path}: cannot be written ({error.strerror}); give another file") from None


def main() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False, prog_name="saccade")
    except SaccadeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.TyperException as error:
        print(_usage_error(error), file=sys.stderr)
        sys.exit(2)
    sys.exit(code)


def _usage_error(error: typer.TyperException) -> str:
    """Typer's account of a wrong command line, in one line; the help where it stands for a missing command."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if message.startswith("Usage:"):
        return message
    command = context.command_path if context is not None else "saccade"
    return f"error: {command}: {' '.join(message.split()).rstrip('.')} (see {command} --help)"


if __name__ == "__main__":
    main()
