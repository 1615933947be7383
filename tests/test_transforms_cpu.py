"""The fast path on the CPU against the plain one, and against pictures worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.gaze.masks import fixation_mask
from saccade.rng import Draws
from saccade.spec import AugmentationSpec
from saccade.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Crop,
    Jitter,
    View,
    apply_view,
    centre_view,
    draw_training_view,
    normalise,
)
from saccade.transforms_cpu import apply_view_cpu, normalise_in_place

AUGMENTATION = Augmentation(**AugmentationSpec().model_dump())
SAME = 1e-5
"""Largest difference to the plain path; a step of a byte is 4e-3."""


def frames(count: int, height: int, width: int, *, kind: str) -> torch.Tensor:
    """uint8 [T, 3, H, W], channels last in memory: noise, or smooth colours with grey, black and white parts."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        pixels = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    else:
        waves = np.sin(np.linspace(0, 9, height)[:, None, None] * [1, 2, 3] + np.linspace(0, 7, width)[:, None])
        pixels = np.stack([(127.5 + 127.5 * np.roll(waves, 5 * t, axis=1)).astype(np.uint8) for t in range(count)])
        pixels[:, : height // 4] = pixels[:, : height // 4, :, :1]  # no hue
        pixels[:, -8:-4], pixels[:, -4:] = 0, 255
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def both(clip: torch.Tensor, mask: torch.Tensor | None, view: View, size: int) -> list[torch.Tensor]:
    """[plain clip, fast clip, plain mask, fast mask]."""
    plain, plain_mask = apply_view(clip, mask, view, size=size)
    out = torch.empty(len(clip), size, size, 3)
    fast_mask = apply_view_cpu(clip, mask, view, out)
    assert (plain_mask is None) == (fast_mask is None) == (mask is None)
    masks = [] if plain_mask is None or fast_mask is None else [plain_mask, fast_mask]
    return [plain, out.permute(3, 0, 1, 2), *masks]


class TestEqualToThePlainPath:
    @pytest.mark.parametrize("kind", ["noise", "colours"])
    @pytest.mark.parametrize(("height", "width", "size"), [(256, 341, 112), (48, 64, 56), (90, 60, 33)])
    def test_views_as_they_are_drawn(self, kind: str, height: int, width: int, size: int) -> None:
        clip = frames(3, height, width, kind=kind)
        draws = Draws(1, "test")
        # Always jittered and blurred: what is left out then cannot differ.
        always = replace(AUGMENTATION, jitter_probability=1.0, blur_probability=1.0)
        for drawn in range(24):
            view = draw_training_view(draws, always if drawn % 4 else AUGMENTATION, height=height, width=width)
            mask = torch.from_numpy(fixation_mask(drawn * 2, grid_num=7, margin_h=12))[None]
            plain, fast, plain_mask, fast_mask = both(clip, mask, view, size)
            torch.testing.assert_close(fast, plain, atol=SAME, rtol=0)
            assert fast_mask.dtype == plain_mask.dtype
            torch.testing.assert_close(fast_mask, plain_mask, atol=2 * SAME, rtol=0)

    @pytest.mark.parametrize("which", range(4))
    @pytest.mark.parametrize("end", [0, 1])
    def test_colours_at_the_ends_of_what_a_spec_allows(self, which: int, end: int) -> None:
        clip = frames(2, 40, 50, kind="colours")
        factors = [1.0, 1.0, 1.0, 0.0]
        factors[which] = [(0.0, 2.0), (0.0, 2.0), (0.0, 2.0), (-0.5, 0.5)][which][end]
        view = View(Crop(0, 5, 40, 40), jitter=Jitter(tuple(factors), (3, 0, 2, 1)))  # type: ignore[arg-type]
        plain, fast = both(clip, None, view, 40)
        torch.testing.assert_close(fast, plain, atol=SAME, rtol=0)

    @pytest.mark.parametrize("sigma", [0.1, 0.34, 1.0, 2.0, 40.0])
    def test_blurs_up_to_the_size_of_the_clip(self, sigma: float) -> None:
        plain, fast = both(frames(2, 40, 50, kind="noise"), None, View(Crop(0, 0, 40, 40), blur_sigma_px=sigma), 24)
        torch.testing.assert_close(fast, plain, atol=SAME, rtol=0)

    def test_the_evaluation_view_is_equal_to_the_bit(self) -> None:
        plain, fast = both(frames(4, 256, 341, kind="noise"), None, centre_view(height=256, width=341, crop=196), 112)
        # Nothing but the same resizing and a division: one rounding apart at most.
        assert torch.equal((fast * 255).round(), (plain * 255).round())
        torch.testing.assert_close(fast, plain, atol=6e-8, rtol=0)

    def test_mean_and_deviation(self) -> None:
        clips = torch.rand(2, 3, 8, 8, 3)
        expected = normalise(clips.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        normalise_in_place(clips, IMAGENET_MEAN, IMAGENET_STD)
        torch.testing.assert_close(clips, expected, atol=1e-6, rtol=0)


def test_frames_are_left_as_they_are() -> None:
    clip = frames(2, 40, 50, kind="noise")
    before = clip.clone()
    draws = Draws(2, "test")
    for _ in range(10):
        apply_view_cpu(
            clip, None, draw_training_view(draws, AUGMENTATION, height=40, width=50), torch.empty(2, 40, 40, 3)
        )
    assert torch.equal(clip, before)


def test_a_mask_that_is_no_box_is_refused() -> None:
    mask = torch.zeros(1, 128, 171, dtype=torch.uint8)
    mask[0, 3, 4] = mask[0, 10, 20] = 1
    with pytest.raises(ValueError, match="a box"):
        apply_view_cpu(frames(1, 40, 50, kind="noise"), mask, View(Crop(0, 0, 40, 40)), torch.empty(1, 16, 16, 3))
