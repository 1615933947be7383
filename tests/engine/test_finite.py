"""A loss that is not finite changes nothing and stops the run, wherever the host hears of it."""

import copy

import pytest
import torch
from torch import nn

from saccade.engine.finite import LossWatch, _Seen
from saccade.errors import RunError


class _Arrival:
    """Stands for the event of a copy from a GPU."""

    waited = False

    def synchronize(self) -> None:
        self.waited = True


def test_on_a_cpu_the_step_itself_stops_with_its_terms() -> None:
    watch = LossWatch("loss")
    assert watch.watch(1, {"loss": torch.tensor(1.0), "loss_a": torch.tensor(1.0)}) is None
    with pytest.raises(RunError, match=r"^step 2: the loss is not finite \(loss = nan, loss_a = inf\); the last check"):
        watch.watch(2, {"loss": torch.tensor(float("nan")), "loss_a": torch.tensor(float("inf"))})


def test_on_a_gpu_the_host_looks_when_the_next_step_is_prepared() -> None:
    watch, first, second = LossWatch("loss"), _Arrival(), _Arrival()
    watch._seen.append(_Seen(7, ("loss",), torch.tensor([float("inf")]), first))
    watch._look(1)
    assert not first.waited
    watch._seen.append(_Seen(8, ("loss",), torch.tensor([1.0]), second))
    with pytest.raises(RunError, match=r"^step 7: .*loss = inf"):
        watch._look(1)
    assert first.waited
    assert not second.waited


def test_before_anything_is_written_down_all_steps_are_looked_at() -> None:
    watch, last = LossWatch("loss"), _Arrival()
    watch._seen.append(_Seen(7, ("loss",), torch.tensor([float("nan")]), last))
    with pytest.raises(RunError, match=r"^step 7"):
        watch.settle()
    assert last.waited


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_fused_optimiser_leaves_all_as_it_is_when_told(kind: str) -> None:
    """What `watch` answers on a GPU, given to an optimiser on the CPU, whose fused kernels do the same."""
    torch.manual_seed(1)
    network = nn.Conv3d(3, 4, 3).to(memory_format=torch.channels_last_3d)
    make = {
        "sgd": lambda: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=True),
        "adam": lambda: torch.optim.Adam(network.parameters(), lr=0.1, fused=True),
    }
    optimizer = make[kind]()

    def step(not_finite: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        network(torch.randn(2, 3, 4, 8, 8)).square().mean().backward()
        optimizer.found_inf = torch.tensor(not_finite)
        optimizer.step()

    step(0.0)
    weights, state = copy.deepcopy(network.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    step(1.0)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in weights.items())
    for number, values in state.items():
        assert all(torch.equal(after[number][name], value) for name, value in values.items() if value is not None)
    step(0.0)
    assert not torch.equal(network.state_dict()["weight"], weights["weight"])


def test_fused_sgd_does_what_the_plain_one_does() -> None:
    torch.manual_seed(1)
    networks = [nn.Conv3d(3, 16, 3).to(memory_format=torch.channels_last_3d) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    plain, fused = (
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, foreach=False, fused=is_fused)
        for network, is_fused in zip(networks, (False, True), strict=True)
    )
    for _ in range(5):
        clips = torch.randn(2, 3, 4, 8, 8)
        for network, optimizer in zip(networks, (plain, fused), strict=True):
            optimizer.zero_grad(set_to_none=True)
            network(clips).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(networks[1].weight, networks[0].weight, rtol=1e-5, atol=1e-7)
