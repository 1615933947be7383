"""Processes that cannot share a run are refused before anything is read."""

import pytest
import torch

from saccade.engine import ranks
from saccade.errors import SpecError
from saccade.spec import PretrainSpec, Spec
from saccade.stages.run import _check_processes

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
