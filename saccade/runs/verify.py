"""`saccade runs verify`: do a run again and say whether it comes out the same, or where it first does not.

The repeat is a run of its own in another folder, tracked nowhere: it is a question about a run, not a result.
"""

import math
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.engine.child import begin, trainer_environment
from saccade.engine.stop import STOPPED
from saccade.errors import RunError, WeightsError
from saccade.figures.curves import Series
from saccade.initial_weights import adopt
from saccade.models.weights import UNREADABLE
from saccade.run_dir import RunDir, create_run
from saccade.runs.record import MACHINE_METRICS, RunRecord, local_record
from saccade.runs.repeat import Repeat, changes_since, changes_text
from saccade.runs.tables import table_text

__all__ = ["MetricDifference", "TensorDifference", "metric_differences", "tensor_differences", "verify"]

_MOST_ROWS = 12


@dataclass(frozen=True)
class MetricDifference:
    """Where a metric first has another value."""

    metric: str
    step: int
    then: float | None
    """None: it has no point there."""
    now: float | None

    @property
    def relative(self) -> float:
        """Of the larger of the two; NaN when one of them is missing or not finite."""
        if self.then is None or self.now is None:
            return math.nan
        largest = max(abs(self.then), abs(self.now))
        return abs(self.now - self.then) / largest if math.isfinite(largest) and largest else math.nan


def metric_differences(
    then: Mapping[str, Series], now: Mapping[str, Series], *, whole: bool, via_server: bool
) -> list[MetricDifference]:
    """The first different point of each metric that has one, in order of step.

    Args:
        then: Curves of the run.
        now: Curves of its repeat.
        whole: The run came to its end; of one that did not, what the repeat has beyond it is no difference.
        via_server: MLflow stores no infinity, so the run's were sent as NaN.
    """
    found = []
    for metric in dict.fromkeys([*now, *then]):
        if metric.startswith(MACHINE_METRICS):
            continue
        ours, theirs = (dict(zip(*curves.get(metric, ((), ())), strict=True)) for curves in (then, now))
        for step in sorted({*ours, *theirs}):
            one, other = ours.get(step), theirs.get(step)
            if one is None and not whole:
                continue
            if via_server and other is not None and math.isinf(other):
                other = math.nan
            if _bits(one) != _bits(other):
                found.append(MetricDifference(metric, step, one, other))
                break
    order = {metric: place for place, metric in enumerate(now)}
    return sorted(found, key=lambda each: (each.step, order.get(each.metric, len(order))))


