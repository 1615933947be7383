"""Decoding on a GPU: JPEG files go there as they are, through torchvision and NVIDIA's nvJPEG.

For machines with few cores to each GPU. Its pixels are not libjpeg-turbo's: another inverse transform, and colours that
are scaled up in another way.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
import torch
from torch import Tensor

from saccade import torchvision_shim
from saccade.errors import first_line

__all__ = ["decode_on_gpu", "why_not"]

_AWAY = 8.0
"""How far a picture of two colours may come from itself, of 255, on the mean of its pixels."""


def decode_on_gpu(files: Tensor, ends: Sequence[int]) -> Tensor | None:
    """Decode JPEG files of one size on the GPU that is in use.

    The host waits until it is done, so this is for a thread beside that of the training.

    Args:
        files: Their bytes, one after another, uint8 `[N]`, on the host.
        ends: Where each of the n files ends.

    Returns:
        RGB, uint8 `[n, 3, H, W]` on the GPU; None where nvJPEG or the GPU's memory does not allow it.
    """
    try:
        return _decoded(list(torch.tensor_split(files, list(ends[:-1]))))
    except RuntimeError:
        return None


def why_not() -> str | None:
    """Why the GPU that is in use cannot decode; None: it can."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :24] = (200, 40, 60)
    file = torch.frombuffer(bytearray(simplejpeg.encode_jpeg(picture, quality=95)), dtype=torch.uint8)
    try:
        seen = _decoded([file])[0].permute(1, 2, 0).cpu().numpy()
    except (RuntimeError, AttributeError, ImportError) as error:
        return first_line(error)
    if seen.shape != picture.shape or np.abs(seen.astype(float) - picture).mean() > _AWAY:
        return "its pixels are not those of the picture"
    return None


def _decoded(files: list[Tensor]) -> Tensor:
    device = torch.device("cuda", torch.cuda.current_device())
    # torchvision decodes on a stream of its own, without waiting for the one that gives out memory: on that of the
    # training it could write over what a kernel that is yet to come still reads.
    stream = _stream(device)
    with torch.cuda.stream(stream):
        frames = torch.stack(torchvision_shim.io.decode_jpeg(files, torchvision_shim.io.ImageReadMode.RGB, device))
    stream.synchronize()
    frames.record_stream(torch.cuda.default_stream(device))
    return frames


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
