"""The encoder's input of a batch, made of decoded clips on the device that wants it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saccade.datasets.clips import Sample
from saccade.engine.device import send
from saccade.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise
from saccade.transforms_cpu import apply_view_cpu, normalise_in_place
from saccade.transforms_gpu import apply_views, table_of

__all__ = ["render"]


def render(
    samples: Sequence[Sample], *, size: int, device: torch.device, normalised: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Make the encoder's input of a batch on `device`.

    Args:
        samples: B samples of V clips each.
        size: Side of the clips, px.
        device: Where to.
        normalised: Give the clips ImageNet's mean and deviation, and not values in [0, 1].

    Returns:
        Clips `[B * V, 3, T, size, size]`, channels last in memory, and their masks `[B * V, 1, size, size]` or None.
    """
    if device.type == "cpu":
        return _render_on_cpu(samples, size=size, normalised=normalised)
    return _render_on_gpu(samples, size=size, device=device, normalised=normalised)


def _render_on_gpu(
    samples: Sequence[Sample], *, size: int, device: torch.device, normalised: bool
) -> tuple[Tensor, Tensor | None]:
    table = table_of([view for sample in samples for view in sample.views], size)
    table = replace(table, numbers=send(table.numbers, device), order=send(table.order, device))
    clips, planes = [], []
    for sample in samples:
        frames = send(sample.frames, device)
        clips.append([frames[span] for span in sample.spans])
        if sample.masks is not None:
            planes.append(send(sample.masks, device))
    seen, masks = apply_views(clips, planes or None, table, size=size)
    inputs = seen.transpose(1, 2)
    if normalised:
        inputs = normalise(inputs, *send(torch.tensor([IMAGENET_MEAN, IMAGENET_STD]), device))
    return inputs.contiguous(memory_format=torch.channels_last_3d), masks


def _render_on_cpu(samples: Sequence[Sample], *, size: int, normalised: bool) -> tuple[Tensor, Tensor | None]:
    views = [(sample, v) for sample in samples for v in range(len(sample.views))]
    first = samples[0].spans[0]
    clips = torch.empty(len(views), first.stop - first.start, size, size, 3)
    masks = []
    for clip, (sample, v) in zip(clips, views, strict=True):
        plane = None if sample.masks is None else sample.masks[v : v + 1]
        mask = apply_view_cpu(sample.frames[sample.spans[v]], plane, sample.views[v], clip)
        if normalised:
            normalise_in_place(clip, IMAGENET_MEAN, IMAGENET_STD)
        if mask is not None:
            masks.append(mask)
    return clips.permute(0, 4, 1, 2, 3), torch.stack(masks) if masks else None
