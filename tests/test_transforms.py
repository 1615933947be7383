"""Geometry and colour of clips: known pictures in, known pictures out."""

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.gaze.masks import fixation_box, fixation_mask
from saccade.rng import Draws
from saccade.spec import AugmentationSpec
from saccade.transforms import (
    Augmentation,
    Crop,
    Jitter,
    View,
    apply_view,
    centre_view,
    draw_crop,
    draw_training_view,
    normalise,
)

AUGMENTATION = Augmentation(**AugmentationSpec().model_dump())
"""As published."""


def frames(count: int = 4, height: int = 128, width: int = 171, seed: int = 0) -> torch.Tensor:
    """Smooth random frames, uint8 [T, 3, H, W]."""
    coarse = torch.rand(count, 3, 8, 10, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 255).to(torch.uint8)


class TestDraws:
    def test_crops_have_the_published_area_and_aspect(self) -> None:
        draws = Draws(0, "test")
        areas, aspects = [], []
        for _ in range(4000):
            top, left, h, w = draw_crop(draws, height=256, width=340, area_min=0.175, aspect_max=4 / 3)
            assert 0 <= top <= 256 - h
            assert 0 <= left <= 340 - w
            areas.append(h * w / (256 * 340))
            aspects.append(w / h)
        assert min(areas) > 0.17
        assert max(areas) > 0.9
        assert 0.74 < min(aspects) < 0.78
        assert 1.3 < max(aspects) < 1.35
        # Area is uniform on [0.175, 1] before too large crops are drawn anew: below 0.56 every crop fits.
        counts, _ = np.histogram(areas, bins=5, range=(0.2, 0.55))
        assert counts.min() > 0.8 * counts.max()

    def test_a_crop_that_never_fits_falls_back_to_the_centre_square(self) -> None:
        draws = Draws(0, "test")
        assert draw_crop(draws, height=10, width=1000, area_min=0.9, aspect_max=1.1) == Crop(0, 495, 10, 10)

    def test_probabilities_and_ranges(self) -> None:
        draws = Draws(1, "test")
        views = [draw_training_view(draws, AUGMENTATION, height=128, width=171) for _ in range(4000)]
        assert np.mean([v.jitter is not None for v in views]) == pytest.approx(0.8, abs=0.03)
        assert np.mean([v.blur_sigma_px is not None for v in views]) == pytest.approx(0.5, abs=0.03)
        assert np.mean([v.flip for v in views]) == pytest.approx(0.5, abs=0.03)
        factors = np.array([v.jitter.factors for v in views if v.jitter])
        for column, (low, high) in enumerate([(0.6, 1.4)] * 3 + [(-0.1, 0.1)]):
            assert low <= factors[:, column].min() < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < factors[:, column].max() <= high
        assert len({v.jitter.order for v in views if v.jitter}) == 24
        sigmas = [v.blur_sigma_px for v in views if v.blur_sigma_px]
        assert 0.1 <= min(sigmas) < 0.12
        assert 1.98 < max(sigmas) <= 2.0


