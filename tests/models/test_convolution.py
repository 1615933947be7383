"""The own convolutions beside PyTorch's in double precision, which knows nothing of them."""

import copy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.models import conv_cpu
from saccade.models.backbones import PUBLISHED_WIDTH
from saccade.models.convolution import Conv3d, use_own_convolutions
from saccade.models.encoder import Encoder, build_encoder

needs_kernels = pytest.mark.skipif(not conv_cpu.available(), reason="not a machine with AVX2 alone and a compiler")

# (channels in, out, kernel, stride, (T, H, W)); the first three go Winograd's way.
CASES = [
    (16, 24, (3, 3, 3), (1, 1, 1), (4, 12, 15)),  # tiles that stand over, to the right only
    (24, 16, (1, 3, 3), (1, 1, 1), (2, 14, 9)),
    (16, 16, (3, 3, 3), (1, 1, 1), (16, 8, 8)),  # several clips at a time
    (20, 17, (3, 3, 3), (1, 1, 1), (3, 6, 5)),
    (16, 40, (3, 3, 3), (2, 2, 2), (4, 9, 8)),
    (16, 20, (1, 3, 3), (1, 2, 2), (3, 8, 9)),
    (18, 16, (3, 1, 1), (2, 1, 1), (5, 4, 3)),
    (33, 16, (1, 1, 1), (2, 2, 2), (4, 7, 6)),
    (300, 16, (3, 1, 1), (1, 1, 1), (2, 3, 2)),  # more channels than are summed at a time
]


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_conv3d(case: tuple[int, int, tuple, tuple, tuple]) -> None:
    channels, out, taps, stride, size = case
    conv = Conv3d(channels, out, taps, stride)
    use_own_convolutions(conv)
    x = torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    exact_x, exact_weight = x.detach().double().requires_grad_(), conv.weight.detach().double().requires_grad_()
    exact = F.conv3d(exact_x, exact_weight, stride=stride, padding=conv.padding)
    wanted = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2))
    y = conv(x)
    assert type(y.grad_fn).__name__ == "_OwnBackward"
    y.backward(wanted)
    exact.backward(wanted.double())
    # float32 rounds by 6e-8; Winograd's way multiplies that by about ten, the direct one by less than PyTorch's.
    assert _relative(y, exact) < 3e-6
    assert _relative(x.grad, exact_x.grad) < 3e-6
    assert _relative(conv.weight.grad, exact_weight.grad) < 3e-6


@needs_kernels
def test_both_ways_are_tried_by_these_cases() -> None:
    ways = [
        conv_cpu._suits_winograd(torch.empty(3, *size, channels), out, taps, stride)
        for channels, out, taps, stride, size in CASES
    ]
    assert ways == [True] * 3 + [False] * 6


@needs_kernels
def test_the_number_of_threads_changes_nothing() -> None:
    def results() -> list[Tensor]:
        found = []
        for channels, out, taps, stride, size in CASES:
            generator = torch.Generator().manual_seed(3)
            x = torch.randn(3, channels, *size, generator=generator)
            kernel = torch.randn(out, channels, *taps, generator=generator)
            y = conv_cpu.convolve(x, kernel, stride)
            dx = conv_cpu.input_gradient(y, kernel, stride, size)
            found += [y, dx, conv_cpu.kernel_gradient(x, y, taps, stride)]
        return found

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results()
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(one, results(), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_kernels
@pytest.mark.parametrize("name", ["r3d", "r2plus1d"])
def test_an_encoder_learns_the_same_with_them(name: str) -> None:
    torch.manual_seed(1)
    plain = build_encoder(name, width=16).to(memory_format=torch.channels_last_3d)
    own = copy.deepcopy(plain)
    use_own_convolutions(own)
    assert own.state_dict().keys() == plain.state_dict().keys()
    clips = torch.randn(4, 3, 8, 32, 32)
    results = []
    for encoder in (plain, own):
        features = encoder(clips)
        features.square().sum().backward()
        results.append((features.detach().double(), encoder.stem.conv))
    assert _relative(results[1][0], results[0][0]) < 1e-5
    for theirs, ours in zip(plain.parameters(), own.parameters(), strict=True):
        # A ReLU whose input is within rounding of 0 may open here and stay closed there.
        assert _relative(ours.grad, theirs.grad.double()) < 2e-2
    copied = copy.deepcopy(own)
    assert all(part.own for part in copied.modules() if isinstance(part, Conv3d))


def _spied(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    called: list[str] = []
    convolve = conv_cpu.convolve

    def spy(x: Tensor, kernel: Tensor, stride: tuple[int, int, int]) -> Tensor:
        called.append(str(x.dtype))
        return convolve(x, kernel, stride)

    monkeypatch.setattr(conv_cpu, "convolve", spy)
    use_own_convolutions(encoder)
    return called


@needs_kernels
def test_only_float32_on_a_cpu_and_wide_enough_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PUBLISHED_WIDTH >= 16
    encoder = build_encoder("r3d", width=16).eval()
    called = _spied(encoder, monkeypatch)
    clips = torch.zeros(1, 3, 8, 16, 16)
    with torch.no_grad():
        encoder(clips)
        assert len(called) == 11  # all but the stem, which sees 3 channels
        encoder.double()(clips.double())
        encoder.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encoder(clips)
        exported = torch.export.export(encoder, (clips,))
        assert "convolution" in str(exported.graph) or "conv3d" in str(exported.graph)
    assert len(called) == 11


def test_without_a_compiler_a_line_says_so_and_pytorch_convolves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(conv_cpu, "_library", conv_cpu._library.__wrapped__)
    assert not conv_cpu.available.__wrapped__()
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "no C compiler was found" in said
    assert "install gcc" in said


def test_a_compiler_that_fails_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise subprocess.CalledProcessError(1, "gcc", stderr="gcc: error: unrecognized option\nand more\n")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc")
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(conv_cpu, "_library", conv_cpu._library.__wrapped__)
    assert not conv_cpu.available.__wrapped__()
    assert "unrecognized option" in capfd.readouterr().err


def test_other_processors_keep_pytorchs(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not conv_cpu.available.__wrapped__()
    assert capfd.readouterr().err == ""
