"""`saccade bench step`: clips a second through a training step, beside one in the style of the release.

On a CPU in CPU time of one thread, at the paper's size of clips and the batch of one video; on a GPU in time of the
clock, at the paper's batches. Losses 1 and 2, as in the first 240 of the paper's 300 epochs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from saccade import builders
from saccade.bench.measure import Report, Row, compare, cpu_seconds, one_thread
from saccade.bench.release_step import release_step, straightforward
from saccade.engine.device import Machine, pick_machine
from saccade.errors import first_line
from saccade.models.encoder import build_encoder
from saccade.pretrain import training_step
from saccade.rng import derive_seed
from saccade.sampling import draw_below
from saccade.spec import ConsistencySpec, Spec

__all__ = [
    "BANK",
    "ENCODERS",
    "Batch",
    "Steps",
    "bench_step",
    "gpu_seconds",
    "made_batch",
    "matrix_rate",
    "paper_spec",
    "step_flop",
]

_SEED = 632
_REPEATED = 10
"""Steps between two looks at the clock, on a GPU."""
BANK = 9537
"""In the training list of UCF101's first split: what the memory bank is as large as."""
ENCODERS = {"r3d": ("R3D", 1.0, 16), "r2plus1d": ("R(2+1)D", 4.0, 8)}
"""Name in a spec -> what it is called, the exponent of its affinities, videos in the paper's batch."""


@dataclass(frozen=True)
class Batch:
    """Of M clips of B videos, on the device where they are wanted."""

    clips: Tensor
    """`[M, 3, T, H, W]`."""
    masks: Tensor
    """`[M, 1, H, W]`."""
    videos: Tensor
    """Their positions in the training list, `[B]`."""


def made_batch(spec: Spec, videos: int, bank: int, device: torch.device) -> Batch:
    """Noise for `videos` of a training list of `bank`, channels last."""
    generator = torch.Generator().manual_seed(_SEED)
    size, count = spec.clip.size, videos * 2 * spec.saccade.focus_num
    clips = torch.randn(count, 3, spec.clip.frames, size, size, generator=generator)
    masks = (torch.rand(count, 1, size, size, generator=generator) < 0.5).float()
    chosen = torch.randperm(bank, generator=generator)[:videos]
    clips = clips.contiguous(memory_format=torch.channels_last_3d)
    return Batch(clips.to(device), masks.to(device), chosen.to(device))


class Steps:
    """A step in the release's style and ours, each with a learner of its own that starts from the same weights.

    Args:
        spec: What is trained.
        machine: For ours; the other is float32 and not compiled, TF32 on a GPU.
        bank: Videos in the training list.
    """

    def __init__(self, spec: Spec, machine: Machine, bank: int) -> None:
        self.recipe, self.machine = builders.build_recipe(spec), machine
        self.ours = builders.build_learner(spec, bank, machine)
        self.theirs = straightforward(builders.build_learner(spec, bank, Machine(machine.device, "fp32")))
        for learner in (self.ours, self.theirs):
            learner.set_rates(spec.pretrain.learning_rate, spec.pretrain.projection_lr_ratio)
            learner.train()

    def our_step(self, batch: Batch) -> dict[str, Tensor]:
        """One step as a run does it."""
        with self.machine.stepping():
            metrics = training_step(self.ours, self.recipe, batch.clips, batch.masks, batch.videos, self.machine)
        self.ours.step += 1
        return metrics

    def their_step(self, batch: Batch) -> dict[str, float]:
        """One step as the release does it, with the same negatives."""
        fixations = torch.arange(self.recipe.focus_num, device=batch.videos.device).repeat(2)
        slots = (batch.videos[:, None] * self.recipe.focus_num + fixations).flatten()
        seed = derive_seed(self.recipe.seed, "negatives", self.theirs.step)
        shape = (len(slots), self.recipe.num_negatives)
        drawn = draw_below(len(self.theirs.memory), shape, seed=seed, device=slots.device)
        with self.machine.stepping():
            losses = release_step(self.theirs, self.recipe, batch.clips.contiguous(), batch.masks, slots, drawn)
        self.theirs.step += 1
        return losses


def bench_step(device: str = "auto", *, rounds: int = 3, encoders: tuple[str, ...] = tuple(ENCODERS)) -> Report:
    """Measure training steps, and how they stand to what this machine's matrix products reach.

    Args:
        device: "cpu", "cuda" or "auto".
        rounds: Of which the median counts.
        encoders: Of `ENCODERS`.
    """
    machine = pick_machine(device, threads=1, convolutions="auto", compiled="auto")
    report = Report("step", {"on": machine.description, "rounds": rounds, "clip": "16 x 112 x 112"})
    with one_thread():
        rate = matrix_rate(machine.device)
        for encoder in encoders:
            if machine.device.type == "cuda":
                _measure_on_gpu(report, encoder, machine, rate, rounds)
            else:
                _measure_on_cpu(report, encoder, machine, rate, rounds)
    return report


