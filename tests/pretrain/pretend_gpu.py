"""A program: a batch and a step of pre-training on a device that is not there, where every wait for it is an error.

PyTorch's fake tensors have a shape and a device and no values. Who asks one for a value, as the host does when it
waits for a GPU, gets an exception, and so does who mixes devices; all that arrives from the host is listed. Writes what
happened as JSON. A process of its own: a device, once registered, stays.
"""

import json
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from saccade import builders
from saccade.datasets.clips import Sample
from saccade.datasets.render import render
from saccade.engine.device import Machine, send
from saccade.learner import Learner
from saccade.pretrain import training_step
from saccade.rng import Draws
from saccade.spec import AugmentationSpec, Spec
from saccade.spec_reader import parse_spec
from saccade.transforms import Augmentation, draw_training_view

HOST = Machine(torch.device("cpu"), "fp32")
VIDEOS = 4
PACKAGE = f"{Path(builders.__file__).parent}/"
"""Where the code is that is watched, wherever the checkout is and whatever its name."""


class Watch(TorchDispatchMode):
    """Counts what the device has to compute, and lists what comes to it from the host otherwise than by `send`."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.asked, self.arrivals = device, Counter[str](), list[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device == self.device:
            self.asked[function.name()] += not function.is_view
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if any(tensor.device.type == "cpu" for tensor in given):
                self._arrived(str(function))
        return result

    def _arrived(self, how: str) -> None:
        ours = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
        if not ours or ours[-1].name != "send":
            where = f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "the program"
            self.arrivals.append(f"{how} in {where}")


class Event:
    """Stands for CUDA's; nothing takes any time there."""

    def record(self) -> None:
        """Nothing."""

    def synchronize(self) -> None:
        """Nothing; and a fake tensor on the host would not give a value."""


def moved(learner: Learner, spec: Spec, mode: FakeTensorMode, device: torch.device) -> None:
    """Put networks, memory, prototypes and optimiser on the device, as fake tensors."""

    def fake(tensor: Tensor) -> FakeTensor:
        return FakeTensor(mode, tensor.detach().to("meta"), device)

    networks = [learner.encoder, learner.projection, learner.propagation]
    for module in (module for network in networks if network is not None for module in network.modules()):
        for own, wrap in ((module._parameters, nn.Parameter), (module._buffers, fake)):
            own.update({name: wrap(fake(tensor)) for name, tensor in own.items() if tensor is not None})
    learner.memory.rows = fake(learner.memory.rows)
    slots, clusters = VIDEOS * spec.saccade.focus_num, spec.prototypes.num_clusters[0]
    centroids, density = torch.zeros(clusters, spec.contrast.projection_dim), torch.ones(clusters)
    learner.targets = [(fake(torch.zeros(slots, dtype=torch.int64)), fake(centroids), fake(density))]
    parameters = [parameter for network in networks if network is not None for parameter in network.parameters()]
    # The fused one's kernel is for devices that it knows; that it gets `found_inf` there is what is looked at.
    learner.optimizer = torch.optim.SGD(parameters, lr=0.1, foreach=False)
    learner.optimizer.step = lambda: None  # type: ignore[method-assign, assignment]


def samples(count: int, views: int, mode: FakeTensorMode) -> list[Sample]:
    """Videos as a data worker gives them."""
    draws = Draws(0, "test")
    always = AugmentationSpec(jitter_probability=1.0, blur_probability=1.0)
    augmentation = Augmentation(**always.model_dump())
    return [
        Sample(
            index=number,
            frames=mode.from_tensor(torch.zeros(9, 3, 24, 32, dtype=torch.uint8)),
            spans=(slice(0, 4),) * views,
            views=tuple(draw_training_view(draws, augmentation, height=24, width=32) for _ in range(views)),
            masks=mode.from_tensor(torch.zeros(views, 128, 171, dtype=torch.uint8)),
        )
        for number in range(count)
    ]


def noticed(device: torch.device, mode: FakeTensorMode) -> dict[str, Any]:
    """What comes of three faults."""
    there = FakeTensor(mode, torch.zeros(3, device="meta"), device)
    found: dict[str, Any] = {}
    for name, fault in {"value": lambda: float(there.sum()), "mixed": lambda: there + torch.ones(3)}.items():
        try:
            fault()
            found[name] = "nothing"
        except (DataDependentOutputException, RuntimeError) as error:
            found[name] = type(error).__name__
    with Watch(device) as watch:
        torch.ones(3).to(device)
    return {**found, "arrivals": watch.arrivals}


def main(words: Sequence[str]) -> None:
    """Do it; words: the spec's text."""
    spec = parse_spec(words[0], "spec.yaml")
    learner = builders.build_learner(spec, VIDEOS, HOST)
    recipe = builders.build_recipe(spec)
    _setup_privateuseone_for_python_backend("npu_pretended")
    device, mode = torch.device("npu_pretended:0"), FakeTensorMode()
    FakeTensor.is_cuda = property(lambda tensor: tensor.fake_device == device)  # type: ignore[assignment]
    torch.cuda.Event = Event  # type: ignore[assignment, misc]
    moved(learner, spec, mode, device)
    learner.train()
    asked, views = {}, 2 * spec.saccade.focus_num
    with mode:
        for name, count in (("few", views), ("many", 3 * views)):
            with Watch(device) as watch:
                render(samples(VIDEOS, count, mode), size=spec.clip.size, device=device)
            asked[name] = watch.asked.total()
        with Watch(device) as watch:
            clips, masks = render(samples(VIDEOS, views, mode), size=spec.clip.size, device=device)
            metrics = training_step(learner, recipe, clips, masks, send(torch.arange(VIDEOS), device), HOST)
        faults = noticed(device, mode)
    gradients = [p.grad is not None for group in learner.optimizer.param_groups for p in group["params"]]
    held = learner.optimizer.found_inf  # type: ignore[attr-defined]
    result = {
        "metrics": {name: value.device == device for name, value in metrics.items()},
        "gradients": all(gradients),
        "held_on_device": held.device == device,
        "arrivals": watch.arrivals,
        "asked": asked,
        "noticed": faults,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
