"""Heads on an encoder: those of pre-training, whose losses, in `saccade.losses`, take what they return; classifiers.

Source: Lai et al., IEEE TCSVT 2023, doi 10.1109/TCSVT.2023.3290938.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.engine import ranks

__all__ = ["ClassifierHead", "Projection", "PropagationHead"]


class Projection(nn.Module):
    """`p(x) = normalise(W x + b)`, b zero at the start: where clips, memory rows and prototypes are compared.

    Args:
        feature_dim: Length C of what comes in.
        projection_dim: Length D of what goes out. Published: 512.
    """

    def __init__(self, feature_dim: int, projection_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, projection_dim)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Features or memory rows `[N, C]` to vectors of length 1, float32 `[N, D]`."""
        return F.normalize(self.linear(x).float(), dim=1)


class PropagationHead(nn.Module):
    """The two 1x1x1 convolutions of the consistency loss (PixPro, Xie et al., 2021, arXiv:2011.10043).

    They see each position alone, so maps may be regrouped by video before or after.

    Args:
        channels: Channels C of the level that is compared.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projector = nn.Conv3d(channels, channels, 1)
        self.value_transform = nn.Conv3d(channels, channels, 1)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """A level's output `[N, C, t, h, w]` to projected maps z and values g (not normalised yet), same shape."""
        projected = self.projector(maps)
        return projected, self.value_transform(projected)


class ClassifierHead(nn.Module):
    """A linear layer, and what the protocol puts before it.

    Args:
        feature_dim: Length C of a feature.
        classes: Number K of classes.
        standardise: Give features a length of 1, then batch norm: the linear probe.
        dropout: Part of the features' values that is zeroed in training: fine-tuning.
    """

    def __init__(self, feature_dim: int, classes: int, *, standardise: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.standardise, self.dropout = standardise, dropout
        self.bn = nn.BatchNorm1d(feature_dim) if standardise else nn.Identity()
        self.linear = nn.Linear(feature_dim, classes)

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features `[N, C]` to logits `[N, K]`.

        Args:
            features: Of clips.
            generator: Draws which values are dropped, on the CPU: a run drops the same wherever it is resumed.
        """
        if self.standardise:
            features = F.normalize(features, dim=1)
        features = self.bn(features)
        if self.training and self.dropout:
            # For the videos of all processes, of which it is given one's.
            draws = torch.rand(len(features) * ranks.size(), features.shape[1], generator=generator)
            kept = ranks.own_rows(draws) >= self.dropout
            features = features * kept.to(features.device) / (1 - self.dropout)
        logits: Tensor = self.linear(features)
        return logits
