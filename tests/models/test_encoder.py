"""The contract of every registered encoder, at a small width; sizes and costs at the published one."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from saccade.errors import SpecError
from saccade.models.encoder import ENCODERS, Encoder, build_encoder
from saccade.models.heads import Projection, PropagationHead

WIDTH = 8


@pytest.fixture(params=sorted(ENCODERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(name: str) -> Iterator[Encoder]:
    """A small encoder in eval mode whose batch norms are random, with statistics that keep the signal alive."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = build_encoder(name, width=WIDTH)
        norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm3d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.1)
            norm.momentum = 1.0
        with torch.no_grad():
            encoder(random(4, 3, 8, 32, 32, seed=9))
        for norm in norms:
            norm.momentum = 0.1
        yield encoder.eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_masks(count: int, size: int) -> Tensor:
    return (random(count, 1, size, size, seed=5) > 0).float()


def aligned_bilinear(mask: Tensor, size: int) -> Tensor:
    """Resize `[H, W]` to `[size, size]` by hand: corners onto corners, then between the four nearest pixels."""
    out = mask.new_zeros(size, size)
    for i in range(size):
        for j in range(size):
            y, x = (
                k * (length - 1) / (size - 1) if size > 1 else 0.0 for k, length in zip((i, j), mask.shape, strict=True)
            )
            top, left = int(y), int(x)
            bottom, right = min(top + 1, mask.shape[0] - 1), min(left + 1, mask.shape[1] - 1)
            dy, dx = y - top, x - left
            upper = mask[top, left] * (1 - dx) + mask[top, right] * dx
            lower = mask[bottom, left] * (1 - dx) + mask[bottom, right] * dx
            out[i, j] = upper * (1 - dy) + lower * dy
    return out


def slow_levels(encoder: Encoder, clips: Tensor, masks: Tensor, mask_level: int) -> list[Tensor]:
    """All levels by calling the parts one after the other and the mask's formula as method.md writes it."""
    levels = []
    x = clips
    for number in range(6):
        if number == 1:
            x = encoder.stem(x)
        elif number > 1:
            x = encoder.stages[number - 2](x)
        if number == mask_level:
            resized = torch.stack([aligned_bilinear(mask[0], x.shape[-1]) for mask in masks])
            x = x + x * resized[:, None, None]
        levels.append(x)
    return levels


