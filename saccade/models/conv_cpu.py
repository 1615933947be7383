"""3-D convolutions on a CPU, faster than PyTorch's in float32: `conv_cpu.c` and `winograd_cpu.c`, compiled here once.

3 x 3 kernels go Winograd's way over height and width (a quarter of the multiplications; Lavin & Gray, 2016,
arXiv:1509.09308), all others directly; gradients likewise. Results differ from PyTorch's in rounding only, and are the
same for every number of threads.

Shapes: maps [N, C, T, H, W] in channels-last order, kernels [K, C, kt, kh, kw], padded by half the kernel.
"""

import ctypes
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["available", "convolve", "input_gradient", "kernel_gradient"]

_SOURCES = tuple(Path(__file__).with_name(name) for name in ("winograd_cpu.c", "conv_cpu.c"))
"""The first one includes the second."""
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_LANES = 8
Triple = tuple[int, int, int]


@functools.cache
def available() -> bool:
    """Whether these convolutions are for this machine; compiles them, or says once, on stderr, why it cannot.

    They are for processors with AVX2 and no AVX-512, for whose wider vectors they were neither written nor measured.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return False
    try:
        _library()
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        reason = said.strip().splitlines()[0] if said.strip() else type(error).__name__
        print(
            f"saccade: no fast convolutions on this CPU, PyTorch's are used, at about half the speed ({reason}); "
            "install gcc to have them",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True


@functools.cache
def _library() -> ctypes.CDLL:
    """The compiled sources, kept in the user's cache for the next process."""
    source = b"".join(path.read_bytes() for path in _SOURCES)
    name = f"conv-{hashlib.sha256(source + repr((_FLAGS, _processor())).encode()).hexdigest()[:16]}.so"
    for folder in (Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saccade", None):
        try:
            folder = folder or Path(tempfile.mkdtemp(prefix="saccade-"))
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / name).is_file():
                _compile(folder / name)
            return ctypes.CDLL(str(folder / name))
        except OSError as error:
            problem = error
    raise problem


def _processor() -> str:
    """What -march=native depends on: a home may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return "".join(sorted({line for line in lines if line.startswith(("flags", "model name"))}))


def _compile(target: Path) -> None:
    compiler = next((found for name in ("gcc", "cc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise OSError("no C compiler was found")
    # Under another name first: two processes may be at it.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCES[0])]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        made.replace(target)


class _Shape(ctypes.Structure):
    """`Shape` of conv_cpu.c."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in (
            *("n", "t", "h", "w", "to_n", "to_t", "to_h", "to_w"),
            *("in_t", "in_h", "in_w", "from_n", "from_t", "from_h", "from_w"),
            *("stride_t", "stride_h", "stride_w", "pad_t", "pad_h", "pad_w", "taps_t", "taps_h", "taps_w"),
            *("run", "out", "threads"),
        )
    ]


class _Strides(ctypes.Structure):
    """`Strides` of conv_cpu.c, of a kernel [k, t, h, w, c]."""

    _fields_ = [(name, ctypes.c_long) for name in "kthwc"]


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _places(x: Tensor) -> Tensor:
    """A map as `[N, T, H, W, C]`, contiguous."""
    return x.permute(0, 2, 3, 4, 1).contiguous()


def _shape(x: Tensor, y: Tensor, taps: Triple, stride: Triple, pad: Triple) -> _Shape:
    """Of a convolution from x to y, both `[N, T, H, W, C]`; y may have gaps."""
    return _Shape(
        *y.shape[:4], *y.stride()[:4], *x.shape[1:4], *x.stride()[:4], *stride, *pad, *taps, x.shape[4], y.shape[4],
        torch.get_num_threads(),
    )  # fmt: skip


