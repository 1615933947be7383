"""What a colleague would say to a plan on this machine: what holds it up, what does not fit, and the remedy."""

import math
from collections.abc import Iterator

from saccade.amounts import bytes_text, counted, duration
from saccade.plan.forecast import Plan, overlapped_sec
from saccade.plan.measured import Measured, Piece
from saccade.spec import Spec

__all__ = ["advise_on_machine", "data_remedy"]

_WAITING = 0.1
"""Part of an epoch spent waiting for clips from which on the data counts as the bottleneck."""
_IDLE = 0.5
"""Part of the loading that the processor works at; below, it is the disk that is waited for."""
_FULL = 0.9
_BUSY = 0.5
_LONG_SEC = 14 * 86400.0
_LOST_SEC = 2 * 3600.0
"""Work that a kill may cost before anybody minds."""


def advise_on_machine(spec: Spec, plan: Plan, *, tracked_here: bool) -> Iterator[str]:
    """What the machine has not got, or has and does not use.

    Args:
        spec: What is going to be run.
        plan: Its forecast.
        tracked_here: MLflow keeps its copies on this machine.
    """
    measured = plan.measured
    machinery = measured.machinery
    if machinery.load > _BUSY * machinery.cores:
        yield (
            f"machine: others compute on it (load {machinery.load:.1f} on {counted(machinery.cores, 'core')}), so "
            "these times hold only while they do; plan again when it is quiet"
        )
    if spec.engine.processes > 1:
        count = spec.engine.processes
        yield (
            f"engine.processes: measured with one process; {count} share the steps and the passes over videos, which "
            f"take 1/{count} of the time at best, k-means and pictures what they take here, and host memory "
            f"{count} times as much"
        )
    remedy = data_remedy(spec, plan)
    if remedy:
        yield remedy
    yield from _advise_on_device(spec, plan)
    yield from _advise_on_workers(spec, measured)
    yield from _advise_on_space(plan, tracked_here)
    if plan.seconds > _LONG_SEC:
        yield f"time: {duration(plan.seconds)} on this machine; fewer epochs, a smaller encoder, or a faster machine"
    yield from _advise_on_checkpoints(spec, plan)


def data_remedy(spec: Spec, plan: Plan) -> str | None:
    """Whether training waits for its clips, and what would help; None when it does not."""
    piece, measured = plan.measured.step, plan.measured
    if piece is None or plan.epoch is None or plan.epoch.waiting < _WAITING:
        return None
    cores, workers, waiting = measured.machinery.cores, spec.engine.workers, f"{100 * plan.epoch.waiting:.0f} %"
    told = f"data: training waits for its clips {waiting} of the time"
    now = overlapped_sec(piece, workers=workers, gain=measured.workers_gain, cores=cores)
    better = _enough_workers(piece, cores)
    then = overlapped_sec(piece, workers=better, gain=better, cores=cores)
    if then < 0.9 * now and better != workers:
        return f"{told}; try engine.workers={better}: {then:.3g} s a step instead of {now:.3g} s if all goes well"
    if spec.data.store == "frames":
        kind = "jpeg" if piece.load_cpu_sec < _IDLE * piece.load_sec else "decoded"
        folder = f"{spec.data.root}/{spec.data.dataset}"
        return f"{told}; saccade data pack {folder} --as {kind}, then data.store=packed_{kind}"
    if piece.load_cpu_sec < _IDLE * piece.load_sec:
        return (
            f"{told}, mostly for the disk; put data.root on a faster one, or where memory holds it after the "
            "first epoch"
        )
    return (
        f"{told}, and its {counted(cores, 'core')} {'is' if cores == 1 else 'are'} busy with decoding; more cores or "
        "smaller frames would help "
        "(saccade data prepare --short-side)"
    )


def _enough_workers(piece: Piece, cores: float) -> int:
    """The fewest workers that bring a step to within a twentieth of the best that this machine can do."""
    times = {
        workers: overlapped_sec(piece, workers=workers, gain=workers, cores=cores)
        for workers in range(1, max(1, math.floor(cores)) + 1)
    }
    return min(workers for workers, seconds in times.items() if seconds <= 1.05 * min(times.values()))


def _advise_on_device(spec: Spec, plan: Plan) -> Iterator[str]:
    machinery = plan.measured.machinery
    if machinery.cuda_there and machinery.device == "cpu":
        yield "engine.device: cpu, though there is a GPU; set auto"
    if spec.engine.precision == "bf16" and not machinery.bf16_units:
        yield f"engine.precision: bf16, which {machinery.description} only imitates; set auto"
    if spec.engine.precision == "fp32" and machinery.bf16_units and machinery.device == "cuda":
        yield "engine.precision: fp32, though the GPU has units for bf16, which take about half the time; set auto"
    if spec.engine.threads is not None and spec.engine.threads * spec.engine.processes > machinery.cores:
        cores = counted(machinery.cores, "core")
        yield f"engine.threads: {spec.engine.threads} on {cores} wait for each other; set null"


def _advise_on_workers(spec: Spec, measured: Measured) -> Iterator[str]:
    workers, cores = spec.engine.workers, measured.machinery.cores / spec.engine.processes
    if workers > cores:
        shared = " for each process" if spec.engine.processes > 1 else ""
        yield (
            f"engine.workers: {workers} on {counted(cores, 'core')}{shared} only change places; set at most "
            f"{math.floor(cores) or 1}"
        )


def _advise_on_space(plan: Plan, tracked_here: bool) -> Iterator[str]:
    measured = plan.measured
    room = measured.machinery.memory_bytes
    if room is not None and measured.peak_host_bytes > _FULL * room:
        yield (
            f"memory: {bytes_text(measured.peak_host_bytes)} at the most, of {bytes_text(room)} to be had; lower "
            "pretrain.batch_size or engine.workers"
        )
    needed = plan.disk_bytes + (plan.tracked_bytes if tracked_here else 0)
    free = measured.machinery.disk_bytes
    if needed > _FULL * free:
        yield (
            f"disk: {bytes_text(needed)} are wanted and {bytes_text(free)} are free; make room, or keep fewer "
            "checkpoints (checkpoint.keep_every_epochs)"
        )


def _advise_on_checkpoints(spec: Spec, plan: Plan) -> Iterator[str]:
    if plan.epoch is None:
        return
    epoch_sec = max(each.overlapped_sec for each in (plan.epoch, plan.prototype_epoch) if each is not None)
    apart = min(spec.checkpoint.every_epochs, plan.epochs) * epoch_sec
    step_sec = epoch_sec / plan.steps_per_epoch
    if spec.checkpoint.every_steps is not None:
        apart = min(apart, spec.checkpoint.every_steps * step_sec)
    if apart > _LOST_SEC:
        hourly = max(1, round(3600 / step_sec))
        yield (
            f"checkpoint.every_epochs: a kill costs up to {duration(apart)} of work; set checkpoint.every_steps to "
            f"{hourly}, about an hour"
        )
    if plan.measured.save_sec > 0.1 * apart:
        yield (
            f"checkpoint.every_epochs: saving takes {duration(plan.measured.save_sec)} every {duration(apart)} of "
            f"training; set {max(2, math.ceil(plan.measured.save_sec / (0.02 * epoch_sec)))}"
        )
