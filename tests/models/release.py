"""The release's networks and files, with its names, written anew from method.md: nothing of saccade is used here."""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 8


class FullConv(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int | tuple[int, ...], stride: Any = 1, padding: Any = 0) -> None:
        super().__init__()
        self.temporal_spatial_conv = nn.Conv3d(cin, cout, kernel, stride=stride, padding=padding, bias=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.temporal_spatial_conv(x)
        return out


class SplitConv(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: Any, stride: Any = 1, padding: Any = 0) -> None:
        super().__init__()
        (kt, kh, kw), (st, sh, sw), (pt, ph, pw) = (
            (value,) * 3 if isinstance(value, int) else value for value in (kernel, stride, padding)
        )
        middle = math.floor(kt * kh * kw * cin * cout / (kh * kw * cin + kt * cout))
        self.spatial_conv = nn.Conv3d(cin, middle, (1, kh, kw), stride=(1, sh, sw), padding=(0, ph, pw), bias=False)
        self.bn = nn.BatchNorm3d(middle)
        self.relu = nn.ReLU()
        self.temporal_conv = nn.Conv3d(middle, cout, (kt, 1, 1), stride=(st, 1, 1), padding=(pt, 0, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.temporal_conv(self.relu(self.bn(self.spatial_conv(x))))
        return out


class Block(nn.Module):
    def __init__(self, conv: Any, cin: int, cout: int, downsample: bool) -> None:
        super().__init__()
        self.downsample = downsample
        if downsample:
            self.downsampleconv = conv(cin, cout, 1, stride=2)
            self.downsamplebn = nn.BatchNorm3d(cout)
        self.conv1 = conv(cin, cout, 3, padding=1, stride=2 if downsample else 1)
        self.bn1 = nn.BatchNorm3d(cout)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(cout, cout, 3, padding=1)
        self.bn2 = nn.BatchNorm3d(cout)
        self.outrelu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.downsample:
            x = self.downsamplebn(self.downsampleconv(x))
        out: Tensor = self.outrelu(x + result)
        return out


class Layer(nn.Module):
    def __init__(self, conv: Any, cin: int, cout: int, downsample: bool) -> None:
        super().__init__()
        self.block1 = Block(conv, cin, cout, downsample)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block1(x)
        return out


class ReleaseNet(nn.Module):
    """The encoder with the heads that its pre-training or one of its classifiers has."""

    def __init__(self, conv: Any, width: int, heads: str) -> None:
        super().__init__()
        w = width
        self.conv1 = conv(3, w, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3))
        self.bn1 = nn.BatchNorm3d(w)
        self.relu1 = nn.ReLU()
        self.conv2 = Layer(conv, w, w, downsample=False)
        self.conv3 = Layer(conv, w, 2 * w, downsample=True)
        self.conv4 = Layer(conv, 2 * w, 4 * w, downsample=True)
        self.conv5 = Layer(conv, 4 * w, 8 * w, downsample=True)
        self.pool = nn.AdaptiveAvgPool3d(1)
        if heads == "pretraining":
            self.value_transform = nn.ModuleList([nn.Conv3d(8 * w, 8 * w, 1)])
            self.projector = nn.Conv3d(8 * w, 8 * w, 1)
        elif heads == "linear_probe":
            self.final_bn = nn.BatchNorm1d(8 * w)
            self.linear: nn.Module = nn.Linear(8 * w, 5)
        elif heads == "finetuned":
            self.linear = nn.Sequential(nn.Dropout(0.7), nn.Linear(8 * w, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        for layer in (self.conv2, self.conv3, self.conv4, self.conv5):
            x = layer(x)
        out: Tensor = self.pool(x).flatten(1)
        return out


CONVS = {"r3d": FullConv, "r2plus1d": SplitConv}


def release_net(name: str, *, heads: str = "pretraining", width: int = WIDTH) -> ReleaseNet:
    """A network as if trained: every weight, statistic and counter at random, the signal kept alive."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = ReleaseNet(CONVS[name], width, heads)
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm3d | nn.BatchNorm1d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
            norm.momentum = 1.0
        with torch.no_grad():
            features = net(torch.randn(3, 3, 8, 32, 32))
            if heads == "linear_probe":
                net.final_bn(features)
        for norm in norms:
            assert norm.running_var is not None
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.7, 1.4))
    return net.eval()


def release_content(net: nn.Module, *, prefix: str = "module.", epoch: int = 300) -> dict[str, Any]:
    """The dict that the release saves."""
    generator = torch.Generator().manual_seed(3)
    dim = 8 * WIDTH if not isinstance(net, ReleaseNet) else net.bn1.num_features * 8

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    state = optimizer.state_dict()
    state["state"] = {0: {"momentum_buffer": rand(3)}, 1: {"momentum_buffer": None}}
    return {
        "opt": argparse.Namespace(
            lr=0.1, lr_decay_epochs=[90, 180, 240], model="r3d", cos=False, resume=None, betas=(0.5, 0.999)
        ),
        "model": type(net.state_dict())((prefix + key, value) for key, value in net.state_dict().items()),
        "contrast": {
            "params": torch.tensor([1024.0, 0.07, -1.0, 0.5]),
            "memory": rand(6, dim),
            "memory_curr": rand(6, dim),
            "feature_proj.0.weight": rand(16, dim),
            "feature_proj.0.bias": rand(16),
        },
        "optimizer": state,
        "epoch": epoch,
        "f_level": 0,
        "f_num": 3,
    }


def save(content: Any, path: Path, **kwargs: Any) -> Path:
    torch.save(content, path, **kwargs)
    return path
