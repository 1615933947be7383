"""A plan as text for people: time, space, then what a colleague would say."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from saccade.amounts import bytes_text, columns, counted, duration
from saccade.plan.forecast import EpochForecast, Plan

__all__ = ["as_json", "as_text"]

_WIDTH = 120


def as_text(plan: Plan) -> str:
    """Blocks with a line between them."""
    measured, where = plan.measured, plan.measured.machinery
    videos = measured.videos
    held = f" {videos['validation']} validation," if videos["validation"] else ""
    header = (
        f"{plan.name}: {videos['train']} training,{held} {videos['test']} test videos, on {where.description}; "
        f"{counted(where.cores, 'core')}"
    )
    blocks = [[header], *([_epochs(plan)] if plan.epoch is not None else []), _time(plan), _space(plan)]
    return "\n\n".join("\n".join(block) for block in [*blocks, _advice(plan)])


def as_json(plan: Plan) -> dict[str, Any]:
    """All of it, in seconds and bytes."""
    return {
        **asdict(plan),
        "seconds": plan.seconds,
        "disk_bytes": plan.disk_bytes,
        "tracked_bytes": plan.tracked_bytes,
    }


def _epochs(plan: Plan) -> list[str]:
    rows: list[tuple[str, ...]] = [
        (f"{plan.epochs} epochs of {plan.steps_per_epoch} steps", "data", "steps", "both at a time", "a step")
    ]
    for name, epoch in (("an epoch", plan.epoch), ("an epoch with prototypes", plan.prototype_epoch)):
        if epoch is not None:
            step = epoch.overlapped_sec / plan.steps_per_epoch
            rows.append((name, *map(duration, (epoch.load_sec, epoch.work_sec, epoch.overlapped_sec, step))))
    lines = columns(rows)
    if plan.epoch is not None:
        lines.append(_bottleneck(plan.epoch))
    if plan.clusterings:
        epochs = ", ".join(map(str, plan.clusterings[:4])) + (", ..." if len(plan.clusterings) > 4 else "")
        lines.append(f"{len(plan.clusterings)} clusterings, after epochs {epochs}")
    return lines


def _bottleneck(epoch: EpochForecast) -> str:
    if epoch.load_sec > epoch.work_sec:
        return f"the data is the bottleneck: for {100 * epoch.waiting:.0f} % of the time no step goes on"
    return f"the steps are the bottleneck, not the data: for {100 * epoch.waiting:.0f} % of the time no step goes on"


def _time(plan: Plan) -> list[str]:
    rows = [
        (stage.name, duration(stage.seconds), f"{100 * stage.seconds / plan.seconds:.0f} %") for stage in plan.stages
    ]
    rows.append(("whole run", duration(plan.seconds), ""))
    return ["time", *_noted(rows, [*(stage.count for stage in plan.stages), ""])]


def _space(plan: Plan) -> list[str]:
    measured, machinery = plan.measured, plan.measured.machinery
    had = f"of {bytes_text(machinery.memory_bytes)} to be had" if machinery.memory_bytes is not None else ""
    rows = [("memory at the most", measured.peak_host_bytes, had)]
    if measured.peak_device_bytes is not None:
        rows.append(("memory of the GPU", measured.peak_device_bytes, ""))
    for file in plan.files:
        notes = [f"{file.count} of them"] if file.count > 1 else []
        if file.tracked_bytes:
            same = file.tracked_bytes == file.bytes
            notes.append("MLflow too" if same else f"{bytes_text(file.tracked_bytes)} in MLflow too")
        rows.append((file.name, file.bytes, ", ".join(notes)))
    rows.append(("disk, whole run", plan.disk_bytes, f"of {bytes_text(machinery.disk_bytes)} free"))
    rows.append(("MLflow, whole run", plan.tracked_bytes, "and a model as large as the encoder"))
    return ["space", *_noted([(name, bytes_text(size)) for name, size, _ in rows], [note for _, _, note in rows])]


def _noted(rows: Sequence[tuple[str, ...]], notes: Sequence[str]) -> list[str]:
    """A table, a note behind each line."""
    lines = columns(rows)
    longest = max(map(len, lines))
    return [f"{line.ljust(longest)}  {note}".rstrip() for line, note in zip(lines, notes, strict=True)]


def _advice(plan: Plan) -> list[str]:
    if not plan.advice:
        return ["Nothing to object to."]
    lines = [textwrap.fill(line, _WIDTH, initial_indent="- ", subsequent_indent="  ") for line in plan.advice]
    return ["What a colleague would say:", *lines]
