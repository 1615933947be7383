"""The optimisers without the compiler are PyTorch's own, and do without it."""

import subprocess
import sys

import pytest
import torch

from saccade.engine import optimizers

SETTINGS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "fused": True},
    "Adam": {"lr": 0.1, "weight_decay": 0.01, "fused": True},
}


def trained(optimizer_class: type[torch.optim.Optimizer], settings: dict[str, object]) -> list[torch.Tensor]:
    """Weights after five steps, with a save and a load after the second."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    optimizer = optimizer_class(network.parameters(), **settings)
    for step in range(5):
        if step == 2:
            state = optimizer.state_dict()
            optimizer = optimizer_class(network.parameters(), **settings)
            optimizer.load_state_dict(state)
        network(torch.full((2, 4), float(step))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_pytorch(name: str) -> None:
    ours = trained(getattr(optimizers, name), SETTINGS[name])
    theirs = trained(getattr(torch.optim, name), SETTINGS[name])
    torch.manual_seed(0)
    assert not torch.equal(ours[0], torch.nn.Linear(4, 3).weight)
    assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))


def test_a_trainer_that_steps_has_not_imported_the_compiler() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
import saccade.runner
from test_optimizers import SETTINGS, optimizers, trained
for name, settings in SETTINGS.items():
    trained(getattr(optimizers, name), settings)
print({{"torch._dynamo", "torchvision", "sympy", "mlflow"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
