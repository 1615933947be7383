"""What is counted, against formulas worked by hand for R3D, its heads and small pieces of known size."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from saccade import builders
from saccade.analysis.counting import LevelCost, Memory, PartCost, _LiveBytes, _stored, count
from saccade.engine.device import Machine
from saccade.learner import Learner
from saccade.spec import Spec

VIDEOS, BATCH, FOCUS, NEGATIVES, DIM, WIDTH, FRAMES, SIZE = 6, 4, 2, 5, 8, 4, 8, 32
CLIPS = BATCH * 2 * FOCUS
CLUSTERS = (3, 4)


def make(**sections: dict[str, object]) -> Spec:
    return Spec.model_validate(
        {
            "name": "x",
            "clip": {"frames": FRAMES, "size": SIZE},
            "saccade": {"focus_num": FOCUS},
            "encoder": {"width": WIDTH},
            "contrast": {"num_negatives": NEGATIVES, "projection_dim": DIM},
            "prototypes": {"num_clusters": list(CLUSTERS)},
            **sections,
            "pretrain": {"batch_size": BATCH, **sections.get("pretrain", {})},
        }
    )


Counted = tuple[tuple[LevelCost, ...], tuple[PartCost, ...], Memory]


def counted(spec: Spec, precision: str = "fp32") -> tuple[Learner, Counted]:
    machine = Machine(torch.device("cpu"), precision)
    learner = builders.build_learner(spec, VIDEOS, machine)
    return learner, count(learner, spec, machine, CLIPS)


@pytest.fixture(scope="module")
def default() -> tuple[Learner, Counted]:
    return counted(make())


@pytest.fixture(scope="module")
def adam_in_bf16() -> tuple[Learner, Counted]:
    return counted(make(pretrain={"optimizer": "adam"}), "bf16")


def r3d_by_hand() -> list[tuple[tuple[int, ...], int, int]]:
    """Output of a clip, parameters and FLOP of the stem and each stage: 2 kt kh kw cin cout t h w a convolution."""
    t, h = FRAMES, SIZE // 2
    levels = [((WIDTH, t, h, h), 147 * 3 * WIDTH + 2 * WIDTH, 2 * 147 * 3 * WIDTH * t * h * h)]
    cin = WIDTH
    for number, cout in enumerate((WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH)):
        weights, norms = 27 * cin * cout + 27 * cout * cout, 2
        if number:
            t, h = t // 2, h // 2
            weights, norms = weights + cin * cout, 3
        levels.append(((cout, t, h, h), weights + norms * 2 * cout, 2 * weights * t * h * h))
        cin = cout
    return levels


def test_levels(default: tuple[Learner, Counted]) -> None:
    levels = default[1][0]
    assert [(cost.output, cost.parameters, cost.forward_flop) for cost in levels] == r3d_by_hand()
    assert [cost.level for cost in levels] == [1, 2, 3, 4, 5]


def test_encoder_and_losses(default: tuple[Learner, Counted]) -> None:
    flops = [flop for _, _, flop in r3d_by_hand()]
    c, rows = 8 * WIDTH, VIDEOS * FOCUS
    # Each operand of a product costs as much again in the backward pass, but for those that want no gradient.
    project, project_rows, cosines = 2 * CLIPS * c * DIM, 2 * rows * c * DIM, 2 * CLIPS * rows * DIM
    convolution = 2 * CLIPS * c * c * 1 * 2 * 2  # level 5 is 1 x 2 x 2
    n = FOCUS * 1 * 2 * 2
    product = 2 * (2 * BATCH * n * n * c)  # affinity, or what it is multiplied by, in both directions
    logits = sum(2 * CLIPS * DIM * clusters for clusters in CLUSTERS)
    assert default[1][1] == (
        PartCost("encoder", CLIPS * sum(flops), CLIPS * (2 * sum(flops) - flops[0])),  # no gradient of the clips
        PartCost("memory contrast", project + project_rows + cosines, 2 * project + project_rows + 2 * cosines),
        PartCost("consistency", 2 * convolution + 2 * product, 2 * (2 * convolution + 2 * product)),
        PartCost("prototypes", logits, logits),
    )


def test_what_is_switched_off_is_not_counted() -> None:
    spec = make(consistency={"weight": 0.0}, prototypes={"num_clusters": []}, saccade={"focus_num": FOCUS})
    assert [part.name for part in counted(spec)[1][1]] == ["encoder", "memory contrast"]


def test_stored_for_the_backward_pass(default: tuple[Learner, Counted]) -> None:
    outputs = [torch.Size(output).numel() * CLIPS * 4 for output, _, _ in r3d_by_hand()]
    # Of a convolution, batch norm and ReLU: the convolution's output, that of ReLU, and mean and deviation.
    stem = 2 * outputs[0] + 2 * 4 * WIDTH
    # Two convolutions' outputs, two ReLUs' outputs; the input has been counted with the stem.
    first = 4 * outputs[1] + 2 * 2 * 4 * WIDTH
    # The same and the convolution's output in the short cut.
    second = 5 * outputs[2] + 3 * 2 * 4 * 2 * WIDTH
    assert [cost.stored_bytes for cost in default[1][0][:3]] == [stem, first, second]


def test_maps_are_stored_in_bf16(default: tuple[Learner, Counted], adam_in_bf16: tuple[Learner, Counted]) -> None:
    levels, parts, _ = adam_in_bf16[1]
    assert parts == default[1][1]
    maps = [torch.Size(output).numel() * CLIPS * 2 for output, _, _ in r3d_by_hand()]
    # A copy of the clips and of the weights, too; next to nothing are means and deviations.
    stem = CLIPS * 3 * FRAMES * SIZE * SIZE * 2 + 147 * 3 * WIDTH * 2
    assert levels[0].stored_bytes == pytest.approx(stem + 2 * maps[0], rel=1e-3)
    assert levels[1].stored_bytes == pytest.approx(4 * maps[1] + 2 * 27 * WIDTH * WIDTH * 2, rel=1e-3)


@pytest.mark.parametrize(("fixture", "copies"), [("default", 3), ("adam_in_bf16", 4)])
def test_memory(fixture: str, copies: int, request: pytest.FixtureRequest) -> None:
    learner, (_, _, memory) = request.getfixturevalue(fixture)
    assert learner.propagation is not None
    modules = [learner.encoder, learner.projection, learner.propagation]
    weights = [parameter for module in modules for parameter in module.parameters()]
    fixed = sum(buffer.nbytes for module in modules for buffer in module.buffers())
    fixed += 4 * len(weights) if fixture == "adam_in_bf16" else 0  # the number of its steps, as a tensor
    assert memory.networks == copies * sum(weight.nbytes for weight in weights) + fixed
    slots = VIDEOS * FOCUS
    assert memory.bank == slots * 8 * WIDTH * 4 + sum(8 * slots + 4 * k * DIM + 4 * k for k in CLUSTERS)
    assert memory.batch == CLIPS * (3 * FRAMES * SIZE * SIZE * 4 + SIZE * SIZE * 4 + 8)
    held = memory.networks + memory.bank + memory.batch + memory.stored
    assert held < memory.peak < 1.5 * held
    assert learner.optimizer.state == {}  # it was a copy that was trained
    assert all(parameter.grad is None for parameter in weights)


def test_stored_storages_count_once() -> None:
    with FakeTensorMode():
        x = torch.zeros(10, requires_grad=True)
        with _stored({x.untyped_storage()._cdata}) as saved:
            y = x.exp()  # keeps its output
            z = y[:5] * y[5:]  # keeps both halves, of one storage
        assert [storage.nbytes() for storage in saved.values()] == [40]
        del z


@pytest.mark.parametrize("fake", [True, False])
def test_live_bytes(fake: bool) -> None:
    def work() -> _LiveBytes:
        before = torch.zeros(100)
        with _LiveBytes() as live:
            live.add(before)
            assert live.now == 400
            a = torch.ones(50)
            b = a.view(5, 10)  # no memory of its own
            assert live.now == 600
            del a
            assert live.now == 600
            c = b + 1
            assert live.now == 800
            del b
            assert live.now == 600
            c.add_(1)
        return live

    if fake:
        with FakeTensorMode():
            live = work()
    else:
        live = work()
    assert live.peak == 800


def test_fake_tensors_take_what_real_ones_take() -> None:
    def work() -> tuple[int, int]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1))
        clips: Tensor = torch.randn(2, 3, 4, 8, 8)
        with _LiveBytes() as live:
            for tensor in (clips, *network.parameters(), *network.buffers()):
                live.add(tensor)
            with _stored(live.storages) as saved:
                loss = network(clips).sum()
            stored = sum(storage.nbytes() for storage in saved.values())
            saved.clear()
            loss.backward()
        return stored, live.peak

    real = work()
    with FakeTensorMode():
        assert work() == real
