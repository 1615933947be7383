"""One of several processes, as torchrun would start it: runpy gives RANK, SIZE, PORT, TASK and ARGUMENTS as globals."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from saccade import builders, features, pretrain, runner
from saccade.datasets.loader_watch import WorkerError
from saccade.engine import ranks
from saccade.engine.backward import Backward
from saccade.engine.batch_norm import joined_batch_norm
from saccade.evaluation import clip_features
from saccade.memory_bank import MemoryBank
from saccade.stages import classifiers, pretraining, retrieval


def in_double_precision() -> None:
    """Rounding would hide a small mistake, and a network this small makes a large difference of a small one."""
    single = torch.Tensor.float

    def use(dtype: torch.dtype) -> None:
        torch.set_default_dtype(dtype)
        torch.Tensor.float = torch.Tensor.double if dtype == torch.float64 else single  # type: ignore[method-assign]

    use(torch.float64)
    for module in (pretrain, features, clip_features):
        render = module.render

        def render_double(*args: Any, render: Callable[..., Any] = render, **options: Any) -> Any:
            use(torch.float32)  # as OpenCV wants its images
            clips, masks = render(*args, **options)
            use(torch.float64)
            return clips.double(), None if masks is None else masks.double()

        module.render = render_double  # type: ignore[attr-defined]
    fit = builders.fit

    def fit_rounded(spec: Any, rows: Any, *rest: Any) -> Any:  # k-means is in float32
        return fit(spec, np.round(rows, 5), *rest)

    builders.fit = fit_rounded


def without_pictures() -> None:
    """They are most of what a tiny run takes, and all by the first process."""

    def nothing(*args: Any, **options: Any) -> None: ...

    runner.report = runner.draw_training_clips = nothing  # type: ignore[attr-defined]
    retrieval.draw_retrieval = pretraining.draw_clustering = nothing  # type: ignore[attr-defined]
    classifiers._write_down = nothing


def train(folder: str, *, double: bool = False, send: int | None = None, to: int = 0, before_step: int = 0) -> None:
    """The trainer; before a step, process `to` sends itself a signal, or with 0 loses a data worker."""
    log = os.open(Path(folder) / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    runner._NOTICE_SEC = 0.0  # There is no torchrun to notice anything.
    without_pictures()
    features._BLOCK = 1  # Several blocks of these few videos.
    if double:
        in_double_precision()
    step = pretrain.training_step

    def training_step(learner: Any, *rest: Any) -> Any:
        if send is not None and ranks.rank() == to and learner.step + 1 == before_step:
            if not send:
                raise WorkerError("a data worker is gone")
            os.kill(os.getpid(), send)
        return step(learner, *rest)

    pretrain.training_step = training_step
    sys.exit(runner.main([folder]))


def pieces(folder: str) -> None:
    """What share, whole and own_rows make of a batch of 12 in two parts."""
    batch = list(range(100, 112))
    shared = ranks.share(batch, 2)
    gathered = ranks.whole(torch.tensor(shared)[:, None] * torch.ones(1, 3, dtype=torch.long), 2)
    parts = [ranks.own_rows(torch.tensor(batch), part, 2).tolist() for part in range(2)]
    stop = runner.StopRequest()
    before = ranks.asked_to_stop(stop)
    if ranks.rank() == 1:
        stop.request("it was told to")
    found = {
        "shared": shared,
        "whole": gathered[:, 2].tolist(),
        "parts": parts,
        "mean": ranks.mean({"a": torch.tensor(float(ranks.rank())), "b": torch.tensor(5.0)}),
        "stop": [before, ranks.asked_to_stop(stop), stop.requested],
        "first": ranks.from_first(lambda: f"by {ranks.rank()}"),
        "said": ranks.first_to_say(),
    }
    torch.save(found, Path(folder) / f"pieces{ranks.rank()}.pt")


def batch_norm(folder: str) -> None:
    """Two steps of a network with batch norm on this process's half of a batch."""
    given = torch.load(Path(folder) / "given.pt", weights_only=False)
    network, inputs, weights = given["network"], given["inputs"], given["weights"]
    found: dict[str, Any] = {"parameters_before": [id(p) for p in network.parameters()]}
    network = joined_batch_norm(network, torch.device("cpu"))
    found["parameters_after"] = [id(p) for p in network.parameters()]
    found["kinds"] = [type(part).__name__ for part in network.modules() if isinstance(part, nn.BatchNorm3d | nn.Module)]
    for step, (x, weight) in enumerate(zip(inputs, weights, strict=True)):
        own = ranks.own_rows(x).clone().requires_grad_()
        network.zero_grad()
        out = network(own)
        (out * ranks.own_rows(weight)).sum().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        found[f"step{step}"] = (out.detach(), own.grad, gradients)
    found["state"] = network.state_dict()
    network.eval()
    found["eval"] = network(inputs[0]).detach()
    torch.save(found, Path(folder) / f"found{ranks.rank()}.pt")


