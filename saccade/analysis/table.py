"""An analysis as text for people: short tables, every number with its unit."""

from saccade.amounts import bytes_text, columns, duration
from saccade.analysis.costs import Analysis

__all__ = ["as_text"]


def as_text(analysis: Analysis) -> str:
    """Four blocks: the encoder by level, a step by part, its memory, and time."""
    header = (
        f"{analysis.encoder} on clips of {_size(analysis.clip)} (frames, px), {analysis.clips_per_step} a step, in "
        f"{analysis.precision}; a multiply-add counts as 2 FLOP"
    )
    blocks = [_levels(analysis), _step(analysis), _memory(analysis), _time(analysis)]
    return "\n\n".join([header, *("\n".join(lines) for lines in blocks)])


def _levels(analysis: Analysis) -> list[str]:
    levels = analysis.levels
    rows = [
        (
            "stem" if cost.level == 1 else f"stage {cost.level - 1}",
            _size(cost.output),
            _millions(cost.parameters),
            _flop(cost.forward_flop),
            bytes_text(cost.stored_bytes),
        )
        for cost in levels
    ]
    flop, stored = sum(cost.forward_flop for cost in levels), sum(cost.stored_bytes for cost in levels)
    rows.append(("whole", "", _millions(analysis.parameters), _flop(flop), bytes_text(stored)))
    return columns([("encoder", "output per clip", "parameters", "forward per clip", "stored per step"), *rows])


def _step(analysis: Analysis) -> list[str]:
    rows = [(part.name, _flop(part.forward_flop), _flop(part.backward_flop)) for part in analysis.parts]
    forward = sum(part.forward_flop for part in analysis.parts)
    rows.append(("whole", _flop(forward), _flop(analysis.step_flop - forward)))
    return columns([("training step", "forward", "backward"), *rows])


def _memory(analysis: Analysis) -> list[str]:
    memory = analysis.memory
    rows = [
        ("memory of a step", ""),
        ("weights, gradients, optimiser", bytes_text(memory.networks)),
        ("memory bank, prototypes", bytes_text(memory.bank)),
        ("clips, masks", bytes_text(memory.batch)),
        ("stored for backward", bytes_text(memory.stored)),
        ("peak", bytes_text(memory.peak)),
    ]
    return columns(rows)


def _time(analysis: Analysis) -> list[str]:
    if analysis.steps is None:
        lines = [
            f"training  unknown, as is the number of videos ({analysis.videos_source}); give --videos",
            f"          counted with a memory bank of {analysis.memory_rows} rows, the most that a step makes use of",
        ]
    else:
        lines = [f"training  {analysis.steps} steps, {analysis.videos} videos ({analysis.videos_source})"]
    timing = analysis.timing
    if timing is None:
        return [*lines, "time      give --tflops to reckon with a rate; saccade plan measures what it takes here"]
    lines += [
        f"rate      {_flop(timing.flop_per_sec)}/s (given)",
        f"step      {duration(timing.step_sec)} for {_flop(analysis.step_flop)}, of which the encoder "
        f"{duration(timing.encoder_sec)}",
    ]
    if timing.training_sec is not None:
        lines.append(f"time      {duration(timing.training_sec)}; loading of clips, clustering, evaluation not counted")
    return lines


def _size(lengths: tuple[int, ...]) -> str:
    return " x ".join(map(str, lengths))


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _flop(count: float) -> str:
    if count >= 1e12:
        return f"{count / 1e12:.2f} TFLOP"
    return f"{count / 1e9:.1f} GFLOP" if count >= 1e9 else f"{count / 1e6:.1f} MFLOP"
