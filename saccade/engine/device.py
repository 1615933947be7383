"""Which device, at which precision, with how many threads."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import faiss
import torch

from saccade.errors import SpecError

__all__ = ["Machine", "has_bf16_units", "pick_machine"]


@dataclass(frozen=True)
class Machine:
    """Where tensors live and how convolutions and matrix products are computed."""

    device: torch.device
    precision: str
    """"fp32" or "bf16"."""

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the encoder runs; losses leave it by casting to fp32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @property
    def description(self) -> str:
        """For people: the GPU's name, or the CPU's threads."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"CPU, {torch.get_num_threads()} threads, {self.precision}"


def pick_machine(device: str = "auto", precision: str = "auto", threads: int | None = None) -> Machine:
    """Choose device and precision, and set the threads of torch and faiss in this process.

    Args:
        device: "cpu", "cuda", or "auto" for cuda when there is one.
        precision: "fp32", "bf16", or "auto" for bf16 where the device has units for it.
        threads: Threads on the CPU; None: one per core this process may use.

    Raises:
        SpecError: When cuda is asked for and not there.
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
    return Machine(chosen, precision)


def has_bf16_units(device: torch.device) -> bool:
    """Whether a device computes in bf16, and does not only imitate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
