"""Architectures, each as a stem and four stages; `saccade.models.encoder` makes encoders of them.

R3D [0] and R(2+1)D [1] with one residual block a stage, as in Lai et al., IEEE TCSVT 2023, doi
10.1109/TCSVT.2023.3290938; weights start as PyTorch draws them. And torchvision's video networks, with two blocks a
stage [1] or of separable inception blocks [2], without their classifiers; weights start as torchvision draws them.

[0] Hara et al., 2017, arXiv:1708.07632.  [1] Tran et al., 2018, arXiv:1711.11248.  [2] Xie et al., 2018,
arXiv:1712.04851.

Shapes: N clips of T frames of H x W px; w the width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from saccade import torchvision_shim
from saccade.errors import SpecError
from saccade.models.convolution import Conv3d

__all__ = ["ENCODERS", "PUBLISHED_WIDTH", "Backbone"]

PUBLISHED_WIDTH = 64
"""Channels of the first stage, in the publication and in all of torchvision's networks."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network in parts that are called one after the other."""

    stem: nn.Module
    stages: tuple[nn.Module, ...]
    """Four."""
    channels: tuple[int, int, int, int, int]
    """Of what the stem and each stage give."""
    min_frames: int = 1
    """Fewest frames that leave something for the last stage, and right gradients."""
    min_size: int = 16
    """Smallest side that leaves something for the last stage, px."""


Size = tuple[int, int, int]
"""Along time, height and width."""

ConvBuilder = Callable[[int, int, Size, Size], nn.Module]
"""(channels in, channels out, kernel, stride) -> a convolution padded by half its kernel, without bias."""


def full_conv3d(in_channels: int, out_channels: int, kernel: Size, stride: Size) -> nn.Module:
    """The convolution of R3D: over space and time at once."""
    return Conv3d(in_channels, out_channels, kernel, stride)


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


def _published(conv: ConvBuilder, width: int) -> Backbone:
    """R3D or R(2+1)D, whichever the convolution makes."""
    if width < 1:
        raise SpecError(f"encoder.width: {width} is not a number of channels; give at least 1 (published: 64)")
    channels = (width, width, 2 * width, 4 * width, 8 * width)
    stem = Stem(conv(3, width, (3, 7, 7), (1, 2, 2)), width)
    stages = tuple(
        Stage(conv, before, after, stride=1 if number == 0 else 2)
        for number, (before, after) in enumerate(pairwise(channels))
    )
    return Backbone(stem=stem, stages=stages, channels=channels)


def _torchvision(name: str, width: int) -> Backbone:
    """One of torchvision's networks."""
    if width != PUBLISHED_WIDTH:
        raise SpecError(f"encoder.width: {width}, but {name} has widths of its own; leave encoder.width out")
    network = getattr(torchvision_shim.video_models, name)(weights=None)
    if name != "s3d":
        layers = (network.layer1, network.layer2, network.layer3, network.layer4)
        return Backbone(stem=network.stem, stages=layers, channels=(64, 64, 128, 256, 512))
    # Every stage begins with one of its four poolings, of which the last pads nothing; so 5 frames would do. But on
    # processors with AVX-512, PyTorch 2.13 (oneDNN) writes beside the stem's gradients, kernel (7, 1, 1) with stride 2,
    # for fewer than 8: numbers of 1e30, or the end of the process.
    stem, *stages = (network.features[start:end] for start, end in pairwise((0, 1, 4, 7, 13, 16)))
    return Backbone(stem=stem, stages=tuple(stages), channels=(64, 192, 480, 832, 1024), min_frames=8, min_size=17)


ENCODERS: dict[str, Callable[[int], Backbone]] = {
    "r3d": partial(_published, full_conv3d),
    "r2plus1d": partial(_published, FactorisedConv3d),
    **{name: partial(_torchvision, name) for name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")},
}
"""Name in a spec -> from a width to the network in parts, its weights drawn from torch's global generator."""
