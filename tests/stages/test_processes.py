"""What a run takes of its machine: processes that cannot share it are refused before anything is read."""

import os

import pytest
import torch

from saccade.builders import build_learner
from saccade.engine import ranks
from saccade.engine.device import Machine
from saccade.errors import SpecError
from saccade.spec import EncoderSpec, PretrainSpec, Spec
from saccade.stages import pretraining
from saccade.stages.run import _check_processes, own_cores

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SPEC = Spec(name="x", pretrain=PretrainSpec(batch_size=4))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_batch_that_is_shared_evenly(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", lambda: processes)
    _check_processes(SPEC, CPU)


def test_machines_that_the_spec_knows_nothing_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", lambda: 3)
    with pytest.raises(SpecError, match=r"^pretrain\.batch_size: 4 videos cannot be divided .* use a multiple of 3$"):
        _check_processes(SPEC, CPU)


@pytest.mark.parametrize(("on_this_machine", "gpus", "enough"), [(2, 1, False), (2, 2, True), (1, 0, False)])
def test_each_process_needs_a_gpu(
    on_this_machine: int, gpus: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "local_size", lambda: on_this_machine)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if enough:
        _check_processes(SPEC, GPU)
        return
    with pytest.raises(SpecError, match=rf"^engine\.processes: {on_this_machine} need as many GPUs, .* sees {gpus};"):
        _check_processes(SPEC, GPU)


@pytest.mark.parametrize(("processes", "here", "cores", "each"), [(1, 1, 8, None), (4, 2, 8, 4), (4, 4, 2, 1)])
def test_processes_of_a_machine_share_its_cores(
    processes: int, here: int, cores: int, each: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "size", lambda: processes)
    monkeypatch.setattr(ranks, "local_size", lambda: here)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert own_cores() == each


def test_a_first_step_that_takes_minutes_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    pretraining._tell_of_compiling(Machine(CPU, "fp32"))
    assert capsys.readouterr().err == ""
    pretraining._tell_of_compiling(Machine(CPU, "fp32", compiled=True))
    assert capsys.readouterr().err.startswith("saccade: the first step is compiled")


def test_the_parts_of_an_encoder_are_compiled_and_not_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[torch.nn.Module, str | None]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, dynamic, mode: compiled.append((module, mode)))
    spec = Spec(name="x", encoder=EncoderSpec(width=4))
    for graphs, mode in ((False, None), (True, "reduce-overhead")):
        learner = build_learner(spec, 4, Machine(CPU, "fp32", compiled=True, graphs=graphs))
        assert compiled == [(part, mode) for part in (learner.encoder.stem, *learner.encoder.stages)]
        compiled.clear()
