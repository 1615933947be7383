"""Counting on the code itself: the encoder, `pretrain.training_losses`, the backward pass and the optimiser run on fake
tensors, which have shapes and layouts but no content.

PyTorch's FlopCounterMode counts convolutions and matrix products, a multiplication with its addition as 2 FLOP, and
nothing else; what else there is takes time, but little.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from saccade.builders import build_recipe
from saccade.engine.device import Machine
from saccade.learner import Learner
from saccade.models.encoder import Encoder
from saccade.pretrain import training_losses
from saccade.spec import Spec

__all__ = ["LevelCost", "Memory", "PartCost", "count", "numel"]


@dataclass(frozen=True)
class LevelCost:
    """The stem or a stage of the encoder."""

    level: int
    output: tuple[int, ...]
    """Of one clip: channels, frames, height, width."""
    parameters: int
    forward_flop: int
    """Of one clip."""
    stored_bytes: int
    """For the backward pass of a whole step; what a level shares with the one before it is counted there."""


@dataclass(frozen=True)
class PartCost:
    """A part of a training step."""

    name: str
    forward_flop: int
    backward_flop: int


@dataclass(frozen=True)
class Memory:
    """Bytes on the device in a training step, without convolutions' workspaces, fragments and the CUDA context."""

    networks: int
    """Weights, gradients and the optimiser's state."""
    bank: int
    """Memory bank and prototypes."""
    batch: int
    """Clips and masks."""
    stored: int
    """For the backward pass."""
    peak: int
    """Of all that lives at a time."""


def numel(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def count(
    learner: Learner, spec: Spec, machine: Machine, clips: int
) -> tuple[tuple[LevelCost, ...], tuple[PartCost, ...], Memory]:
    """Levels of the encoder, parts of a step, and its memory.

    Args:
        learner: On the CPU; it stays as it is.
        spec: What it was built of.
        machine: The CPU, at the precision that is asked about.
        clips: In a step, M.
    """
    recipe, size = build_recipe(spec), spec.clip.size
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        learner = copy.deepcopy(learner)
    with fake:
        learner.train()
        batch = torch.zeros(clips, 3, spec.clip.frames, size, size)
        masks = torch.zeros(clips, 1, size, size) if spec.saccade.focus_level >= 0 else None
        slots = torch.zeros(clips, dtype=torch.int64)
        propagation, learner.propagation = learner.propagation, None

        def losses() -> Tensor:
            return training_losses(learner, recipe, batch, masks, slots, machine)[0]

        def encoder_alone() -> Tensor:
            with machine.autocast():
                features: Tensor = learner.encoder(batch, masks, recipe.focus_level)
            return features.sum()

        given = [batch, slots, *([] if masks is None else [masks])]
        levels = _levels(learner.encoder, batch, machine)
        passes = {"encoder": _run(learner, given, encoder_alone), "memory contrast": _run(learner, given, losses)}
        if propagation is not None:
            learner.propagation = propagation
            passes["consistency"] = _run(learner, given, losses)
        if spec.prototypes.num_clusters:
            learner.targets = [
                (
                    torch.zeros(len(learner.memory), dtype=torch.int64),
                    torch.zeros(num_clusters, spec.contrast.projection_dim),
                    torch.zeros(num_clusters),
                )
                for num_clusters in spec.prototypes.num_clusters
            ]
            passes["prototypes"] = _run(learner, given, losses)
        # Once more, with the gradients and the optimiser's state of a step before.
        last = _run(learner, given, losses, first=False)
        memory = Memory(
            networks=_bytes(_networks(learner)),
            bank=_bytes(_bank(learner)),
            batch=_bytes(given),
            stored=last.stored_bytes,
            peak=last.peak_bytes,
        )
    return levels, _differences(passes), memory


@dataclass(frozen=True)
class _Pass:
    """A step's forward and backward pass."""

    forward_flop: int = 0
    backward_flop: int = 0
    stored_bytes: int = 0
    peak_bytes: int = 0


def _differences(passes: dict[str, _Pass]) -> tuple[PartCost, ...]:
    """What each pass has more than the one before it."""
    before, parts = _Pass(), []
    for name, now in passes.items():
        forward, backward = now.forward_flop - before.forward_flop, now.backward_flop - before.backward_flop
        parts.append(PartCost(name, forward, backward))
        before = now
    return tuple(parts)


def _run(learner: Learner, given: list[Tensor], losses: Callable[[], Tensor], *, first: bool = True) -> _Pass:
    """`pretrain.training_step` but for its look at the loss, which has no content here.

    Args:
        first: The first step of a training; else one more after that.
    """
    if first:  # A fused optimiser takes no weights without a state beside others with one.
        learner.optimizer.state.clear()
    with _LiveBytes() as live, FlopCounterMode(display=False) as counter:
        for tensor in [*given, *_networks(learner), *_bank(learner)]:
            live.add(tensor)
        with _stored(live.storages) as saved:
            loss = losses()
        stored, forward = sum(storage.nbytes() for storage in saved.values()), counter.get_total_flops()
        saved.clear()
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        learner.optimizer.step()
        return _Pass(forward, counter.get_total_flops() - forward, stored, live.peak)


def _levels(encoder: Encoder, clips: Tensor, machine: Machine) -> tuple[LevelCost, ...]:
    """The encoder's parts, one after the other."""
    x, costs = clips, []
    known = {_key(tensor) for tensor in [clips, *encoder.parameters(), *encoder.buffers()]}
    alive = []  # so that no storage of a level takes the place of an earlier one
    for level, part in enumerate([encoder.stem, *encoder.stages], start=1):
        with FlopCounterMode(display=False) as counter, _stored(known) as saved, machine.autocast():
            x = part(x)
        costs.append(
            LevelCost(
                level=level,
                output=tuple(x.shape[1:]),
                parameters=numel(part),
                forward_flop=counter.get_total_flops() // len(clips),
                stored_bytes=sum(storage.nbytes() for storage in saved.values()),
            )
        )
        known |= saved.keys()
        alive.append(saved)
    return tuple(costs)


def _networks(learner: Learner) -> list[Tensor]:
    """Weights, buffers, gradients and what the optimiser keeps of each."""
    modules = [learner.encoder, learner.projection, *([learner.propagation] if learner.propagation else [])]
    weights = [parameter for module in modules for parameter in module.parameters()]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    kept = [value for state in learner.optimizer.state.values() for value in state.values()]
    return [
        *weights,
        *(buffer for module in modules for buffer in module.buffers()),
        *gradients,
        *(value for value in kept if isinstance(value, Tensor)),
    ]


def _bank(learner: Learner) -> list[Tensor]:
    return [learner.memory.rows, *(tensor for target in learner.targets for tensor in target)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _key(tensor: Tensor) -> int:
    """What views of one storage have in common, as long as it lives."""
    key: int = tensor.untyped_storage()._cdata
    return key


@contextmanager
def _stored(known: set[int]) -> Iterator[dict[int, UntypedStorage]]:
    """Storages that autograd keeps for the backward pass, but for known ones, each once."""
    saved: dict[int, UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _key(tensor) not in known:
            saved[_key(tensor)] = tensor.untyped_storage()
        return tensor

    # Ones that are made within are not known yet, whatever becomes of the set.
    known = set(known)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, until they are freed.

    Attributes:
        now: Bytes that live.
        peak: The most there were at a time.
        storages: Of those that live.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key not in self.storages:
            self.storages.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.now -= size
