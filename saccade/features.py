"""Features of many videos with the encoder as it stands: the pass that clustering and retrieval share."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.datasets.clips import Item, VideoClips
from saccade.datasets.loader import make_loader
from saccade.datasets.render import render
from saccade.engine import ranks
from saccade.engine.device import Machine
from saccade.engine.stop import StopRequest
from saccade.progress import progress

__all__ = ["extract_features"]


_BLOCK = 64
"""Batches of each process that are gathered at a time."""


@torch.no_grad()
def extract_features(
    dataset: VideoClips,
    encode: Callable[[Tensor, Tensor | None], Tensor],
    *,
    clip_size: int,
    batch_size: int,
    workers: int,
    patience_sec: float,
    machine: Machine,
    stop: StopRequest,
    desc: str,
    epoch: int = 0,
    normalised: bool = True,
    for_first: bool = False,
) -> npt.NDArray[np.float32]:
    """Encode every clip of every video, the last partial batch included; each process of the run encodes some batches.

    Args:
        dataset: The videos and the clips of each.
        encode: From clips `[M, 3, T, H, W]` and masks (or None) to features `[M, D]`.
        clip_size: Side of the clips, px.
        batch_size: Videos encoded at a time.
        workers: Processes that decode.
        patience_sec: How long a video may take to come from them.
        machine: Where `encode` wants its input.
        stop: Checked after each batch.
        desc: What the progress bar says.
        epoch: For choosers that draw.
        normalised: Give the clips ImageNet's mean and deviation, and not values in [0, 1].
        for_first: Whether the other processes have no use for the features, and get `[0, V, D]`.

    Returns:
        `[N, V, D]`: N videos in the dataset's order, V clips each; the same in every process.
    """
    items = [Item(epoch, index) for index in range(len(dataset))]
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    rounds = [batches[start : start + ranks.size()] for start in range(0, len(batches), ranks.size())]
    # In the last round a process for which nothing is left does one that another does too.
    own = [each[min(ranks.rank(), len(each) - 1)] for each in rounds]
    loader = make_loader(dataset, own, workers, patience_sec, machine)
    rows, place = torch.empty(0), 0
    with progress(desc=desc, unit="video", total=len(items)) as bar:
        for samples, done in zip(loader, rounds, strict=True):
            clips, masks = render(samples, size=clip_size, device=machine.device, normalised=normalised)
            features = encode(clips, masks).float()
            features = features.view(len(samples), -1, features.shape[-1])
            if not place:  # At once, for joining batches at the end would hold all of them twice.
                rows = torch.empty(sum(map(len, own)), *features.shape[1:])
            rows[place : place + len(samples)] = features
            place += len(samples)
            bar.update(sum(map(len, done)))
            if ranks.asked_to_stop(stop):
                stop.check()
    if ranks.size() == 1:
        return rows.numpy()
    return _of_all(rows, len(items), batch_size, ranks.gather_to_first if for_first else ranks.gather).numpy()


def _of_all(rows: Tensor, videos: int, batch_size: int, gather: Callable[[Tensor], Tensor]) -> Tensor:
    """Features of all videos in their order, from those of each process's batches.

    Of the last round of batches, some may be shorter than the others or a repetition. In blocks: those of millions of
    fixations are not to be in memory twice.
    """
    found = rows.new_empty(0)
    for start in range(0, len(rows), _BLOCK * batch_size):
        block = rows[start : start + _BLOCK * batch_size]
        rounds = -(-len(block) // batch_size)
        missing = rounds * batch_size - len(block)
        gathered = gather(torch.cat([block, block.new_zeros(missing, *block.shape[1:])]) if missing else block)
        if not start:
            found = rows.new_empty(videos if len(gathered) else 0, *rows.shape[1:])
        if len(gathered):
            ordered = gathered.view(ranks.size(), rounds, batch_size, *rows.shape[1:]).transpose(0, 1).flatten(0, 2)
            place = start * ranks.size()
            found[place : place + len(ordered)] = ordered[: videos - place]
    return found