def _direct(x: Tensor, y: Tensor, kernel: Tensor, stride: Triple, pad: Triple) -> None:
    """Write the convolution of x into y; kernel `[K, kt, kh, kw, C]` of any strides."""
    shape = _shape(x, y, _triple(kernel.shape[1:4]), stride, pad)
    packed = kernel.new_empty(-(-kernel.shape[0] // 16) * 16 * kernel[0].numel())
    library = _library()
    library.pack(ctypes.byref(shape), _pointer(kernel), _Strides(*kernel.stride()), _pointer(packed))
    library.convolve(ctypes.byref(shape), _pointer(x), _pointer(packed), _pointer(y))


def _by_winograd(x: Tensor, y: Tensor, kernel: Tensor) -> None:
    taps = _triple(kernel.shape[1:4])
    shape = _shape(x, y, taps, (1, 1, 1), (taps[0] // 2, 1, 1))
    packed = kernel.new_empty(36 * -(-kernel.shape[0] // 16) * 16 * taps[0] * kernel.shape[4])
    library = _library()
    library.winograd_pack(ctypes.byref(shape), _pointer(kernel), _Strides(*kernel.stride()), _pointer(packed))
    library.winograd(ctypes.byref(shape), _pointer(x), _pointer(packed), _pointer(y))


def _triple(values: Any) -> Triple:
    first, second, third = values
    return int(first), int(second), int(third)


def _suits_winograd(x: Tensor, channels: int, taps: Triple, stride: Triple) -> bool:
    """Whether Winograd pays for a map x: tiles that do not stand over too much, and enough of them beside the channels
    for what transforming the kernel costs (measured with 64 to 512 channels)."""
    n, t, h, w, c = x.shape
    tiles = n * t * -(-h // 4) * -(-w // 4)
    return (
        taps in ((1, 3, 3), (3, 3, 3))
        and stride == (1, 1, 1)
        and c % _LANES == channels % _LANES == 0
        and 3 * tiles >= min(c, channels)
        and 16 * tiles <= 2 * n * t * h * w
    )


def convolve(x: Tensor, kernel: Tensor, stride: Triple) -> Tensor:
    """`F.conv3d` without bias, padded by half the kernel.

    Args:
        x: float32 `[N, C, T, H, W]`.
        kernel: float32 `[K, C, kt, kh, kw]`, odd numbers of taps.
        stride: Along time, height and width.

    Returns:
        `[N, K, T', H', W']`, channels last.
    """
    x, kernel = _places(x), kernel.permute(0, 2, 3, 4, 1)
    taps = _triple(kernel.shape[1:4])
    pad = _triple(k // 2 for k in taps)
    sizes = [(size - 1) // step + 1 for size, step in zip(x.shape[1:4], stride, strict=True)]
    y = x.new_empty(x.shape[0], *sizes, kernel.shape[0])
    if _suits_winograd(x, kernel.shape[0], taps, stride):
        _by_winograd(x, y, kernel)
    else:
        _direct(x, y, kernel, stride, pad)
    return y.permute(0, 4, 1, 2, 3)


def input_gradient(dy: Tensor, kernel: Tensor, stride: Triple, size: Triple) -> Tensor:
    """The gradient of `convolve` in its map.

    Args:
        dy: Gradient in the result, `[N, K, T', H', W']`.
        kernel: As in `convolve`.
        stride: As in `convolve`.
        size: T, H and W of the map.
    """
    dy, turned = _places(dy), kernel.permute(1, 2, 3, 4, 0)
    taps = _triple(turned.shape[1:4])
    if _suits_winograd(dy, kernel.shape[1], taps, stride):
        dx = dy.new_empty(dy.shape[0], *size, kernel.shape[1])
        _by_winograd(dy, dx, turned.flip(1, 2, 3))
        return dx.permute(0, 4, 1, 2, 3)
    # With a stride beyond the kernel there are places that nothing sees.
    all_seen = all(k >= step for k, step in zip(taps, stride, strict=True))
    dx = (dy.new_empty if all_seen else dy.new_zeros)(dy.shape[0], *size, kernel.shape[1])
    # The places of one remainder by the stride see the same taps: a convolution with these, in reverse.
    for remainder in itertools.product(*(range(min(step, n)) for step, n in zip(stride, size, strict=True))):
        seen = [(r + k // 2) % step for r, k, step in zip(remainder, taps, stride, strict=True)]
        if any(first >= k for first, k in zip(seen, taps, strict=True)):
            continue
        part = turned[:, seen[0] :: stride[0], seen[1] :: stride[1], seen[2] :: stride[2]].flip(1, 2, 3)
        last = [first + step * (n - 1) for first, step, n in zip(seen, stride, part.shape[1:4], strict=True)]
        pad = _triple((k - r - n // 2) // step for k, r, n, step in zip(last, remainder, taps, stride, strict=True))
        to = dx[:, remainder[0] :: stride[0], remainder[1] :: stride[1], remainder[2] :: stride[2]]
        _direct(dy, to, part, (1, 1, 1), pad)
    return dx.permute(0, 4, 1, 2, 3)


def kernel_gradient(x: Tensor, dy: Tensor, taps: Triple, stride: Triple) -> Tensor:
    """The gradient of `convolve` in its kernel, `[K, C, kt, kh, kw]`.

    Args:
        x: As in `convolve`.
        dy: Gradient in the result, `[N, K, T', H', W']`.
        taps: Kernel size.
        stride: As in `convolve`.
    """
    x, dy = _places(x), _places(dy)
    c, k = x.shape[4], dy.shape[4]
    if _suits_winograd(x, k, taps, stride):
        planes = x.new_zeros(36, k * taps[0] * c)
        shape = _shape(x, dy, taps, stride, (taps[0] // 2, 1, 1))
        _library().winograd_gradient(ctypes.byref(shape), _pointer(x), _pointer(dy), _pointer(planes))
        return (_kernel_transform().T @ planes).view(3, 3, k, taps[0], c).permute(2, 4, 3, 0, 1)
    pad = _triple(n // 2 for n in taps)
    gradient = x.new_zeros(k, *taps, c)
    shape = _shape(x, dy, taps, stride, pad)
    _library().convolve_gradient(ctypes.byref(shape), _pointer(x), _pointer(dy), _pointer(gradient))
    return gradient.permute(0, 4, 1, 2, 3)


@functools.cache
def _kernel_transform() -> Tensor:
    """From 3 x 3 taps to 36 planes, `[36, 9]`."""
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    g = torch.tensor(rows, dtype=torch.float64) / 24
    return torch.kron(g, g).float()