class TestApply:
    def test_crop_and_resize_agree_with_pillow(self) -> None:
        clip = frames(2)
        crop = Crop(10, 30, 90, 100)
        seen, _ = apply_view(clip, None, View(crop), size=56)
        assert seen.shape == (3, 2, 56, 56)
        for t in range(2):
            picture = Image.fromarray(clip[t].permute(1, 2, 0).numpy())
            expected = picture.resize((56, 56), Image.Resampling.BICUBIC, box=(30, 10, 130, 100))
            difference = seen[:, t].permute(1, 2, 0).numpy() * 255 - np.asarray(expected, np.float32)
            assert np.abs(difference).max() <= 1.01

    def test_all_frames_of_a_clip_change_alike(self) -> None:
        still = frames(1).expand(5, -1, -1, -1)
        draws = Draws(2, "test")
        for _ in range(10):
            view = draw_training_view(draws, AUGMENTATION, height=128, width=171)
            seen, _ = apply_view(still, None, view, size=32)
            assert torch.equal(seen, seen[:, :1].expand_as(seen))

    def test_the_mask_follows_crop_and_flip_and_nothing_else(self) -> None:
        mask = torch.from_numpy(fixation_mask(24, grid_num=7, margin_h=12))[None]
        crop = Crop(20, 40, 80, 100)
        jitter = Jitter((0.6, 1.4, 0.6, 0.1), (3, 1, 2, 0))
        plain = apply_view(frames(), mask, View(crop), size=80)[1]
        coloured = apply_view(frames(), mask, View(crop, False, jitter, 2.0), size=80)[1]
        flipped = apply_view(frames(), mask, View(crop, True, jitter, 2.0), size=80)[1]
        assert plain is not None
        assert coloured is not None
        assert flipped is not None
        assert torch.equal(plain, coloured)
        assert torch.equal(plain.flip(-1), flipped)
        # The box by hand: the plane has the frame's size here, so rows shift by 20 and columns by 40 and shrink by 0.8.
        top, bottom, left, right = fixation_box(24, grid_num=7, margin_h=12)
        rows, columns = torch.arange(80) + 20.5, torch.arange(80) * 1.25 + 40.625
        inside = ((rows > top) & (rows < bottom))[:, None] & ((columns > left) & (columns < right))[None]
        assert (plain[0][inside] > 0.49).all()
        assert (plain[0][~inside] < 0.51).all()
        assert plain.min() >= 0
        assert plain.max() <= 1

    def test_a_bright_box_stays_under_its_mask(self) -> None:
        """Paint the fixated box into the frames: what is bright afterwards is what the mask says, whatever is drawn."""
        height, width = 256, 340
        mask = torch.from_numpy(fixation_mask(17, grid_num=7, margin_h=12))[None]
        painted = torch.nn.functional.interpolate(mask[None].float(), (height, width), mode="bilinear", antialias=True)
        clip = (painted[0] * 255).round().to(torch.uint8).expand(3, -1, -1)[None].expand(2, -1, -1, -1)
        draws = Draws(3, "test")
        for _ in range(20):
            view = draw_training_view(draws, AUGMENTATION, height=height, width=width)
            seen, at = apply_view(clip, mask, View(view.crop, view.flip), size=56)
            assert at is not None
            assert (seen[0, 0] - at[0]).abs().max() < 0.16  # bicubic against bilinear at the box's edge

    def test_colour_operations_come_in_the_drawn_order(self) -> None:
        clip = frames(1, 32, 32)
        crop = Crop(0, 0, 32, 32)
        factors = (1.3, 0.7, 0.5, 0.0)
        x = clip[0].double() / 255

        def brightness(y: torch.Tensor) -> torch.Tensor:
            return (y * 1.3).clamp(0, 1)

        def grey(y: torch.Tensor) -> torch.Tensor:
            return 0.2989 * y[0] + 0.587 * y[1] + 0.114 * y[2]

        def contrast(y: torch.Tensor) -> torch.Tensor:
            return (0.7 * y + 0.3 * grey(y).mean()).clamp(0, 1)

        def saturation(y: torch.Tensor) -> torch.Tensor:
            return (0.5 * y + 0.5 * grey(y)).clamp(0, 1)

        operations = [brightness, contrast, saturation]
        for order in [(0, 1, 2, 3), (2, 0, 3, 1), (1, 2, 0, 3)]:
            expected = x
            for which in order:
                expected = operations[which](expected) if which < 3 else expected
            seen, _ = apply_view(clip, None, View(crop, False, Jitter(factors, order)), size=32)
            np.testing.assert_allclose(seen[:, 0].numpy(), expected.numpy(), atol=2e-3)

    def test_blur_is_gaussian(self) -> None:
        point = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
        point[..., 16, 16] = 255
        seen, _ = apply_view(point, None, View(Crop(0, 0, 33, 33), blur_sigma_px=1.5), size=33)
        at = np.arange(33) - 16
        kernel = np.exp(-(at**2) / (2 * 1.5**2)) * (abs(at) <= 5)
        kernel /= kernel.sum()
        np.testing.assert_allclose(seen[0, 0].numpy(), np.outer(kernel, kernel), atol=1e-4)

    def test_the_evaluation_view_is_the_centre(self) -> None:
        assert centre_view(height=256, width=340, crop=196).crop == Crop(30, 72, 196, 196)
        assert centre_view(height=120, width=160, crop=196).crop == Crop(0, 20, 120, 120)

    def test_normalise(self) -> None:
        clip = torch.full((1, 3, 1, 1, 1), 0.5)
        expected = [(0.5 - m) / s for m, s in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]]
        assert normalise(clip).flatten().tolist() == pytest.approx(expected)
