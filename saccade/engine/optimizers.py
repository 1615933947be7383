"""PyTorch's SGD and Adam without PyTorch's compiler, which each would import: two seconds of CPU in every process.

To keep the compiler out of an optimiser's methods PyTorch wraps them, and the wrappers import it at their first call.
Nothing here compiles an optimiser, so they can be taken off: from `step`, and from the others by writing beforehand
what their wrapper would find out ("call the method itself"). Where another PyTorch wraps in another way this changes
nothing.
"""

from inspect import unwrap

import torch
from torch.optim import Optimizer

__all__ = ["SGD", "Adam"]

for _name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
    _method = unwrap(getattr(Optimizer, _name))
    setattr(_method, "__dynamo_disable", _method)


class SGD(torch.optim.SGD):
    """`torch.optim.SGD`."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