class TestContract:
    @pytest.mark.parametrize("size", [(16, 64, 64), (8, 48, 80), (5, 33, 31), (1, 16, 16)])
    def test_shapes(self, encoder: Encoder, size: tuple[int, int, int]) -> None:
        clips = random(2, 3, *size)
        assert encoder.level_channels == (3, WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH)
        assert encoder.feature_dim == 8 * WIDTH
        t, h, w = size
        for level in range(6):
            features, output = encoder.forward_levels(clips, level=level)
            assert features.shape == (2, 8 * WIDTH)
            if level == 1:
                h, w = (h + 1) // 2, (w + 1) // 2
            if level > 2:
                t, h, w = (t + 1) // 2, (h + 1) // 2, (w + 1) // 2
            assert output.shape == (2, encoder.level_channels[level], t, h, w)

    def test_level_sizes_of_the_method(self, name: str) -> None:
        with torch.device("meta"):
            encoder, clips = build_encoder(name), torch.zeros(1, 3, 16, 112, 112)
            sizes = [encoder.forward_levels(clips, level=level)[1].shape[1:] for level in range(6)]
        assert [size[-1] for size in sizes] == [112, 56, 56, 28, 14, 7]
        assert sizes[5] == (512, 2, 7, 7)

    @pytest.mark.parametrize("mask_level", range(6))
    def test_masks(self, encoder: Encoder, mask_level: int) -> None:
        encoder.double()  # so that a fraction of a mask in the wrong place cannot hide in rounding
        clips, masks = random(2, 3, 4, 32, 32).double(), random_masks(2, 32).double()
        expected = slow_levels(encoder, clips, masks, mask_level)
        for level in range(6):
            features, output = encoder.forward_levels(clips, masks, mask_level, level)
            torch.testing.assert_close(output, expected[level])
            torch.testing.assert_close(features, expected[5].mean(dim=(2, 3, 4)))
        torch.testing.assert_close(encoder(clips, masks, mask_level), features, rtol=0, atol=0)
        assert not torch.allclose(features, encoder(clips), atol=1e-3)

    def test_no_mask(self, encoder: Encoder) -> None:
        clips, masks = random(2, 3, 4, 32, 32), random_masks(2, 32)
        plain = encoder(clips)
        for features in (encoder(clips, masks), encoder(clips, masks, -1), encoder(clips, None, 0)):
            torch.testing.assert_close(features, plain, rtol=0, atol=0)
        torch.testing.assert_close(encoder(clips, torch.zeros_like(masks), 3), plain, rtol=0, atol=0)
        torch.testing.assert_close(encoder(clips, torch.ones_like(masks), 0), encoder(2 * clips), rtol=0, atol=0)

    def test_input_is_left_alone(self, encoder: Encoder) -> None:
        clips, masks = random(1, 3, 4, 32, 32), random_masks(1, 32)
        before = clips.clone(), masks.clone()
        encoder.forward_levels(clips, masks, 0, level=0)
        assert torch.equal(clips, before[0])
        assert torch.equal(masks, before[1])

    def test_a_clips_features_do_not_depend_on_its_batch(self, encoder: Encoder) -> None:
        clips, masks = random(4, 3, 4, 32, 32), random_masks(4, 32)
        order = torch.tensor([2, 0, 3, 1])
        features = encoder(clips, masks, 0)
        torch.testing.assert_close(encoder(clips[order], masks[order], 0), features[order])
        torch.testing.assert_close(encoder(clips[1:2], masks[1:2], 0), features[1:2])
        assert encoder(clips[:0]).shape == (0, 8 * WIDTH)

    def test_gradients_reach_every_parameter_and_the_clip(self, encoder: Encoder) -> None:
        clips = random(2, 3, 8, 32, 32).requires_grad_()
        encoder.train()
        features = encoder(clips, random_masks(2, 32), 0)
        (features * random(*features.shape, seed=3)).sum().backward()
        for parameter in [clips, *encoder.parameters()]:
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0

    def test_state_dict_round_trip(self, encoder: Encoder, name: str) -> None:
        clips = random(2, 3, 4, 32, 32)
        other = build_encoder(name, width=WIDTH).eval()
        assert not torch.allclose(other(clips), encoder(clips))
        other.load_state_dict(encoder.state_dict())
        assert torch.equal(other(clips), encoder(clips))

    def test_construction_is_seeded_by_the_global_generator(self, name: str) -> None:
        states = []
        for seed in (0, 0, 1):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                states.append(torch.cat([p.flatten() for p in build_encoder(name, width=WIDTH).parameters()]))
        assert torch.equal(states[0], states[1])
        assert not torch.equal(states[0], states[2])

    def test_export_with_any_batch_size(self, encoder: Encoder) -> None:
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(encoder, (random(3, 3, 4, 32, 32),), dynamic_shapes=({0: batch},))
        for count in (1, 5):
            clips = random(count, 3, 4, 32, 32, seed=count)
            torch.testing.assert_close(program.module()(clips), encoder(clips))

    def test_bf16_autocast_is_close(self, encoder: Encoder) -> None:
        clips, masks = random(2, 3, 8, 32, 32), random_masks(2, 32)
        exact = encoder(clips, masks, 1)
        with torch.autocast("cpu", torch.bfloat16):
            features, output = encoder.forward_levels(clips, masks, 1, level=2)
        assert features.dtype == torch.float32
        assert output.dtype == torch.bfloat16
        assert F.cosine_similarity(features, exact).min() > 0.999
        assert (features - exact).abs().max() < 0.05 * exact.abs().max()

    def test_channels_last(self, encoder: Encoder) -> None:
        clips, masks = random(2, 3, 8, 32, 32), random_masks(2, 32)
        expected = encoder(clips, masks, 2)
        encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        features = encoder(clips, masks, 2)
        # Further in, the layout is the convolution kernels' choice; the mask must not undo it.
        assert encoder.forward_levels(clips, masks, 0, level=0)[1].is_contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)  # other kernels, other sums

    def test_compiles_in_one_graph(self, encoder: Encoder) -> None:
        clips, masks = random(2, 3, 8, 32, 32), random_masks(2, 32)
        compiled = torch.compile(encoder.forward_levels, backend="eager", fullgraph=True)
        for ours, expected in zip(compiled(clips, masks, 2), encoder.forward_levels(clips, masks, 2), strict=True):
            torch.testing.assert_close(ours, expected)

    def test_levels_out_of_range(self, encoder: Encoder) -> None:
        clips = random(1, 3, 4, 16, 16)
        for mask_level, level in ((6, 5), (-2, 5), (0, 6), (0, -1)):
            with pytest.raises(ValueError, match="must be in"):
                encoder.forward_levels(clips, None, mask_level, level)


