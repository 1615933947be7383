"""The contract of every registered encoder, at a small width where it has one; sizes and costs at the published one."""

import contextlib
import copy
import functools
import itertools
import math
import typing

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from saccade import torchvision_shim
from saccade.errors import SpecError
from saccade.models.encoder import ENCODERS, Encoder, build_encoder
from saccade.models.heads import Projection, PropagationHead
from saccade.spec import EncoderSpec, Spec
from saccade.spec_checks import impossible_combinations

PUBLISHED = ("r3d", "r2plus1d")
RESNETS = ("r3d_18", "mc3_18", "r2plus1d_18")
WIDTH = 8
FRAMES, SIZE = 8, 20
"""Of the tests' clips: about the smallest that every encoder takes."""


def build(name: str) -> Encoder:
    return build_encoder(name, width=WIDTH) if name in PUBLISHED else build_encoder(name)


@pytest.fixture(params=sorted(ENCODERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@functools.cache
def _warmed_up(name: str) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = build(name)
        norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm3d)]
        usual = norms[0].momentum
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.1)
            norm.momentum = 1.0
        with torch.no_grad():
            # s3d leaves one position of such a clip, and a variance wants more numbers than four.
            encoder(random(16 if name == "s3d" else 4, 3, 8, 32, 32, seed=9))
        for norm in norms:
            norm.momentum = usual
    return encoder.eval()


@pytest.fixture
def encoder(name: str) -> Encoder:
    """An encoder in eval mode whose batch norms are random, with statistics that keep the signal alive."""
    return copy.deepcopy(_warmed_up(name))


THIN, WIDE = tuple(WIDTH * k for k in (1, 1, 2, 4, 8)), (64, 64, 128, 256, 512)
HALVINGS = [(1, 2), (1, 1), (2, 2), (2, 2), (2, 2)]
LEVELS = {
    **dict.fromkeys(PUBLISHED, (THIN, HALVINGS)),
    "r3d_18": (WIDE, HALVINGS),
    "r2plus1d_18": (WIDE, HALVINGS),
    "mc3_18": (WIDE, [(1, side) for _, side in HALVINGS]),
    "s3d": ((64, 192, 480, 832, 1024), [(2, 2), (1, 2), (1, 2), (2, 2), (2, 2)]),
}
"""Of each encoder: the channels of levels 1 to 5, and the strides in time and space before each."""


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


def plain_levels(encoder: Encoder, clips: Tensor) -> list[Tensor]:
    """All levels without a mask, by calling the parts one after the other."""
    return list(itertools.accumulate([encoder.stem, *encoder.stages], lambda x, part: part(x), initial=clips))


def slow_levels(encoder: Encoder, clips: Tensor, masks: Tensor, mask_level: int) -> list[Tensor]:
    """All levels with the mask's formula as method.md writes it."""
    levels = plain_levels(encoder, clips)[: mask_level + 1]
    x = levels[mask_level]
    resized = torch.stack([aligned_bilinear(mask[0], x.shape[-1]) for mask in masks])
    levels[mask_level] = x = x + x * resized[:, None, None]
    for stage in [encoder.stem, *encoder.stages][mask_level:]:
        levels.append(x := stage(x))
    return levels


