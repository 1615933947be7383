"""GPUs for the trials of a sweep, and jobs: a device for each process, or one clear line."""

from pathlib import Path

import pytest

from saccade.errors import SaccadeError
from saccade.slurm import submit_run
from saccade.sweep.driver import device_groups


def test_groups_are_what_a_trial_sees() -> None:
    assert device_groups([], 2) == []
    assert device_groups(["3", " 5"], 1) == ["3", "5"]
    assert device_groups(["0+1", "2 + 3"], 2) == ["0,1", "2,3"]
    assert device_groups(["GPU-a1+GPU-b2"], 2) == ["GPU-a1,GPU-b2"]


@pytest.mark.parametrize(
    ("devices", "processes", "said"),
    [
        ("0,1", 2, "--devices 0,1: 0 has 1 GPU for the 2 of engine.processes; give groups of 2, such as 0+1,2+3"),
        ("0+1,2", 2, "--devices 0+1,2: 2 has 1 GPU for the 2 of engine.processes"),
        ("0+1", 1, "--devices 0+1: 0+1 has 2 GPUs for the 1 of engine.processes; give groups of 1, such as 0,1"),
        ("0+1,1+2", 2, "--devices 0+1,1+2: 1 stands there more than once; give each GPU to one worker"),
        ("0,0", 1, "--devices 0,0: 0 stands there more than once"),
        ("0+", 2, "--devices 0+: an empty name; give GPUs such as 0,1,2, or groups of them such as 0+1,2+3"),
        ("0,,1", 1, "--devices 0,,1: an empty name"),
    ],
)
def test_other_groups_are_refused(devices: str, processes: int, said: str) -> None:
    with pytest.raises(SaccadeError) as caught:
        device_groups(devices.split(","), processes)
    assert str(caught.value).startswith(said)


def test_a_job_has_a_gpu_for_each_process_and_starts_a_run_once(tmp_path: Path) -> None:
    spec = tmp_path / "x.yaml"
    spec.write_text("name: x\nprototypes: {num_clusters: []}\nengine: {processes: 4}\n")

    def refused(parameters: str) -> str:
        with pytest.raises(SaccadeError) as caught:
            submit_run(spec, [], None, parameters, tmp_path)
        return str(caught.value)

    assert "gpus_per_node=1 are too few for engine.processes = 4; give gpus_per_node=4" in refused("gpus_per_node=1")
    assert "tasks_per_node would start the run 4 times" in refused("gpus_per_node=4,tasks_per_node=4")
    assert "Could not detect" in refused("gpus_per_node=4")  # there is no SLURM here, but nothing else is wrong
