"""Which kernels a machine uses, and what its training step may do."""

import copy
import shutil
from collections.abc import Iterator

import faiss
import pytest
import torch
from torch import nn

from saccade import builders
from saccade.engine import device
from saccade.engine.device import Machine, pick_machine, send
from saccade.errors import SpecError
from saccade.models import conv_cpu
from saccade.models.convolution import Conv3d
from saccade.spec import EncoderSpec, Spec

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    yield
    torch.set_num_threads(torch_threads)
    faiss.omp_set_num_threads(faiss_threads)


def test_own_convolutions_are_for_float32_on_a_cpu() -> None:
    assert pick_machine("cpu", "fp32", convolutions="auto").own_convolutions
    assert not pick_machine("cpu", "bf16", convolutions="auto").own_convolutions
    assert not pick_machine("cpu", "fp32", convolutions="torch").own_convolutions


def test_torch_compile_is_for_gpus_unless_it_is_asked_for() -> None:
    assert not pick_machine("cpu", compiled="auto").compiled
    assert not pick_machine("cpu", compiled="off").compiled


def test_torch_compile_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_machine("cpu", compiled="on").compiled == (shutil.which("gcc") is not None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SpecError, match=r"engine\.compile: on was asked for, but no C compiler was found; install gcc"):
        pick_machine("cpu", compiled="on")


def test_cuda_graphs_are_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SpecError, match=r"^engine\.compile: graphs was asked for, but PyTorch sees no CUDA device; use on"
    ):
        pick_machine("cpu", compiled="graphs")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(device, "find_spec", lambda name: object())
    on_gpu = [pick_machine("cuda", compiled=each) for each in ("auto", "on", "graphs", "off")]
    assert [(machine.compiled, machine.graphs) for machine in on_gpu] == [
        (True, False),
        (True, False),
        (True, True),
        (False, False),
    ]


def test_what_graphs_gave_may_be_written_over_when_the_encoder_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[str] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marked.append("run"))
    with Machine(CPU, "fp32", compiled=True).autocast():
        assert marked == []
    for count in (1, 2):
        with Machine(CPU, "fp32", compiled=True, graphs=True).autocast():
            assert len(marked) == count


@pytest.mark.parametrize("available", [True, False])
def test_a_learner_uses_the_convolutions_that_are_there(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(conv_cpu, "available", lambda: available)
    spec = Spec(name="x", encoder=EncoderSpec(width=4))
    learner = builders.build_learner(spec, 3, Machine(CPU, "fp32", own_convolutions=True))
    assert {part.own for part in learner.encoder.modules() if isinstance(part, Conv3d)} == {available}


def test_stages_are_compiled_and_copies_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled copy would run the weights that it was copied from."""
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)  # Takes seconds, and is not what is looked at.
    spec = Spec(name="x", encoder=EncoderSpec(width=4))
    encoder = builders.build_learner(spec, 3, Machine(CPU, "fp32", compiled=True)).encoder
    parts: list[nn.Module] = [encoder.stem, *encoder.stages]
    assert all(part._compiled_call_impl is not None for part in parts)
    assert all(part._compiled_call_impl is None for part in copy.deepcopy(encoder).modules())
    assert not any("_orig_mod" in name for name in encoder.state_dict())


def test_tf32_is_for_the_step_alone() -> None:
    flags = torch.backends.cuda.matmul
    before = flags.allow_tf32
    with Machine(torch.device("cuda"), "bf16").stepping():
        assert flags.allow_tf32
    assert flags.allow_tf32 == before
    with pytest.raises(ValueError, match="x"), Machine(torch.device("cuda"), "bf16").stepping():
        raise ValueError("x")
    assert flags.allow_tf32 == before


def test_what_is_sent_arrives() -> None:
    tensor = torch.arange(3)
    assert torch.equal(send(tensor, CPU), tensor)