class TestContract:
    @pytest.mark.parametrize("size", [(16, 64, 64), (8, 48, 80), (5, 33, 31), "smallest"])
    def test_shapes(self, name: str, size: tuple[int, int, int] | str) -> None:
        with torch.device("meta"):
            encoder = build(name).eval()
        channels, strides = LEVELS[name]
        assert encoder.level_channels == (3, *channels)
        assert encoder.feature_dim == channels[-1]
        t, h, w = size if isinstance(size, tuple) else (encoder.min_frames, encoder.min_size, encoder.min_size)
        outputs = plain_levels(encoder, torch.zeros(2, 3, t, h, w, device="meta"))
        for level, (in_time, in_space) in enumerate(strides, start=1):
            # A stride of 2 rounds up, but for the pooling before the last stage of s3d.
            rounded = math.floor if (name, level) == ("s3d", 5) else math.ceil
            t, h, w = rounded(t / in_time), rounded(h / in_space), rounded(w / in_space)
            assert outputs[level].shape == (2, channels[level - 1], t, h, w)

    def test_level_sizes_of_the_method(self, name: str) -> None:
        with torch.device("meta"):
            outputs = plain_levels(build_encoder(name).eval(), torch.zeros(1, 3, 16, 112, 112))
        if name == "s3d":
            assert [output.shape[-1] for output in outputs] == [112, 56, 28, 14, 7, 3]
            assert outputs[5].shape == (1, 1024, 2, 3, 3)
        else:
            assert [output.shape[-1] for output in outputs] == [112, 56, 56, 28, 14, 7]
            assert outputs[5].shape == (1, 512, 16 if name == "mc3_18" else 2, 7, 7)

    @pytest.mark.parametrize("mask_level", range(6))
    def test_masks(self, encoder: Encoder, name: str, mask_level: int) -> None:
        # In double precision a fraction of a mask in the wrong place cannot hide in rounding; large networks are slow.
        dtype, tolerance = (torch.float64, 1e-7) if name in PUBLISHED else (torch.float32, 2e-4)
        encoder.to(dtype)
        clips, masks = random(2, 3, FRAMES, SIZE, SIZE).to(dtype), random_masks(2, SIZE).to(dtype)
        expected = slow_levels(encoder, clips, masks, mask_level)
        for level in range(6) if name in PUBLISHED else {mask_level, 5}:
            features, output = encoder.forward_levels(clips, masks, mask_level, level)
            for ours, slow in ((output, expected[level]), (features, expected[5].mean(dim=(2, 3, 4)))):
                assert ours.shape == slow.shape
                assert (ours - slow).abs().max() < tolerance * slow.abs().max()
        torch.testing.assert_close(encoder(clips, masks, mask_level), features, rtol=0, atol=0)
        assert not torch.allclose(features, encoder(clips), rtol=1e-2, atol=1e-2)

    def test_no_mask(self, encoder: Encoder) -> None:
        clips, masks = random(2, 3, FRAMES, SIZE, SIZE), random_masks(2, SIZE)
        plain = encoder(clips)
        for features in (encoder(clips, masks), encoder(clips, masks, -1), encoder(clips, None, 0)):
            torch.testing.assert_close(features, plain, rtol=0, atol=0)
        torch.testing.assert_close(encoder(clips, torch.zeros_like(masks), 3), plain, rtol=0, atol=0)
        torch.testing.assert_close(encoder(clips, torch.ones_like(masks), 0), encoder(2 * clips), rtol=0, atol=0)

    def test_input_is_left_alone(self, encoder: Encoder) -> None:
        clips, masks = random(1, 3, FRAMES, SIZE, SIZE), random_masks(1, SIZE)
        before = clips.clone(), masks.clone()
        encoder.forward_levels(clips, masks, 0, level=0)
        assert torch.equal(clips, before[0])
        assert torch.equal(masks, before[1])

    def test_a_clips_features_do_not_depend_on_its_batch(self, encoder: Encoder) -> None:
        clips, masks = random(4, 3, FRAMES, SIZE, SIZE), random_masks(4, SIZE)
        order = torch.tensor([2, 0, 3, 1])
        features = encoder(clips, masks, 0)
        for chosen in (order, torch.tensor([1])):  # other kernels, other sums
            difference = encoder(clips[chosen], masks[chosen], 0) - features[chosen]
            assert difference.abs().max() < 1e-3 * features.abs().max()
        assert encoder(clips[:0]).shape == (0, encoder.feature_dim)

    def test_gradients_reach_every_parameter_and_the_clip(self, encoder: Encoder) -> None:
        # Three clips: of two numbers batch norm makes +-1 whatever they are.
        clips = random(3, 3, FRAMES, SIZE, SIZE).requires_grad_()
        encoder.train()
        features = encoder(clips, random_masks(3, SIZE), 0)
        (features * random(*features.shape, seed=3)).sum().backward()
        for parameter in [clips, *encoder.parameters()]:
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0

    def test_state_dict_round_trip(self, encoder: Encoder, name: str) -> None:
        clips = random(2, 3, FRAMES, SIZE, SIZE)
        other = build(name).eval()
        assert not torch.allclose(other(clips), encoder(clips))
        other.load_state_dict(encoder.state_dict())
        assert torch.equal(other(clips), encoder(clips))

    def test_export_with_any_batch_size(self, encoder: Encoder) -> None:
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(encoder, (random(3, 3, FRAMES, SIZE, SIZE),), dynamic_shapes=({0: batch},))
        for count in (1, 5):
            clips = random(count, 3, FRAMES, SIZE, SIZE, seed=count)
            torch.testing.assert_close(program.module()(clips), encoder(clips))

    def test_bf16_autocast_is_close(self, encoder: Encoder) -> None:
        clips, masks = random(2, 3, FRAMES, SIZE, SIZE), random_masks(2, SIZE)
        exact = encoder(clips, masks, 1)
        with torch.autocast("cpu", torch.bfloat16):
            features, output = encoder.forward_levels(clips, masks, 1, level=2)
        assert features.dtype == torch.float32
        assert output.dtype == torch.bfloat16
        assert F.cosine_similarity(features, exact).min() > 0.995
        assert (features - exact).abs().max() < 0.1 * exact.abs().max()

    def test_channels_last(self, encoder: Encoder) -> None:
        clips, masks = random(2, 3, FRAMES, SIZE, SIZE), random_masks(2, SIZE)
        expected = encoder(clips, masks, 2)
        encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        features = encoder(clips, masks, 2)
        # Further in, the layout is the convolution kernels' choice; the mask must not undo it.
        assert encoder.forward_levels(clips, masks, 0, level=0)[1].is_contiguous(memory_format=torch.channels_last_3d)
        assert (features - expected).abs().max() < 1e-3 * expected.abs().max()  # other kernels, other sums

    def test_levels_out_of_range(self, encoder: Encoder) -> None:
        clips = random(1, 3, FRAMES, SIZE, SIZE)
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


