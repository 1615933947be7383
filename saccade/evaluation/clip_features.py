"""Features of the clips that a classifier is trained and tested on, from an encoder that learns or from a frozen one.

Shapes: B videos in a step, M tested videos of V clips each, C channels of a feature.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.datasets.clips import EvenClips, Item, RandomClip, Sample, VideoClips
from saccade.datasets.layout import Video
from saccade.datasets.loader import make_loader
from saccade.datasets.render import render
from saccade.engine.device import Machine
from saccade.models.encoder import Encoder
from saccade.rng import generator

__all__ = ["Clips", "EncodedClips", "Extract", "StoredFeatures"]

Samples = Sequence[Sample]

Extract = Callable[
    [Sequence[Video], EvenClips, Callable[[Tensor, Tensor | None], Tensor], str], npt.NDArray[np.float32]
]
"""(videos, their clips, from clips and masks to features, what the progress bar says) -> features `[M, V, C]`."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """The clips of one split, and how they are made."""

    train: Sequence[Video]
    random: RandomClip
    """For training."""
    even: EvenClips
    """For tests."""
    size: int
    """Side of a clip, px."""
    normalised: bool
    """Whether clips have ImageNet's mean and deviation, and not values in [0, 1]."""
    workers: int
    patience_sec: float
    """How long a video may take to come from the workers."""
    machine: Machine
    extract: Extract


class _Features:
    """What training and tests get of a split, through one encoder.

    Args:
        encoder: On the device of the clips' machine.
        clips: The split's.
        frozen: Training leaves the encoder as it is, so that features of test clips are made once.
    """

    def __init__(self, encoder: Encoder, clips: Clips, *, frozen: bool) -> None:
        self.encoder, self.clips, self.frozen = encoder, clips, frozen
        self._made: dict[str, Tensor] = {}

    def encode(self, clips: Tensor, masks: Tensor | None = None) -> Tensor:
        """Clips `[M, 3, T, H, W]` to features `[M, C]`, float32."""
        with self.clips.machine.autocast():
            features: Tensor = self.encoder(clips)
        return features.float()

    def even(self, part: str, videos: Sequence[Video]) -> Tensor:
        """Features of the evenly spread clips of a part's videos, `[M, V, C]`, on the device."""
        if part not in self._made:
            features = self.clips.extract(videos, self.clips.even, self.encode, part)
            made = torch.from_numpy(features).to(self.clips.machine.device)
            if not self.frozen:
                return made
            self._made[part] = made
        return self._made[part]


class EncodedClips(_Features):
    """Training clips are augmented, and go through the encoder in every step."""

    def batches(self, items: Iterable[list[Item]]) -> Iterator[list[Sample]]:
        """Decoded clips of each step."""
        dataset = VideoClips(self.clips.train, self.clips.random)
        return make_loader(dataset, items, self.clips.workers, self.clips.patience_sec, self.clips.machine)

    def features(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """Features `[B, C]` and positions of the videos `[B]`; gradients reach an encoder whose weights take them."""
        device = self.clips.machine.device
        clips, _ = render(samples, size=self.clips.size, device=device, normalised=self.clips.normalised)
        return self.encode(clips), torch.tensor([sample.index for sample in samples], device=device)


class StoredFeatures(_Features):
    """Training clips are not augmented: their features are made once, and each step takes one of each video's."""

    def __init__(self, encoder: Encoder, clips: Clips) -> None:
        super().__init__(encoder, clips, frozen=True)
        self._train = self.even("train", clips.train)

    def batches(self, items: Iterable[list[Item]]) -> Iterable[list[Item]]:
        """Nothing needs to be decoded."""
        return items

    def features(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Features `[B, C]` and positions of the videos `[B]`."""
        device, count = self._train.device, self._train.shape[1]
        drawn = [int(generator(self.clips.random.seed, "stored clip", *item).integers(count)) for item in items]
        videos = torch.tensor([item.video for item in items], device=device)
        return self._train[videos, torch.tensor(drawn, device=device)], videos
