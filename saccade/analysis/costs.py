"""What a spec costs wherever it is run: parameters, floating-point operations and memory of a training step.

All of it is counted and nothing is run, so neither the videos nor the machine need to be there. What it takes on the
machine at hand is measured by `saccade plan`.
"""

from dataclasses import dataclass, replace

import torch

from saccade import builders
from saccade.analysis.counting import LevelCost, Memory, PartCost, count, numel
from saccade.engine.device import Machine, pick_machine
from saccade.errors import SaccadeError
from saccade.spec import Spec

__all__ = ["Analysis", "Timing", "analyse"]


@dataclass(frozen=True)
class Timing:
    """Seconds at a given rate; without loading of clips, clustering and evaluation."""

    flop_per_sec: float
    encoder_sec: float
    """The encoder's part of a step."""
    step_sec: float
    training_sec: float | None
    """None: nobody knows how many videos there are."""


@dataclass(frozen=True)
class Analysis:
    """All of it; see the classes above."""

    encoder: str
    parameters: int
    """Of the encoder."""
    clip: tuple[int, int, int]
    """Frames, height, width."""
    precision: str
    clips_per_step: int
    videos: int | None
    videos_source: str
    memory_rows: int
    """Rows R that a step projects, at most."""
    levels: tuple[LevelCost, ...]
    parts: tuple[PartCost, ...]
    memory: Memory
    steps: int | None
    """Of the whole training; None: nobody knows how many videos there are."""
    timing: Timing | None
    """None: no rate was given."""

    @property
    def step_flop(self) -> int:
        """Of a whole step."""
        return sum(part.forward_flop + part.backward_flop for part in self.parts)


def analyse(spec: Spec, *, videos: int | None = None, tflops: float | None = None) -> Analysis:
    """Count what a spec costs.

    Args:
        spec: What would be run.
        videos: Number of training videos; None: as many as the dataset on disk has, if it is there.
        tflops: Rate to reckon with, TFLOP a second; None: say nothing of time.

    Raises:
        SpecError: The spec does not fit that number of videos.
    """
    machine = pick_machine(spec.engine.device, spec.engine.precision, spec.engine.threads)
    source = "given"
    if videos is None:
        videos, source = _count_videos(spec)
    steps = None if videos is None else builders.build_timetable(spec, videos).steps
    clips = spec.pretrain.batch_size * 2 * spec.saccade.focus_num
    # No more rows than are drawn: that is the most a step projects, and more of them would be picked by content.
    most = clips * spec.contrast.num_negatives // spec.saccade.focus_num
    counted = min(videos or most, most)
    trained = spec.model_copy(update={"pretrain": spec.pretrain.model_copy(update={"epochs": 1})})
    # On the CPU whatever the machine: only the types of the tensors count, which are the same.
    on_cpu = Machine(torch.device("cpu"), machine.precision)
    learner = builders.build_learner(trained, counted, on_cpu)
    levels, parts, memory = count(learner, spec, on_cpu, clips)
    slots = (videos or counted) * spec.saccade.focus_num
    kept = -(-slots // spec.engine.processes) if spec.engine.split_memory else slots
    uncounted = (kept - len(learner.memory)) * learner.memory.rows[0].nbytes
    memory = replace(memory, bank=memory.bank + uncounted, peak=memory.peak + uncounted)
    return Analysis(
        encoder=spec.encoder.name,
        parameters=numel(learner.encoder),
        clip=(spec.clip.frames, spec.clip.size, spec.clip.size),
        precision=machine.precision,
        clips_per_step=clips,
        videos=videos,
        videos_source=source,
        memory_rows=len(learner.memory),
        levels=levels,
        parts=parts,
        memory=memory,
        steps=steps,
        timing=None if tflops is None else _timing(parts, steps, tflops * 1e12),
    )


def _timing(parts: tuple[PartCost, ...], steps: int | None, flop_per_sec: float) -> Timing:
    encoder, *heads = (part.forward_flop + part.backward_flop for part in parts)
    step_sec = (encoder + sum(heads)) / flop_per_sec
    return Timing(flop_per_sec, encoder / flop_per_sec, step_sec, None if steps is None else steps * step_sec)


def _count_videos(spec: Spec) -> tuple[int | None, str]:
    try:
        return len(builders.build_dataset(spec).train), "on disk"
    except SaccadeError as error:
        return None, str(error)