@pytest.mark.parametrize("name", [*RESNETS, "s3d"])
class TestTorchvision:
    def test_features_are_those_of_torchvisions_own_network(self, name: str) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            encoder = build_encoder(name)
            torch.manual_seed(3)
            network = getattr(torchvision_shim.video_models, name)(weights=None)
        if name == "s3d":
            network.avgpool = nn.Identity()  # a window of 2 x 7 x 7, larger than the maps of small clips
            network.classifier = nn.Identity()  # the mean over time and space comes after it
        else:
            network.fc = nn.Identity()
        ours, theirs = encoder.state_dict(), network.state_dict()
        assert len(ours) == len(theirs)
        for tensor, other in zip(ours.values(), theirs.values(), strict=True):
            assert torch.equal(tensor, other)
        clips = random(2, 3, 8, 32, 32)
        torch.testing.assert_close(encoder(clips), network(clips))  # in training mode, so the signal is alive
        torch.testing.assert_close(encoder.eval()(clips), network.eval()(clips))

    def test_size_and_cost_that_torchvision_states(self, name: str) -> None:
        stated = next(kind for kind in dir(torchvision_shim.video_models) if kind.lower() == f"{name}_weights")
        meta = getattr(torchvision_shim.video_models, stated).DEFAULT.meta
        # S3D's were counted at the size that it was trained on.
        size = (16, 224, 224) if name == "s3d" else (16, 112, 112)
        with torch.device("meta"):
            encoder, clips = build_encoder(name), torch.zeros(1, 3, *size)
        with FlopCounterMode(display=False) as counter:
            encoder(clips)
        classifier = encoder.feature_dim * 400 + 400
        assert sum(parameter.numel() for parameter in encoder.parameters()) + classifier == meta["num_params"]
        assert round(counter.get_total_flops() / 2e9, 2) == round(meta["_ops"], 2)  # theirs: multiply-adds

    def test_other_widths_are_refused(self, name: str) -> None:
        with pytest.raises(SpecError, match=f"encoder.width: 32, but {name} has widths of its own"):
            build_encoder(name, width=32)
        spec = Spec.model_validate({"name": "x", "encoder": {"name": name, "width": 32}})
        assert [path for path, _ in impossible_combinations(spec)] == ["encoder.width"]


