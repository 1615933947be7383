"""What the heavy libraries say of themselves: `python -m saccade.doctor.libraries` prints it as JSON.

In a process of its own, for a library that was installed wrongly may end the process that imports it, or hang it.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["look"]

_BROKEN = (ImportError, OSError, RuntimeError, AttributeError, ValueError, TypeError)
"""What the import of a library that was installed wrongly raises."""


def look() -> dict[str, Any]:
    """Importability of each, GPUs, threads."""
    found: dict[str, Any] = {"errors": {}}
    for name, describe in _LIBRARIES.items():
        try:
            found[name] = describe()
        except _BROKEN as error:
            found["errors"][name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return found


def _torch() -> dict[str, Any]:
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append(
                {
                    "name": properties.name,
                    "bytes": properties.total_memory,
                    "free_bytes": torch.cuda.mem_get_info(index)[0],
                    "arch": f"sm_{properties.major}{properties.minor}",
                    "works": _works(torch.device("cuda", index)),
                }
            )
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "threads": torch.get_num_threads(),
    }


def _works(device: Any) -> str:
    """Empty if a product of matrices comes out right; else what is wrong."""
    import torch

    try:
        product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
        return "" if bool((product == 64).all()) else "computes wrong numbers"
    except RuntimeError as error:
        return str(error).splitlines()[0][:200]


def _torchvision() -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    from saccade import torchvision_shim

    frames = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    shape = list(torchvision_shim.functional.resize(frames, [4, 4]).shape)
    return {"version": version("torchvision"), "shim": torchvision_shim.stands_in(), "resizes": shape == [1, 3, 4, 4]}


def _faiss() -> dict[str, Any]:
    import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else None
    return {"version": faiss.__version__, "gpus": gpus, "threads": faiss.omp_get_max_threads()}


def _cv2() -> dict[str, Any]:
    import cv2

    return {"version": cv2.__version__}


def _simplejpeg() -> dict[str, Any]:
    from importlib.metadata import version

    import numpy as np
    import simplejpeg  # type: ignore[import-untyped]

    image = np.full((16, 16, 3), 128, np.uint8)
    again = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(image))
    return {"version": version("simplejpeg"), "jpeg": again.shape == image.shape and abs(int(again.mean()) - 128) < 3}


_LIBRARIES: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch,
    "torchvision": _torchvision,
    "faiss": _faiss,
    "cv2": _cv2,
    "simplejpeg": _simplejpeg,
}


def _silence() -> int:
    """Send what libraries write to stdout to nowhere; returns the real one."""
    real = os.dup(1)
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    return real


if __name__ == "__main__":
    stdout = _silence()
    os.write(stdout, json.dumps(look()).encode())
