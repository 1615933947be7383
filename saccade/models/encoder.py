"""Video encoders: a clip in, one feature vector out, with a fixation mask entering at a chosen level.

R3D [0] and R(2+1)D [1] with one residual block a stage, as in Lai et al., IEEE TCSVT 2023, doi
10.1109/TCSVT.2023.3290938. Levels are 0 the input, 1 the stem's output, 2 to 5 the outputs of the four stages. Weights
start as PyTorch draws them.

[0] Hara et al., 2017, arXiv:1708.07632.  [1] Tran et al., 2018, arXiv:1711.11248.

Shapes: N clips of T frames of H x W px; w the width.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.errors import SpecError

__all__ = ["ENCODERS", "NUM_LEVELS", "Encoder", "FactorisedConv3d", "build_encoder"]

NUM_LEVELS = 6
"""The input, the stem and four stages."""

Size = tuple[int, int, int]
"""Along time, height and width."""

ConvBuilder = Callable[[int, int, Size, Size], nn.Module]
"""(channels in, channels out, kernel, stride) -> a convolution padded by half its kernel, without bias."""


def full_conv3d(in_channels: int, out_channels: int, kernel: Size, stride: Size) -> nn.Module:
    """The convolution of R3D: over space and time at once."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False)


class FactorisedConv3d(nn.Module):
    """The convolution of R(2+1)D: over space, then over time, with batch norm and ReLU between.

    The width between is chosen such that the two have about as many weights as the full convolution would.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        kt, kh, kw = kernel
        middle = kt * kh * kw * in_channels * out_channels // (kh * kw * in_channels + kt * out_channels)
        self.spatial = full_conv3d(in_channels, middle, (1, kh, kw), (1, *stride[1:]))
        self.bn = nn.BatchNorm3d(middle)
        self.temporal = full_conv3d(middle, out_channels, (kt, 1, 1), (stride[0], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in, T, H, W]` to `[N, out, T', H', W']`."""
        out: Tensor = self.temporal(F.relu(self.bn(self.spatial(x)), inplace=True))
        return out


class ConvBN(nn.Module):
    """A convolution and its batch norm."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in, T, H, W]` to `[N, channels, T', H', W']`."""
        out: Tensor = self.bn(self.conv(x))
        return out


class Stem(ConvBN):
    """What stands before the stages: convolution, batch norm, ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3, T, H, W]` to `[N, w, T, H/2, W/2]`."""
        return F.relu(super().forward(x), inplace=True)


class Stage(nn.Module):
    """One residual block of two 3x3x3 convolutions; a stride other than 1 also puts a convolution in the short cut."""

    def __init__(self, conv: ConvBuilder, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        kernel, strides, ones = (3, 3, 3), (stride, stride, stride), (1, 1, 1)
        self.conv1 = conv(in_channels, out_channels, kernel, strides)
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.conv2 = conv(out_channels, out_channels, kernel, ones)
        self.bn2 = nn.BatchNorm3d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvBN(conv(in_channels, out_channels, ones, strides), out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in, T, H, W]` to `[N, out, T/stride, H/stride, W/stride]`."""
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(self.shortcut(x) + residual, inplace=True)


class Encoder(nn.Module):
    """Stem, four stages and a global average pool.

    Attributes:
        feature_dim: Length of a feature vector, 8 w.
        level_channels: Channels of levels 0 to 5: 3, w, w, 2 w, 4 w, 8 w.
    """

    def __init__(self, conv: ConvBuilder, *, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise SpecError(f"encoder.width: {width} is not a number of channels; give at least 1 (published: 64)")
        self.level_channels = (3, width, width, 2 * width, 4 * width, 8 * width)
        self.feature_dim = self.level_channels[-1]
        self.stem = Stem(conv(3, width, (3, 7, 7), (1, 2, 2)), width)
        channels = self.level_channels[1:]
        self.stages = nn.ModuleList(
            Stage(conv, before, after, stride=1 if number == 0 else 2)
            for number, (before, after) in enumerate(pairwise(channels))
        )

    def forward(self, clips: Tensor, masks: Tensor | None = None, mask_level: int = -1) -> Tensor:
        """Features of clips; see `forward_levels`.

        Returns:
            Features `[N, feature_dim]`.
        """
        return self.forward_levels(clips, masks, mask_level)[0]

    def forward_levels(
        self, clips: Tensor, masks: Tensor | None = None, mask_level: int = -1, level: int = NUM_LEVELS - 1
    ) -> tuple[Tensor, Tensor]:
        """Features of clips, and one level's output on the way.

        Args:
            clips: Normalised clips `[N, 3, T, H, W]`.
            masks: Fixation masks `[N, 1, H, W]` in [0, 1], the same for all frames of a clip; None: no mask.
            mask_level: Level whose output x becomes `x + x * mask` before it goes on; -1: no mask.
            level: Level whose output is returned. It is what the next level gets: with the mask, where it enters there.

        Returns:
            Features `[N, feature_dim]`, the mean over time and space, at least float32 (also under autocast), and the
            level's output `[N, level_channels[level], t, h, w]`.
        """
        if not -1 <= mask_level < NUM_LEVELS or not 0 <= level < NUM_LEVELS:
            raise ValueError(f"mask_level {mask_level} must be in [-1, 5] and level {level} in [0, 5]")
        x = wanted = clips
        for number, part in enumerate([None, self.stem, *self.stages]):
            if part is not None:
                x = part(x)
            if masks is not None and number == mask_level:
                x = _emphasise(x, masks)
            if number == level:
                wanted = x
        # Summed in float32, without a float32 copy of the map.
        return x.mean((2, 3, 4), dtype=torch.promote_types(x.dtype, torch.float32)), wanted


def _emphasise(x: Tensor, masks: Tensor) -> Tensor:
    """`x + x * mask` for `[N, C, t, h, w]`, the mask `[N, 1, H, W]` resized to h x w."""
    if masks.shape[-2:] != x.shape[-2:]:
        masks = F.interpolate(masks, size=x.shape[-2:], mode="bilinear", align_corners=True)
    # Written as one product: one pass over the map, and only the small mask is kept for the backward pass.
    return x * (1 + masks).to(x.dtype)[:, :, None]


ENCODERS: dict[str, ConvBuilder] = {"r3d": full_conv3d, "r2plus1d": FactorisedConv3d}
"""Name in a spec -> the convolution that makes the encoder."""


def build_encoder(name: str, *, width: int = 64) -> Encoder:
    """A new encoder, its weights drawn from torch's global generator.

    Args:
        name: One of `ENCODERS`.
        width: Channels w of the first stage; published 64, so features of 512.

    Raises:
        SpecError: When there is no encoder of that name.

    Example:
        >>> build_encoder("r3d", width=8)(torch.zeros(2, 3, 16, 64, 64)).shape
        torch.Size([2, 64])
    """
    if name not in ENCODERS:
        raise SpecError(f"encoder.name: there is no encoder {name!r}; use one of {', '.join(ENCODERS)}")
    return Encoder(ENCODERS[name], width=width)
