"""What training changes: networks, memory bank, prototypes, optimiser, and the step that has been reached."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from saccade.engine.backward import Backward
from saccade.engine.finite import LossWatch
from saccade.errors import CheckpointError
from saccade.memory_bank import MemoryBank
from saccade.models.encoder import Encoder
from saccade.models.heads import Projection, PropagationHead
from saccade.prototypes import Prototypes

__all__ = ["Learner", "Means"]


class Means:
    """Means of the values logged since the last `take`, kept on the device so that adding never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's values, scalars."""
        for name, value in values.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means, in one transfer from the device, and start anew."""
        names = list(self._sums)
        if not names:
            return {}
        sums = torch.stack([self._sums[name] for name in names]).tolist()
        means = {name: total / self._counts[name] for name, total in zip(names, sums, strict=True)}
        self._sums.clear()
        self._counts.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint taken between two logged steps."""
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on where a checkpoint was taken."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])


class Learner:
    """Everything a checkpoint holds, on one device.

    Args:
        encoder: The network that is trained.
        projection: p, into the space where features are compared.
        propagation: The two convolutions of loss 2, or None when it is off.
        memory: Memory bank of N * F slots, for N videos of F fixations.
        optimizer: Of the networks; its second group is the projection's.
        device: Where all of this lives.
    """

    def __init__(
        self,
        encoder: Encoder,
        projection: Projection,
        propagation: PropagationHead | None,
        memory: MemoryBank,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self.encoder, self.projection, self.propagation = encoder, projection, propagation
        self.memory, self.optimizer, self.device = memory, optimizer, device
        self.backward = Backward(self._modules().values())
        self.prototypes: tuple[Prototypes, ...] = ()
        self.targets: list[tuple[Tensor, Tensor, Tensor]] = []
        self.means = Means()
        self.losses = LossWatch("pretrain/loss")
        self.step = 0
        """Optimiser steps that are done."""

    def set_prototypes(self, prototypes: Iterable[Prototypes]) -> None:
        """Take new clusterings; `targets` are their (assignment, centroids, density) on the device."""
        self.prototypes = tuple(prototypes)
        self.targets = [
            (
                torch.from_numpy(p.assignment).to(self.device),
                torch.from_numpy(p.centroids).to(self.device),
                torch.from_numpy(p.density).to(self.device),
            )
            for p in self.prototypes
        ]

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"encoder": self.encoder, "projection": self.projection}
        return modules if self.propagation is None else {**modules, "propagation": self.propagation}

    def train(self, mode: bool = True) -> None:
        """Put all networks in training or evaluation mode."""
        for module in self._modules().values():
            module.train(mode)

    def set_rates(self, rate: float, projection_ratio: float) -> None:
        """Set the learning rate, and the projection's as a part of it."""
        networks, projection = self.optimizer.param_groups
        networks["lr"], projection["lr"] = rate, rate * projection_ratio

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only. All processes ask at once, for a split memory bank is put together."""
        return {
            "step": self.step,
            "networks": {name: module.state_dict() for name, module in self._modules().items()},
            "memory": self.memory.whole(),
            "optimizer": self.optimizer.state_dict(),
            "means": self.means.state_dict(),
            "prototypes": [
                {
                    "assignment": torch.from_numpy(p.assignment),
                    "distance": torch.from_numpy(p.distance),
                    "centroids": torch.from_numpy(p.centroids),
                    "density": torch.from_numpy(p.density),
                    "density_mean": p.density_mean,
                    "objective": p.objective,
                }
                for p in self.prototypes
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state.

        Raises:
            CheckpointError: When it is of another number of videos, fixations or channels.
        """
        if tuple(state["memory"].shape) != self.memory.shape:
            raise CheckpointError(
                f"the checkpoint's memory bank is {list(state['memory'].shape)}, but this run's is "
                f"{list(self.memory.shape)} [videos x focus_num, channels]; resume a run with its own spec and dataset"
            )
        for name, module in self._modules().items():
            module.load_state_dict(state["networks"][name])
        self.memory.restore(state["memory"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.means.load_state_dict(state["means"], self.device)
        self.set_prototypes(_prototypes(clustering) for clustering in state["prototypes"])
        self.step = state["step"]


def _prototypes(state: dict[str, Any]) -> Prototypes:
    arrays: dict[str, Any] = {name: v.numpy() if isinstance(v, Tensor) else v for name, v in state.items()}
    return Prototypes(**arrays)
