"""`saccade data`: make a toy dataset, prepare official ones or your own videos, pack, check and draw them."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from saccade.errors import DataError

__all__ = ["app"]

app = typer.Typer(
    help="Datasets: make a toy one, prepare official ones or your own videos, check them.", no_args_is_help=True
)

Workers = Annotated[int | None, typer.Option(min=1, help="Parallel workers; default: one per core.")]
DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DATASET_FOLDER", help="The dataset's folder, ROOT/NAME, such as data/UCF101.")
]
Grid = Annotated[int, typer.Option(min=1, help="Cells along each side of the scanpaths' grid.")]


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def pack(
    dataset: DatasetFolder,
    kind: Annotated[
        Literal["jpeg", "decoded"],
        typer.Option("--as", help="jpeg: the files as they are. decoded: pixels, ten times the disk and no decoding."),
    ] = "jpeg",
    short_side: Annotated[
        int | None, typer.Option(min=16, help="Make frames smaller, to this short side, px: changes what is seen.")
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Of JPEG files written anew, with --as jpeg and --short-side.")
    ] = 95,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to spend the disk space.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store of other frames.")] = False,
    workers: Workers = None,
) -> None:
    """Put all frames into one file that loads faster (data.store of a spec); says first what it takes on disk.

    Run it again to go on where it stopped.
    """
    from saccade.datasets.packed import Settings
    from saccade.datasets.packed_plan import plan_pack
    from saccade.datasets.packed_write import pack as pack_frames

    again = kind == "jpeg" and short_side is not None
    plan = plan_pack(dataset, Settings(kind, short_side, quality if again else None))
    typer.echo(str(plan))
    _agree(yes)
    typer.echo(str(pack_frames(plan, workers=workers, overwrite=overwrite)))


def _agree(yes: bool) -> None:
    """Ask a person whether to go on; without one, it must have been said before."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise DataError("nobody is there to ask whether to spend that disk space; give --yes to say so beforehand")
    try:
        agreed = typer.confirm("Write it?")
    except typer.Abort:  # Ctrl-C, or the end of the input
        agreed = False
    if not agreed:
        raise typer.Exit(1)


@app.command()
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


@app.command()
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
