"""`saccade bench`: what we claim about speed, measured on this machine beside a straightforward baseline."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from saccade.bench.measure import Report

__all__ = ["app"]

app = typer.Typer(
    help="Measure speed on this machine, each thing beside a straightforward baseline.", no_args_is_help=True
)


class Device(StrEnum):
    """Where a step is measured."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with the values of all rounds.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds, of which the median counts.")]


def _print(report: "Report", as_json: bool) -> None:
    typer.echo(report.as_json() if as_json else str(report))


@app.command()
def data(rounds: Rounds = 7, as_json: AsJson = False) -> None:
    """Clips a second and core: from JPEG files or packed stores to what the encoder sees."""
    from saccade.bench.data import bench_data

    report = bench_data(rounds=rounds)
    _print(report, as_json)


@app.command()
def scanpath(
    frames: Annotated[
        Path | None, typer.Argument(metavar="FRAMES", help="Folder of a video's JPEG files; default: made frames.")
    ] = None,
    rounds: Rounds = 7,
    as_json: AsJson = False,
) -> None:
    """Milliseconds from a frame to the gaze, beside the model taken literally."""
    from saccade.bench.scanpath import bench_scanpath

    report = bench_scanpath(frames, rounds=rounds)
    _print(report, as_json)


@app.command()
def step(
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which the median counts.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Clips a second through a training step of both encoders, beside a step in the style of the release."""
    from saccade.bench.step import bench_step

    report = bench_step(device.value, rounds=rounds)
    _print(report, as_json)


@app.command("end-to-end")
def end_to_end(
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which the median counts.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Clips a second from JPEG files to the updated encoder, and how much of that is waiting for data."""
    from saccade.bench.end_to_end import bench_end_to_end

    report = bench_end_to_end(device.value, rounds=rounds)
    _print(report, as_json)


@app.command()
def agreement(
    device: Annotated[Device, typer.Option(help="What to compare with the CPU.")] = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Whether a GPU computes what the CPU does: clips, frames, losses, a clustering. Ends with 1 where it does not."""
    from saccade.bench.agreement import bench_agreement, disagreements

    report = bench_agreement(device.value)
    _print(report, as_json)
    if found := disagreements(report):
        told = f"error: {'; '.join(found)}: more than allowed, so do not trust what {report.settings['on']} computes"
        typer.echo(told, err=True)
        raise typer.Exit(1)


@app.command()
def clustering(
    features: Annotated[
        Path | None, typer.Argument(metavar="FEATURES", help="A .npy file of float32 [N, D]; default: made features.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds, of whose times the median counts.")] = 5,
    slots: Annotated[
        int | None, typer.Option(min=10_000, help="Measure a memory bank of so many slots instead: time and memory.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """k-means beside the published setting, time and objective; or how much a large memory bank takes.

    The latter also under torchrun, with the bank split over its processes: torchrun --nproc-per-node 2 -m saccade.cli
    bench clustering --slots 1000000
    """
    from saccade.bench.clustering import bench_clustering, bench_slots
    from saccade.engine import ranks

    if slots is None:
        _print(bench_clustering(features, seeds=seeds), as_json)
        return
    ranks.join()
    report = bench_slots(slots)
    if ranks.first():
        _print(report, as_json)
    ranks.wait()
    ranks.leave()


@app.command()
def memory(as_json: AsJson = False) -> None:
    """Host memory of a training process at the paper's settings, data workers included."""
    from saccade.bench.memory import bench_memory

    report = bench_memory()
    _print(report, as_json)


@app.command()
def tracking(
    rounds: Rounds = 7,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the server.")] = 1,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="Database of the server; default: an SQLite file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a logged step waits for, beside MLflow's client in the training loop; and the server's times and memory."""
    from saccade.bench.tracking import bench_tracking

    report = bench_tracking(rounds=rounds, workers=workers, database=database)
    _print(report, as_json)
