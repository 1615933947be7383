"""The `saccade` command. Subcommands are thin; what is heavy is imported inside them, so `--help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from saccade.errors import SaccadeError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Saccade-guided video self-supervision: a YAML spec goes in, a tracked, repeatable, comparable run comes out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Datasets: make a toy one, prepare your own videos.", no_args_is_help=True)
runs = typer.Typer(help="Runs that are on this machine.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(runs, name="runs")

SpecPath = Annotated[Path, typer.Argument(help="Experiment spec, a YAML file.", metavar="SPEC")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a setting, as pretrain.learning_rate=0.05; repeatable."),
]
RunsRoot = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Folder that holds the runs.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Parallel workers; default: one per core.")]


@app.command()
def run(
    spec: Annotated[Path | None, typer.Argument(help="Experiment spec, a YAML file.", metavar="SPEC")] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run: its id, folder or MLflow id.")
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Train and evaluate as the spec says, tracked in MLflow; Ctrl-C stops in good order, --resume goes on."""
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
def schema(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write it; - for standard output.")] = Path("-"),
) -> None:
    """Write the JSON Schema of specs, for completion and checks in editors."""
    from saccade.spec_reader import json_schema

    if str(out) == "-":
        typer.echo(json_schema(), nl=False)
    else:
        _write(out, json_schema())


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


@data.command()
def toy(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder that holds the datasets; the set goes to ROOT/toy.")
    ],
    seed: Annotated[int, typer.Option(min=0)] = 632,
    workers: Workers = None,
) -> None:
    """Make a small set of generated videos whose classes differ by motion only."""
    from saccade.datasets.toy import write_toy

    typer.echo(str(write_toy(root, seed=seed, workers=workers)))


@data.command()
def prepare(
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="Folder with a folder of videos for each class.")],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The dataset's folder, ROOT/NAME: data.root and data.dataset of a spec."),
    ],
    splits: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Official split files (UCF101 or HMDB51 style).")
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Without split files: test videos by name, as 'lena_*'; repeatable."),
    ] = None,
    short_side: Annotated[int, typer.Option(min=16, help="Short side of the frames, px.")] = 256,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 95,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave broken videos out, and list them.")] = False,
    workers: Workers = None,
) -> None:
    """Turn a folder of videos into frames and split lists, in parallel; run it again to go on where it stopped."""
    from saccade.datasets.prepare import prepare as prepare_videos

    report = prepare_videos(
        videos,
        out,
        splits=splits,
        test_pattern=test or [],
        short_side=short_side,
        quality=quality,
        workers=workers,
        on_error="skip" if skip_broken else "stop",
    )
    typer.echo(str(report))


@runs.command()
def sync(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's id, folder or MLflow id; default: every run.")
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Ship to MLflow what it has not got yet, and put the status of runs right whose supervisor died."""
    from saccade.tracking.sync import sync_runs

    raise typer.Exit(sync_runs(runs_root, run))


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
