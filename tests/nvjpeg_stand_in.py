"""What nvJPEG would give, by libjpeg-turbo, for tests where there is no GPU."""

import simplejpeg  # type: ignore[import-untyped]
import torch
from torch import Tensor

__all__ = ["on_cpu"]


def on_cpu(files: list[Tensor]) -> Tensor:
    """Frames of JPEG files, uint8 `[n, 3, H, W]`; of damaged ones and of several sizes an error as PyTorch's."""
    try:
        frames = [torch.from_numpy(simplejpeg.decode_jpeg(file.numpy().tobytes())) for file in files]
    except ValueError as error:
        raise RuntimeError(f"Failed to decode batch: {error}") from error
    return torch.stack(frames).permute(0, 3, 1, 2).contiguous()
