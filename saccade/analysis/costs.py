"""What a spec costs before it is run: parameters, floating-point operations, memory and time of a training step."""

from dataclasses import dataclass, replace

import torch

from saccade import builders
from saccade.analysis.counting import LevelCost, Memory, PartCost, count, numel
from saccade.analysis.timing import Timing, step_timing
from saccade.engine.device import Machine, pick_machine
from saccade.errors import SaccadeError
from saccade.spec import Spec

__all__ = ["Analysis", "analyse"]


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
    timing: Timing

    @property
    def step_flop(self) -> int:
        """Of a whole step."""
        return sum(part.forward_flop + part.backward_flop for part in self.parts)


def analyse(spec: Spec, *, videos: int | None = None, tflops: float | None = None) -> Analysis:
    """Count what a spec costs.

    Args:
        spec: What would be run.
        videos: Number of training videos; None: as many as the dataset on disk has, if it is there.
        tflops: Rate to reckon with, TFLOP a second; None: this machine's, measured on the encoder.

    Raises:
        SpecError: The spec does not fit that number of videos.
        RunError: The device has too little memory to measure anything.
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
    uncounted = ((videos or counted) - counted) * spec.saccade.focus_num * learner.memory[0].nbytes
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
        timing=step_timing(learner.encoder, spec, machine, parts, clips, steps, tflops),
    )


def _count_videos(spec: Spec) -> tuple[int | None, str]:
    try:
        return len(builders.build_dataset(spec).train), "on disk"
    except SaccadeError as error:
        return None, str(error)