def _measure_on_cpu(report: Report, encoder: str, machine: Machine, rate: float, rounds: int) -> None:
    spec, name = paper_spec(encoder), ENCODERS[encoder][0]
    steps, batch = Steps(spec, machine, BANK), made_batch(spec, 1, BANK, machine.device)
    sides: dict[str, Callable[[], object]] = {
        "release style, fp32, eager": partial(steps.their_step, batch),
        f"as here, {machine.precision}": partial(steps.our_step, batch),
    }
    clips = len(batch.clips)
    rows = compare(f"{name}, {clips} clips a step", sides, amount=clips, unit="clips/s", rounds=rounds)
    report.rows += rows + _shares(name, rows, step_flop(spec), rate, "fp32 matrix products of 2048, one thread")


def _measure_on_gpu(report: Report, encoder: str, machine: Machine, rate: float, rounds: int) -> None:
    spec, name = paper_spec(encoder), ENCODERS[encoder][0]
    steps, graphs = Steps(spec, machine, BANK), Steps(spec, replace(machine, graphs=True), BANK)
    batch = made_batch(spec, spec.pretrain.batch_size, BANK, machine.device)
    step, started, clips = partial(steps.our_step, batch), partial(graphs.our_step, batch), len(batch.clips)
    ours: dict[str, Callable[[], object]] = {f"as here, {machine.precision}": step}
    failed = _failure(_times(3, started))  # PyTorch records them in the second or third step.
    report.settings[f"CUDA graphs of {name}"] = failed or "measured"
    if not failed:
        ours["the same, started as CUDA graphs"] = started
    sides: dict[str, Callable[[], object]] = {"release style, TF32, eager": partial(steps.their_step, batch)} | ours
    rows = compare(
        f"{name}, {clips} clips a step",
        {side: _times(_REPEATED, each) for side, each in sides.items()},
        amount=_REPEATED * clips,
        unit="clips/s",
        rounds=rounds,
        seconds=gpu_seconds,
    )
    report.rows += rows + _shares(name, rows, step_flop(spec), rate, "bf16 matrix products of 8192")
    report.rows += _hosts_part(name, ours, rounds)
    report.settings[f"host waits in a step of {name}"] = _failure(lambda: _without_waiting(step)) or "none"


def _hosts_part(name: str, sides: dict[str, Callable[[], object]], rounds: int) -> list[Row]:
    """How long the host takes to start a step: if that is less than the step, a GPU does not wait for it."""
    rows = []
    for side, step in sides.items():
        times = tuple(1e3 * _host_seconds(step) for _ in range(_REPEATED * rounds))
        rows.append(Row(f"{name}, until the host has started a step", side, median(times), "ms", None, times))
    return rows


def _host_seconds(step: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def paper_spec(encoder: str) -> Spec:
    """The published settings of pre-training."""
    name, power, batch = ENCODERS[encoder]
    spec = Spec(name=name, seed=_SEED, consistency=ConsistencySpec(power=power))
    return spec.model_copy(
        update={
            "encoder": spec.encoder.model_copy(update={"name": encoder}),
            "pretrain": spec.pretrain.model_copy(update={"batch_size": batch}),
        }
    )


def _times(count: int, step: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            step()

    return run


def gpu_seconds(function: Callable[[], object]) -> float:
    """Time until the GPU is done with a call."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _shares(name: str, rows: list[Row], flop: int, rate: float, products: str) -> list[Row]:
    """What the steps would have to compute as plain convolutions, in time, beside matrix products."""
    group = f"{name}, convolutions' FLOP counted directly"
    found = [Row(group, products, rate / 1e9, "GFLOP/s", None, (rate / 1e9,))]
    for row in rows:
        values = tuple(value * flop / 1e9 for value in row.rounds)
        found.append(Row(group, row.name, median(values), "GFLOP/s", median(values) * 1e9 / rate, values))
    return found


def matrix_rate(device: torch.device, side: int | None = None) -> float:
    """FLOP a second of matrix products of random numbers: bf16 of 8192 on a GPU, float32 of 2048 on a CPU."""
    on_gpu = device.type == "cuda"
    side, dtype = side or (8192 if on_gpu else 2048), torch.bfloat16 if on_gpu else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product, seconds = partial(torch.mm, a, b), gpu_seconds if on_gpu else cpu_seconds
    repeated = _REPEATED if on_gpu else 1
    times = [seconds(_times(repeated, product)) for _ in range(6)][1:]
    return 2 * side**3 * repeated / median(times)


def step_flop(spec: Spec) -> int:
    """FLOP of the encoder's convolutions for a clip, forward and backward, a multiplication and its addition as 2."""
    with torch.device("meta"):
        encoder = build_encoder(spec.encoder.name, width=spec.encoder.width).eval()
        clip = torch.zeros(1, 3, spec.clip.frames, spec.clip.size, spec.clip.size)
    found: list[int] = []

    def count(conv: nn.Conv3d, _: tuple[Tensor, ...], y: Tensor) -> None:
        # The first one's input needs no gradient.
        found.append((3 if found else 2) * 2 * y.numel() * conv.weight[0].numel())

    for part in encoder.modules():
        if isinstance(part, nn.Conv3d):
            part.register_forward_hook(count)
    encoder(clip)
    return sum(found)


def _failure(call: Callable[[], object]) -> str | None:
    """The first line of what a call fails with."""
    try:
        call()
    except RuntimeError as error:
        return first_line(error)
    return None


def _without_waiting(step: Callable[[], object]) -> None:
    """Steps in which PyTorch must not see the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        _times(3, step)()
    finally:
        torch.cuda.set_sync_debug_mode("default")
