"""torch.compile, really: what is compiled trains as what is not, and evaluations compile nothing."""

from collections.abc import Iterator

import pytest
import torch

from saccade import builders
from saccade.bench.step import made_batch
from saccade.engine.device import Machine
from saccade.pretrain import training_step
from saccade.spec import ClipSpec, ContrastSpec, EncoderSpec, PretrainSpec, SaccadeSpec, Spec

CPU = torch.device("cpu")
# With fewer frames or pixels PyTorch finds a way through shapes that it takes to be changing, which it must not.
SPEC = Spec(
    name="small",
    seed=1,
    encoder=EncoderSpec(width=4),
    clip=ClipSpec(frames=8, size=32),
    saccade=SaccadeSpec(focus_num=1),
    contrast=ContrastSpec(num_negatives=8, projection_dim=8),
    pretrain=PretrainSpec(learning_rate=0.01, batch_size=2),
)


def graphs() -> int:
    """How many PyTorch has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@pytest.fixture
def anew() -> Iterator[None]:
    """Nothing is compiled yet, nor afterwards."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("anew")
@pytest.mark.filterwarnings("ignore")  # of PyTorch's compiler, which hides some of its own
def test_what_is_compiled_trains_as_what_is_not() -> None:
    batch = made_batch(SPEC, 2, 6, CPU)
    recipe = builders.build_recipe(SPEC)
    losses: dict[bool, list[float]] = {}
    features: dict[bool, list[torch.Tensor]] = {}
    for compiled in (False, True):
        machine = Machine(CPU, "fp32", compiled=compiled)
        learner = builders.build_learner(SPEC, 6, machine)
        learner.set_rates(0.01, 1.0)
        losses[compiled], features[compiled] = [], []
        for _ in range(3):
            learner.train()
            metrics = training_step(learner, recipe, batch.clips, batch.masks, batch.videos, machine)
            learner.step += 1
            losses[compiled].append(float(metrics["pretrain/loss"].detach()))
            if compiled:
                assert graphs() == 5, "of the stem and four stages, one each"
            learner.train(False)
            for clips in (batch.clips, batch.clips[:3], batch.clips[:1]):
                with torch.no_grad(), machine.autocast():
                    features[compiled].append(learner.encoder(clips).clone())
                if compiled:
                    assert graphs() == 5, "an evaluation was compiled for"
    torch.testing.assert_close(torch.tensor(losses[True]), torch.tensor(losses[False]), rtol=1e-5, atol=0)
    for ours, plain in zip(features[True], features[False], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
