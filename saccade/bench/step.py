"""`saccade bench step`: clips a second through a training step, beside one in the style of the release.

On a CPU in CPU time of one thread, at the paper's size of clips and the batch of one video; on a GPU in time of the
clock, at the paper's batches. Losses 1 and 2, as in the first 240 of the paper's 300 epochs.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from saccade import builders
from saccade.bench.measure import Report, Row, compare, cpu_seconds, one_thread
from saccade.bench.release_step import release_step, straightforward
from saccade.engine.device import Machine, pick_machine
from saccade.models.encoder import build_encoder
from saccade.pretrain import training_step
from saccade.rng import derive_seed
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
        drawn = torch.randint(
            len(self.theirs.memory),
            (len(slots), self.recipe.num_negatives),
            generator=torch.Generator().manual_seed(seed),
        ).to(slots.device)
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
    on_gpu = machine.device.type == "cuda"
    report = Report("step", {"on": machine.description, "rounds": rounds, "clip": "16 x 112 x 112"})
    with one_thread():
        rate = matrix_rate(machine.device)
        for encoder in encoders:
            spec, name = paper_spec(encoder), ENCODERS[encoder][0]
            steps = Steps(spec, machine, BANK)
            batch = made_batch(spec, spec.pretrain.batch_size if on_gpu else 1, BANK, machine.device)
            ours, theirs, clips = partial(steps.our_step, batch), partial(steps.their_step, batch), len(batch.clips)
            repeated = 10 if on_gpu else 1
            rows = compare(
                f"{name}, {clips} clips a step",
                {
                    f"release style, {'TF32' if on_gpu else 'fp32'}, eager": _times(repeated, theirs),
                    f"as here, {machine.precision}": _times(repeated, ours),
                },
                amount=repeated * clips,
                unit="clips/s",
                rounds=rounds,
                seconds=gpu_seconds if on_gpu else cpu_seconds,
            )
            report.rows += rows + _shares(name, rows, step_flop(spec), rate, on_gpu)
            if on_gpu:
                report.settings[f"host waits in a step of {name}"] = _waits(ours)
    return report


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


def _shares(name: str, rows: list[Row], flop: int, rate: float, on_gpu: bool) -> list[Row]:
    """What the steps would have to compute as plain convolutions, in time, beside matrix products."""
    group = f"{name}, convolutions' FLOP counted directly"
    products = "bf16 matrix products of 8192" if on_gpu else "fp32 matrix products of 2048, one thread"
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
    repeated = 10 if on_gpu else 1
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


def _waits(step: Callable[[], object]) -> str:
    """Whether PyTorch sees the host wait for the GPU within a step."""
    try:
        with _no_waits():
            for _ in range(3):
                step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "none"


@contextmanager
def _no_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