def _bits(value: float | None) -> bytes | None:
    """All NaNs are one; -0.0 is not 0.0."""
    return value if value is None else struct.pack("<d", math.nan if math.isnan(value) else value)


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that is not the same."""

    name: str
    largest: float
    """Largest difference of two of its numbers; NaN when the shapes or types differ or it is missing."""


def tensor_differences(then: Path, now: Path) -> tuple[list[TensorDifference], int]:
    """Tensors of two safetensors files that differ in any bit, in the order of the second, and how many there are.

    Raises:
        WeightsError: A file is damaged.
    """
    ours, theirs = _load(then), _load(now)
    found = []
    for name in dict.fromkeys([*theirs, *ours]):
        one, other = ours.get(name), theirs.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            found.append(TensorDifference(name, math.nan))
        elif one.tobytes() != other.tobytes():
            distance = abs(one.astype("float64") - other.astype("float64"))
            found.append(TensorDifference(name, float(distance.max())))
    return found, len({*ours, *theirs})


def _load(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except UNREADABLE as error:
        raise WeightsError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); the repeat has to be made anew"
        ) from None


def verify(repeat: Repeat, into: Path, *, keep: bool, say: Callable[[str], None]) -> int:
    """Do a run again below `into` and compare.

    Args:
        repeat: The run, its spec and its weights.
        into: Folder for the repeat's own folder, which is removed when all is the same.
        keep: Leave it there in any case.
        say: Takes the text of the findings.

    Returns:
        0 when all is the same, 1 when something differs, 130 when the repeat was stopped.

    Raises:
        RunError: The run is still under way, or the repeat failed.
    """
    record = repeat.record
    if record.status == "RUNNING":
        raise RunError(f"run {record.id} is still running; verify it when it has ended")
    if not record.last:
        raise RunError(f"run {record.id} has no metrics to compare with: it ended before the first one; choose another")
    changes = changes_since(repeat)
    say(changes_text(repeat, changes))
    fresh = create_run(into, repeat.spec, sys.argv)
    if repeat.weights is not None:
        adopt(repeat.weights, repeat.spec.encoder.weights, fresh)
    say(f"repeating run {record.id} in {fresh.path}, tracked nowhere")
    code = _train(fresh)
    if code in (STOPPED, -signal.SIGINT):
        shutil.rmtree(fresh.path)
        say("stopped: nothing was compared")
        return 130
    if code:
        raise RunError(
            f"the repeat of run {record.id} ended with exit code {code}; what it said is above, it is in {fresh.path}"
        )
    same = _compare(record, fresh, say)
    if same and not keep:
        shutil.rmtree(fresh.path)
        with suppress(OSError):  # Others may be in it.
            into.rmdir()
    else:
        say(f"the repeat is in {fresh.path}")
    return 0 if same else 1


def _train(run: RunDir) -> int:
    # Its input ends with this process, which it notices; Ctrl-C reaches both.
    command = [sys.executable, "-m", "saccade.runner", str(run.path)]
    trainer = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=2, env=trainer_environment())
    assert trainer.stdin is not None
    with trainer.stdin:
        begin(trainer)
        while True:
            try:
                return trainer.wait()
            except KeyboardInterrupt:
                continue


def _compare(record: RunRecord, fresh: RunDir, say: Callable[[str], None]) -> bool:
    repeat = local_record(fresh)
    whole, via_server = record.status == "FINISHED", record.run is None
    metrics = metric_differences(record.curves, repeat.curves, whole=whole, via_server=via_server)
    points = sum(len(steps) for name, (steps, _) in record.curves.items() if not name.startswith(MACHINE_METRICS))
    count = sum(not name.startswith(MACHINE_METRICS) for name in record.curves)
    if not whole:
        last = max(max(steps) for steps, _ in record.curves.values())
        say(f"run {record.id} was {record.status} at step {last}: compared up to there, and no weights")
    if metrics:
        say(_metrics_text(metrics, count))
    weights, words = _weights(record, fresh) if whole else (True, "")
    if words:
        say(words)
    if not metrics and weights:
        say(f"same: {points} points of {count} metrics are equal to the bit (speed, perf/, left out)")
    return not metrics and weights


def _metrics_text(found: Sequence[MetricDifference], count: int) -> str:
    first = found[0]
    rows = [["metric", "first at step", "then", "now", "relative"]]
    for each in found[:_MOST_ROWS]:
        relative = "-" if math.isnan(each.relative) else f"{each.relative:.1e}"
        rows.append([each.metric, str(each.step), _exact(each.then), _exact(each.now), relative])
    more = f"\n  and {len(found) - _MOST_ROWS} more" if len(found) > _MOST_ROWS else ""
    return (
        f"not the same: differs first at step {first.step}, where {first.metric} was {_exact(first.then)} and is "
        f"{_exact(first.now)} now; {len(found)} of {count} metrics differ\n"
        + table_text(rows, right=(1, 2, 3, 4), indent="  ")
        + more
    )


def _exact(value: float | None) -> str:
    return "absent" if value is None else repr(value)


def _weights(record: RunRecord, fresh: RunDir) -> tuple[bool, str]:
    """Whether every file of weights is the same, and the findings in words."""
    same, lines = True, []
    for path in sorted(fresh.path.rglob("*.safetensors")):
        name = path.relative_to(fresh.path).as_posix()
        if name.startswith("inputs/"):
            continue
        try:
            then = record.fetch(name)
        except RunError as error:
            lines.append(f"weights not compared: {error}")
            continue
        found, count = tensor_differences(then, path)
        if not found:
            lines.append(f"{name}: {count} tensors are equal to the bit")
            continue
        same = False
        size = "in shape or type" if math.isnan(found[0].largest) else f"by up to {found[0].largest:.3g}"
        lines.append(f"{name}: {len(found)} of {count} tensors differ, first {found[0].name} ({size})")
    return same, "\n".join(lines)
