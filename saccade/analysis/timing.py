"""Time of a step, from what it counts and a rate: given, or measured on this machine."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.analysis.counting import PartCost
from saccade.engine.device import Machine
from saccade.errors import RunError
from saccade.models.encoder import Encoder
from saccade.spec import Spec

__all__ = ["Timing", "step_timing"]

_LONG_ENOUGH_SEC = 1.0
"""Of a timed pass; a shorter one says little of a long one."""
_FIRST_CLIPS = 2
"""Batch norm wants two."""


@dataclass(frozen=True)
class Timing:
    """Seconds, from the FLOP of a step and a rate; without loading of clips, clustering and evaluation."""

    flop_per_sec: float
    source: str
    """Where the rate comes from."""
    encoder_sec: float
    """The encoder's part of a step."""
    step_sec: float
    steps: int | None
    """Of the whole training; None: nobody knows how many videos there are."""
    training_sec: float | None


def step_timing(
    encoder: Encoder,
    spec: Spec,
    machine: Machine,
    parts: tuple[PartCost, ...],
    clips: int,
    steps: int | None,
    tflops: float | None,
) -> Timing:
    """Seconds of a step and of the training, at a given rate or at this machine's.

    Args:
        encoder: Is run where a rate is to be measured.
        spec: What it was built of.
        machine: Where and at which precision.
        parts: Of a step; the first is the encoder's.
        clips: In a step.
        steps: Of the whole training, if known.
        tflops: Rate, TFLOP a second; None: measured.

    Raises:
        RunError: The device has too little memory to measure anything.
    """
    encoder_flop, *heads = (part.forward_flop + part.backward_flop for part in parts)
    if tflops is not None:
        rate, source = tflops * 1e12, "given"
    else:
        timed, seconds = _measure(encoder.to(machine.device), spec, machine, clips)
        rate = encoder_flop / clips * timed / seconds
        source = f"encoder, forward and backward of {timed} of the {clips} clips on {machine.description}"
    step_sec = (encoder_flop + sum(heads)) / rate
    training_sec = None if steps is None else steps * step_sec
    return Timing(rate, source, encoder_flop / rate, step_sec, steps, training_sec)


def _measure(encoder: Encoder, spec: Spec, machine: Machine, clips: int) -> tuple[int, float]:
    """Clips in a pass, as many as it takes for it to last, and its seconds."""
    measured, count = None, _FIRST_CLIPS
    while measured is None or (measured[0] < clips and measured[1] < _LONG_ENOUGH_SEC):
        try:
            # The first pass chooses kernels and takes memory.
            measured = count, min(_time_pass(encoder, spec, machine, count) for _ in range(2))
        except torch.OutOfMemoryError:
            if measured is None:
                raise RunError(
                    f"{machine.description}: no memory for {count} clips, so nothing can be measured; give --tflops"
                ) from None
            break
        count = min(4 * count, clips)
    return measured


def _time_pass(encoder: Encoder, spec: Spec, machine: Machine, count: int) -> float:
    """Seconds of a forward and backward pass."""
    size = spec.clip.size
    clips = torch.randn(count, 3, spec.clip.frames, size, size, device=machine.device)
    encoder.train()
    begun = time.perf_counter()
    with machine.autocast():
        features: Tensor = encoder(clips)
    features.sum().backward()  # type: ignore[no-untyped-call]
    if machine.device.type == "cuda":
        torch.cuda.synchronize(machine.device)
    return time.perf_counter() - begun
