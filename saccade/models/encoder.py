"""Video encoders: a clip in, one feature vector out, with a fixation mask entering at a chosen level.

Levels are 0 the input, 1 the stem's output, 2 to 5 the outputs of the four stages of a `Backbone`.

Shapes: N clips of T frames of H x W px; w the width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.errors import SpecError
from saccade.models.backbones import ENCODERS, PUBLISHED_WIDTH, Backbone

__all__ = ["ENCODERS", "NUM_LEVELS", "Encoder", "build_encoder"]

NUM_LEVELS = 6
"""The input, the stem and four stages."""


class Encoder(nn.Module):
    """Stem, four stages and a global average pool.

    Attributes:
        feature_dim: Length of a feature vector, the channels of the last stage.
        level_channels: Channels of levels 0 to 5; 3, w, w, 2 w, 4 w, 8 w in the published encoders.
        min_frames: Fewest frames of a clip.
        min_size: Smallest side of a clip, px.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.level_channels = (3, *backbone.channels)
        self.feature_dim = self.level_channels[-1]
        self.min_frames, self.min_size = backbone.min_frames, backbone.min_size
        self.stem = backbone.stem
        self.stages = nn.ModuleList(backbone.stages)

    def forward(self, clips: Tensor, masks: Tensor | None = None, mask_level: int = -1) -> Tensor:
        """Features of clips; see `forward_levels`.

        Returns:
            Features `[N, feature_dim]`.
        """
        return self.forward_levels(clips, masks, mask_level)[0]

    def forward_levels(
        self, clips: Tensor, masks: Tensor | None = None, mask_level: int = -1, level: int = NUM_LEVELS - 1
    ) -> tuple[Tensor, Tensor]:
        """Features of clips, and one level's output on the way.

        Args:
            clips: Normalised clips `[N, 3, T, H, W]`.
            masks: Fixation masks `[N, 1, H, W]` in [0, 1], the same for all frames of a clip; None: no mask.
            mask_level: Level whose output x becomes `x + x * mask` before it goes on; -1: no mask.
            level: Level whose output is returned. It is what the next level gets: with the mask, where it enters there.

        Returns:
            Features `[N, feature_dim]`, the mean over time and space, at least float32 (also under autocast), and the
            level's output `[N, level_channels[level], t, h, w]`.
        """
        if not -1 <= mask_level < NUM_LEVELS or not 0 <= level < NUM_LEVELS:
            raise ValueError(f"mask_level {mask_level} must be in [-1, 5] and level {level} in [0, 5]")
        x = wanted = clips
        for number, part in enumerate([None, self.stem, *self.stages]):
            if part is not None:
                x = part(x)
            if masks is not None and number == mask_level:
                x = _emphasise(x, masks)
            if number == level:
                wanted = x
        # Summed in float32, without a float32 copy of the map.
        return x.mean((2, 3, 4), dtype=torch.promote_types(x.dtype, torch.float32)), wanted


def _emphasise(x: Tensor, masks: Tensor) -> Tensor:
    """`x + x * mask` for `[N, C, t, h, w]`, the mask `[N, 1, H, W]` resized to h x w."""
    if masks.shape[-2:] != x.shape[-2:]:
        masks = F.interpolate(masks, size=x.shape[-2:], mode="bilinear", align_corners=True)
    # Written as one product: one pass over the map, and only the small mask is kept for the backward pass.
    return x * (1 + masks).to(x.dtype)[:, :, None]


def build_encoder(name: str, *, width: int = PUBLISHED_WIDTH) -> Encoder:
    """A new encoder, its weights drawn from torch's global generator.

    Args:
        name: One of `ENCODERS`.
        width: Channels w of the first stage; published 64, so features of 512. torchvision's networks have no other.

    Raises:
        SpecError: When there is no encoder of that name, or not of that width.

    Example:
        >>> build_encoder("r3d", width=8)(torch.zeros(2, 3, 16, 64, 64)).shape
        torch.Size([2, 64])
    """
    if name not in ENCODERS:
        raise SpecError(f"encoder.name: there is no encoder {name!r}; use one of {', '.join(ENCODERS)}")
    return Encoder(ENCODERS[name](width))