def loss_of_both(networks: list[nn.Module], rows: torch.Tensor) -> torch.Tensor:
    """Of two networks, one of which is used twice, as the projection is."""
    first, second = networks
    return (second(first(rows).tanh()) - second(rows)).square().mean()


def backward(folder: str) -> None:
    """Gradients of two networks by a loss of both, in two steps of two parts; and errors on the way."""
    given = torch.load(Path(folder) / "given.pt", weights_only=False)
    networks, batch = given["networks"], given["batch"]
    run = Backward(networks)
    found: dict[str, Any] = {}
    for step in range(2):
        for network in networks:
            network.zero_grad(set_to_none=True)
        for part in range(2):
            run(loss_of_both(networks, ranks.own_rows(batch[step], part, 2)) / 2, last=part == 1)
            found[f"step{step} part{part}"] = [p.grad.clone() for n in networks for p in n.parameters()]
    for name, said in (("ours", "there is no memory"), ("theirs", "[gloo/transport/tcp/pair.cc:1] Connection closed")):

        def fail(gradient: torch.Tensor, said: str = said) -> None:
            raise RuntimeError(said)

        loss = loss_of_both(networks, ranks.own_rows(batch[0]))
        loss.register_hook(fail)
        try:
            run(loss)
        except (RuntimeError, ranks.PeerGoneError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    torch.save(found, Path(folder) / f"backward{ranks.rank()}.pt")


def memory_bank(folder: str) -> None:
    """What a bank of 11 slots, split over the processes, gives each of them."""
    bank = MemoryBank(11, 3, torch.Generator().manual_seed(5), split=True)
    first = torch.tensor([[10, 0, 5, 0], [7, 3, 3, 1], [4, 9, 2, 8]])[ranks.rank()]
    found: dict[str, Any] = {"rows": bank.rows.clone(), "read": bank.read(first), "length": len(bank), "slots": first}
    found["nothing"] = bank.read(first[:0] if ranks.rank() else first[:1])
    written = torch.tensor([6, 1, 10, 6])
    bank.write(written, torch.tensor([[1.0], [2.0], [3.0], [1.0]]) * torch.ones(3))
    found["written"], found["whole"] = bank.read(torch.arange(11)), bank.whole()
    bank.restore(torch.arange(33.0).view(11, 3))
    found["restored"] = bank.read(torch.arange(11))
    torch.save(found, Path(folder) / f"bank{ranks.rank()}.pt")


if "TASK" in globals():
    # The program that torchrun starts is no child of a fork server, and not in the group of the tests.
    os.setsid()
    os.environ |= {name: str(globals()["RANK"]) for name in ("RANK", "LOCAL_RANK")}
    os.environ |= {name: str(globals()["SIZE"]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(globals()["PORT"]), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    tasks = (train, pieces, batch_norm, memory_bank, backward)
    task: Callable[..., None] = {each.__name__: each for each in tasks}[globals()["TASK"]]
    if task is not train:
        ranks.join()
    task(**globals()["ARGUMENTS"])
    ranks.leave()
