"""Which device, at which precision, with how many threads, and with whose kernels."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import faiss
import torch
from torch import Tensor

from saccade.amounts import counted
from saccade.engine import nvjpeg
from saccade.engine.bf16_cpu import SmallMapsInFloat32, has_bf16_without_amx
from saccade.errors import SpecError

__all__ = ["Machine", "has_bf16_units", "pick_machine", "send"]


@dataclass(frozen=True)
class Machine:
    """Where tensors live and how convolutions and matrix products are computed."""

    device: torch.device
    precision: str
    """"fp32" or "bf16"."""
    own_convolutions: bool = False
    """Use `saccade.models.conv_cpu` where it is available."""
    compiled: bool = False
    """Fuse what stands between convolutions by torch.compile, in training."""
    graphs: bool = False
    """Start the kernels of what is compiled as CUDA graphs."""
    nvjpeg: bool = False
    """Decode frames on the GPU."""

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Context in which the encoder runs, once; losses leave it by casting to fp32."""
        with ExitStack() as contexts:
            if self.compiled and not torch.is_grad_enabled():
                # Evaluations see batches of many sizes, few of each: compiling for them would take longer than they do.
                contexts.enter_context(torch.compiler.set_stance("force_eager"))
            elif self.graphs:
                # What the encoder gave last may be written over.
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            if self.precision != "fp32":
                contexts.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
                if self.device.type == "cpu" and has_bf16_without_amx():
                    contexts.enter_context(SmallMapsInFloat32())
            yield

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Context of a training step: on a GPU its float32 matrix products are TF32, as its convolutions always are.

        Not for all of the process: evaluations and k-means compare distances that TF32 cannot tell apart.
        """
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.device.type == "cuda"
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    @property
    def description(self) -> str:
        """For people: the GPU's name, or the CPU's threads."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"CPU, {counted(torch.get_num_threads(), 'thread')}, {self.precision}"


def pick_machine(
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    *,
    convolutions: str = "torch",
    compiled: str = "off",
    decode: str = "cpu",
) -> Machine:
    """Choose device, precision and kernels, and set the threads of torch and faiss in this process.

    Args:
        device: "cpu", "cuda", or "auto" for cuda when there is one.
        precision: "fp32", "bf16", or "auto" for bf16 where the device has units for it.
        threads: Threads on the CPU; None: one per core this process may use.
        convolutions: "auto" for this package's own where they are the faster ones, or "torch".
        compiled: Whether to use torch.compile: "on", "off", "graphs" for CUDA graphs too, or "auto" for cuda, with a
            line where it cannot.
        decode: What decodes frames: "cpu" or "nvjpeg".

    Raises:
        SpecError: When cuda, torch.compile or nvJPEG is asked for and not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SpecError("engine.device: cuda was asked for and PyTorch sees no CUDA device; use auto or cpu")
    # faiss and torch bring an OpenMP each; untold, each takes all cores of the host (a container's share is less).
    count = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if precision == "auto":
        precision = "bf16" if has_bf16_units(chosen) else "fp32"
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark = True  # Every step has the same shapes.
    own = convolutions == "auto" and chosen.type == "cpu" and precision == "fp32"
    if decode == "nvjpeg" and (missing := "it sees no CUDA device" if chosen.type != "cuda" else nvjpeg.why_not()):
        raise SpecError(f"engine.decode: nvjpeg was asked for, which torchvision cannot use here ({missing}); use cpu")
    return Machine(
        chosen,
        precision,
        own,
        compiled=_compiles(compiled, chosen),
        graphs=compiled == "graphs",
        nvjpeg=decode == "nvjpeg",
    )


def _compiles(wanted: str, device: torch.device) -> bool:
    if wanted == "off" or (wanted == "auto" and device.type != "cuda"):
        return False
    missing = None
    if not any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "gcc", "cc", "clang")):
        missing = "no C compiler was found; install gcc"
    elif device.type == "cuda" and find_spec("triton") is None:
        missing = "there is no triton; pip install triton"
    if wanted == "graphs" and device.type != "cuda":
        missing = "PyTorch sees no CUDA device; use on"
    if missing is not None and wanted in {"on", "graphs"}:
        raise SpecError(f"engine.compile: {wanted} was asked for, but {missing}, or use auto")
    if missing is not None:
        print(f"saccade: the step is not compiled, and slower: {missing}", file=sys.stderr, flush=True)
    return missing is None


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for it: a GPU fetches it from pinned memory in its own time.

    One that is there already stays where it is.
    """
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def has_bf16_units(device: torch.device) -> bool:
    """Whether a device computes in bf16, and does not only imitate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