@pytest.mark.parametrize(("name", "millions", "gflop"), [("r3d", 14.36, 39.8), ("r2plus1d", 14.37, 42.7)])
def test_published_size_and_cost(name: str, millions: float, gflop: float) -> None:
    with torch.device("meta"):
        encoder, clips = build_encoder(name), torch.zeros(1, 3, 16, 112, 112)
    assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 2) == millions
    with FlopCounterMode(display=False) as counter:  # Two operations for each multiply and add.
        encoder(clips)
    assert round(counter.get_total_flops() / 1e9, 1) == gflop


def test_r2plus1d_middle_widths() -> None:
    # floor(kt kh kw cin cout / (kh kw cin + kt cout)), worked by hand for the stem, a 3x3x3 and a 1x1x1 convolution.
    with torch.device("meta"):
        encoder = build_encoder("r2plus1d")
    assert encoder.stem.conv.spatial.weight.shape == (28224 // (147 + 192), 3, 1, 7, 7)  # type: ignore[union-attr]
    stage = encoder.stages[1]
    assert stage.conv1.spatial.weight.shape == (221184 // (576 + 384), 64, 1, 3, 3)  # type: ignore[union-attr]
    assert stage.shortcut.conv.temporal.weight.shape == (128, 8192 // 192, 1, 1, 1)  # type: ignore[union-attr]


def test_unknown_encoder() -> None:
    with pytest.raises(SpecError, match=r"no encoder 'r3'; use one of r3d, r2plus1d"):
        build_encoder("r3")
    with pytest.raises(SpecError, match="0 is not a number of channels"):
        build_encoder("r3d", width=0)


def test_projection() -> None:
    projection = Projection(4, 2)
    assert projection.linear.bias.tolist() == [0, 0]
    with torch.no_grad():
        projection.linear.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]))
        projection.linear.bias.copy_(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(projection(torch.tensor([[3.0, 3, 9, 9]])), torch.tensor([[0.6, 0.8]]))
    with torch.autocast("cpu", torch.bfloat16):
        out = projection(random(5, 4))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(5))


def test_propagation_head() -> None:
    head = PropagationHead(3)
    maps = random(2, 3, 2, 4, 5)
    projected, values = head(maps)
    weight, bias = head.projector.weight.flatten(1), head.projector.bias
    expected = torch.einsum("dc,ncthw->ndthw", weight, maps) + bias[None, :, None, None, None]  # type: ignore[index]
    torch.testing.assert_close(projected, expected)
    weight, bias = head.value_transform.weight.flatten(1), head.value_transform.bias
    expected = torch.einsum("dc,ncthw->ndthw", weight, projected) + bias[None, :, None, None, None]  # type: ignore[index]
    torch.testing.assert_close(values, expected)