@pytest.mark.parametrize(("frames", "size", "wrong"), [(8, 17, []), (7, 17, ["clip.frames"]), (8, 16, ["clip.size"])])
def test_the_spec_refuses_clips_that_s3d_cannot_take(frames: int, size: int, wrong: list[str]) -> None:
    encoder = _warmed_up("s3d")
    assert (encoder.min_frames, encoder.min_size) == (8, 17)
    sections = {"encoder": {"name": "s3d"}, "clip": {"frames": frames, "size": size}}
    spec = Spec.model_validate({"name": "x", **sections})
    assert [path for path, _ in impossible_combinations(spec)] == wrong
    with pytest.raises(RuntimeError) if "clip.size" in wrong else contextlib.nullcontext():
        encoder(random(1, 3, frames, size, size))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of Intel's GPUs; said whenever these flags are set
def test_gradients_of_the_fewest_frames_that_s3d_takes() -> None:
    # One frame less and PyTorch's come out as 1e30 on processors with AVX-512; its slow ones are right everywhere.
    stem, found = _warmed_up("s3d").stem, []
    clips = random(3, 3, 8, SIZE, SIZE)
    for enabled in (True, False):
        stem.zero_grad()
        with torch.backends.mkldnn.flags(enabled=enabled):
            features = stem(clips)
            (features * random(*features.shape, seed=3)).sum().backward()
        found.append([parameter.grad.clone() for parameter in stem.parameters() if parameter.grad is not None])
    assert len(found[0]) == 6
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_construction_is_seeded_by_the_global_generator(name: str) -> None:
    states = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states.append(torch.cat([p.flatten() for p in build(name).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", PUBLISHED)
def test_compiles_in_one_graph(encoder: Encoder) -> None:
    clips, masks = random(2, 3, FRAMES, SIZE, SIZE), random_masks(2, SIZE)
    compiled = torch.compile(encoder.forward_levels, backend="eager", fullgraph=True)
    for ours, expected in zip(compiled(clips, masks, 2), encoder.forward_levels(clips, masks, 2), strict=True):
        torch.testing.assert_close(ours, expected)


def test_names_of_the_spec() -> None:
    assert typing.get_args(EncoderSpec.model_fields["name"].annotation) == tuple(ENCODERS)


def test_r2plus1d_middle_widths() -> None:
    # floor(kt kh kw cin cout / (kh kw cin + kt cout)), worked by hand for the stem, a 3x3x3 and a 1x1x1 convolution.
    with torch.device("meta"):
        encoder = build_encoder("r2plus1d")
    assert encoder.stem.conv.spatial.weight.shape == (28224 // (147 + 192), 3, 1, 7, 7)  # type: ignore[union-attr]
    stage = encoder.stages[1]
    assert stage.conv1.spatial.weight.shape == (221184 // (576 + 384), 64, 1, 3, 3)  # type: ignore[union-attr]
    assert stage.shortcut.conv.temporal.weight.shape == (128, 8192 // 192, 1, 1, 1)  # type: ignore[union-attr]


def test_unknown_encoder() -> None:
    with pytest.raises(
        SpecError, match=r"no encoder 'r3'; use one of r3d, r2plus1d, r3d_18, mc3_18, r2plus1d_18, s3d$"
    ):
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
