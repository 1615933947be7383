"""The `saccade` command. Subcommands are thin; what is heavy is imported inside them, so `--help` answers at once."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from saccade import __version__
from saccade.errors import SaccadeError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Saccade-guided video self-supervision: a YAML spec goes in, a tracked, repeatable, comparable run comes out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(
    help="Datasets: make a toy one, prepare official ones or your own videos, check them.", no_args_is_help=True
)
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
DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DATASET_FOLDER", help="The dataset's folder, ROOT/NAME, such as data/UCF101.")
]
Grid = Annotated[int, typer.Option(min=1, help="Cells along each side of the scanpaths' grid.")]


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"saccade {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Say which version this is.")
    ] = False,
) -> None:
    """Options of the program itself; its help stands above."""


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
def analyze(
    spec: SpecPath,
    overrides: Overrides = None,
    videos: Annotated[
        int | None, typer.Option(min=1, help="Number of training videos; default: as many as the dataset on disk has.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(min=1e-6, help="TFLOP a second to reckon with; default: this machine's, measured.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes, FLOP and seconds.")] = False,
) -> None:
    """Say what a spec costs before it is run: parameters, FLOP, memory and time of a training step."""
    from saccade.analysis.costs import analyse
    from saccade.analysis.table import as_text
    from saccade.spec_reader import read_spec

    analysis = analyse(read_spec(spec, overrides or []), videos=videos, tflops=tflops)
    typer.echo(json.dumps(asdict(analysis), indent=1) if as_json else as_text(analysis))


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
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="[ucf101|hmdb51] SOURCE...",
            help="Folders and archives (rar, zip, zip.001) as downloaded, in any order: videos in class folders, or "
            "frames (jpegs_256), and split lists and scanpaths (scan_idx_7) if they are among them. After the word "
            "ucf101 or hmdb51, split lists other than the official ones are refused, and missing videos are told.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The dataset's folder, ROOT/NAME: data.root and data.dataset of a spec."),
    ],
    splits: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="Folder or archive of official split lists, if they are not among SOURCE."),
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
    """Turn videos, or what the sites of UCF101 and HMDB51 ship, into frames and split lists, in parallel.

    Run it again to go on where it stopped. Frames and scanpaths out of archives are copied as they are.
    """
    from saccade.datasets.official import OFFICIAL
    from saccade.datasets.prepare import prepare as prepare_videos

    official = OFFICIAL.get(str(sources[0]))
    report = prepare_videos(
        sources[1:] if official else sources,
        out,
        official=official,
        splits=splits,
        test_pattern=test or [],
        short_side=short_side,
        quality=quality,
        workers=workers,
        on_error="skip" if skip_broken else "stop",
    )
    typer.echo(str(report))


@data.command()
def check(
    folder: DatasetFolder,
    split: Annotated[
        int | None, typer.Option(min=1, help="Only this official split; default: all that are there.")
    ] = None,
    only_present: Annotated[
        bool, typer.Option("--only-present", help="Listed videos may be absent, as with data.only_present: true.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every frame, not only the first and last one of each video.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Look for all that is wrong with a dataset and print its digests, which a run logs; exit code 1 for findings."""
    from saccade.datasets.check import check_dataset

    report = check_dataset(folder, split=split, only_present=only_present, deep=deep, workers=workers)
    typer.echo(str(report))
    raise typer.Exit(1 if report.findings else 0)


@data.command()
def scanpaths(
    dataset: DatasetFolder,
    grid: Grid = 7,
    seed: Annotated[int, typer.Option(min=0)] = 632,
    min_frames: Annotated[int, typer.Option(min=1, help="Shorter stays of the gaze in a cell are no fixations.")] = 3,
    fps: Annotated[float, typer.Option(min=1, help="Frames in a second of the videos.")] = 25.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto for cuda where there is one.")] = "auto",
    workers: Workers = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace rows that were made with other settings, or by others.")
    ] = False,
) -> None:
    """Compute where the eye rests in every video (G-Eymol); run it again to go on where it stopped."""
    from saccade.datasets.scanpaths import compute_scanpaths

    report = compute_scanpaths(
        dataset,
        grid_num=grid,
        seed=seed,
        min_frames=min_frames,
        fps=fps,
        device=device,
        workers=workers,
        overwrite=overwrite,
    )
    typer.echo(str(report))


@data.command()
def show(
    dataset: DatasetFolder,
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Name of a video in it.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A sheet (.png) or an animation (.gif); default: VIDEO.png.")
    ] = None,
    grid: Grid = 7,
    margin_h: Annotated[int, typer.Option(min=0, help="As saccade.margin_h of a spec.")] = 12,
    gaze: Annotated[bool, typer.Option("--gaze", help="Compute the gaze anew and draw its way.")] = False,
) -> None:
    """Draw a video's scanpath: the fixations in order, their cells and masks."""
    from saccade.figures.scanpaths import show_scanpath

    path = out or Path(f"{video}.png")
    show_scanpath(dataset, video, path, grid_num=grid, margin_h=margin_h, gaze=gaze)
    typer.echo(str(path))


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
