"""Heads that pre-training puts on an encoder; its losses, in `saccade.losses`, take what they return.

Source: Lai et al., IEEE TCSVT 2023, doi 10.1109/TCSVT.2023.3290938.
"""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Projection", "PropagationHead"]


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
