"""Features of many videos with the encoder as it stands: the pass that clustering and retrieval share."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.datasets.clips import Item, VideoClips, make_loader, render
from saccade.engine.stop import StopRequest
from saccade.progress import progress

__all__ = ["extract_features"]


@torch.no_grad()
def extract_features(
    dataset: VideoClips,
    encode: Callable[[Tensor, Tensor | None], Tensor],
    *,
    clip_size: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    stop: StopRequest,
    desc: str,
    epoch: int = 0,
    normalised: bool = True,
) -> npt.NDArray[np.float32]:
    """Encode every clip of every video, the last partial batch included.

    Args:
        dataset: The videos and the clips of each.
        encode: From clips `[M, 3, T, H, W]` and masks (or None) to features `[M, D]`.
        clip_size: Side of the clips, px.
        batch_size: Videos encoded at a time.
        workers: Processes that decode.
        device: Where `encode` wants its input.
        stop: Checked after each batch.
        desc: What the progress bar says.
        epoch: For choosers that draw.
        normalised: Give the clips ImageNet's mean and deviation, and not values in [0, 1].

    Returns:
        `[N, V, D]`: N videos in the dataset's order, V clips each.
    """
    items = [Item(epoch, index) for index in range(len(dataset))]
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    rows = []
    with progress(desc=desc, unit="video", total=len(items)) as bar:
        for samples in make_loader(dataset, batches, workers):
            clips, masks = render(samples, size=clip_size, device=device, normalised=normalised)
            features = encode(clips, masks).float()
            rows.append(features.view(len(samples), -1, features.shape[-1]).cpu().numpy())
            bar.update(len(samples))
            stop.check()
    return np.concatenate(rows)
