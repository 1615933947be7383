"""Gradients of the whole batch out of shares and parts of it, by DistributedDataParallel."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from .ranked import loss_of_both as loss

Together = Callable[..., list[int | None]]


def test_gradients_are_those_of_the_whole_batch(together: Together, tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks: list[nn.Module] = [nn.Linear(4, 4).double(), nn.Linear(4, 3).double()]
    batch = torch.randn(2, 12, 4, dtype=torch.float64)
    torch.save({"networks": networks, "batch": batch}, tmp_path / "given.pt")
    assert together("backward", 2, folder=str(tmp_path)) == [0, 0]
    found = [torch.load(tmp_path / f"backward{rank}.pt", weights_only=True) for rank in (0, 1)]
    for step in range(2):
        for network in networks:
            network.zero_grad()
        loss(networks, batch[step]).backward()
        whole = [parameter.grad for network in networks for parameter in network.parameters()]
        # Of a part that is not the last each process has its own gradients, and nothing has been sent.
        for rank, each in enumerate(found):
            for network in networks:
                network.zero_grad()
            (loss(networks, batch[step].chunk(4)[rank]) / 2).backward()
            own = [parameter.grad for network in networks for parameter in network.parameters()]
            torch.testing.assert_close(each[f"step{step} part0"], own, rtol=1e-12, atol=1e-15)
            torch.testing.assert_close(each[f"step{step} part1"], whole, rtol=1e-12, atol=1e-15)
    # What has failed here is not taken for the end of another process.
    for each in found:
        assert each["ours"] == "RuntimeError: there is no memory"
        assert each["theirs"].startswith(
            "PeerGoneError: lost another process of the run: [gloo/transport/tcp/pair.cc:1]"
        )
