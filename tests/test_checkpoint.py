"""Checkpoints: read back to the bit, whole at any moment, and harmless whoever wrote them."""

import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade import atomic, checkpoint
from saccade.checkpoint import earlier_checkpoints, link_checkpoint, load_checkpoint, save_checkpoint
from saccade.errors import CheckpointError

STATE: dict[str, Any] = {
    "mark": 17,
    "name": "toy",
    "rate": 0.1 + 0.2,
    "none": None,
    "learner": {
        "weights": torch.tensor([1.0, -0.0, float("inf"), float("nan"), 1e-45]),
        "clusters": [torch.arange(6).view(2, 3).T, 3.5, [True, ()]],
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
    },
}


def bits(value: Any) -> Any:
    """A value in a form whose equality is that of every bit, types and layout included."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.stride(), value.reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: bits(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [bits(inner) for inner in value]
    return type(value), value


def test_what_is_saved_is_read_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, STATE)
    assert bits(load_checkpoint(path)) == bits(STATE)
    assert os.listdir(path.parent) == ["last.pt"]
    save_checkpoint(path, {"mark": 18})
    assert load_checkpoint(path) == {"mark": 18}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)

    def full_disk(state: Any, file: Any) -> None:
        file.write(b"PK\x03\x04 half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", full_disk)
        with pytest.raises(CheckpointError) as caught:
            save_checkpoint(path, {"mark": 18})
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device); the one before is kept: make room, then resume the run"
    )
    assert os.listdir(tmp_path) == ["last.pt"]
    assert bits(load_checkpoint(path)) == bits(STATE)
    save_checkpoint(path, {"mark": 19})
    assert load_checkpoint(path) == {"mark": 19}


def test_a_mistake_of_ours_is_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(state: Any, file: Any) -> None:
        raise RuntimeError("a tensor that cannot be stored")

    save_checkpoint(tmp_path / "last.pt", STATE)
    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(RuntimeError, match="a tensor that cannot be stored"):
        save_checkpoint(tmp_path / "last.pt", {"mark": 18})
    assert os.listdir(tmp_path) == ["last.pt"]
    assert bits(load_checkpoint(tmp_path / "last.pt")) == bits(STATE)


@pytest.mark.parametrize("room", [0, 1000, 40_000, 43_000])
def test_a_disk_that_is_full_at_any_point(room: int, tmp_path: Path) -> None:
    """PyTorch's writer tells a failed write as an unexpected position, which nobody would understand."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE, keep=2)
    save_checkpoint(path, {"mark": 18}, keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        with pytest.raises(CheckpointError, match=r"last.pt: cannot be written \(File too large\); the one before is"):
            save_checkpoint(path, {"mark": 19, "weights": torch.ones(10_600)}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "last_1.pt"]
    assert load_checkpoint(path) == {"mark": 18}
    assert bits(load_checkpoint(tmp_path / "last_1.pt")) == bits(STATE)


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    (tmp_path / "last_words.pt").touch()  # not ours
    for mark in range(5):
        save_checkpoint(path, {"mark": mark}, keep=3)
    assert [file.name for file in earlier_checkpoints(path)] == ["last_1.pt", "last_2.pt"]
    assert [load_checkpoint(file)["mark"] for file in (path, *earlier_checkpoints(path))] == [4, 3, 2]
    save_checkpoint(path, {"mark": 5}, keep=2)
    assert [load_checkpoint(file)["mark"] for file in (path, *earlier_checkpoints(path))] == [5, 4]
    save_checkpoint(path, {"mark": 6})
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "last_words.pt"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_while_they_move_up_the_last_is_the_last(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "last.pt", 0
    for mark in range(3):
        save_checkpoint(path, {"mark": mark}, keep=3)
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == number:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, {"mark": 3}, keep=3)
    marks = [load_checkpoint(file)["mark"] for file in (path, *earlier_checkpoints(path))]
    assert marks == {1: [2, 1, 0], 2: [2, 1, 1], 3: [2, 2, 1]}[number]
    save_checkpoint(path, {"mark": 3}, keep=3)
    assert load_checkpoint(path) == {"mark": 3}
    assert not list(tmp_path.glob("*.tmp"))


DIES_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
from saccade import atomic, checkpoint

def half(state, file, save=torch.save):
    save(state, file)
    file.flush()
    os.truncate(file.name, os.path.getsize(file.name) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
checkpoint.save_checkpoint(Path(sys.argv[1]), {"mark": 18, "weights": torch.ones(10000)})
"""


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    killed = subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, path], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2  # the half-written one is beside it
    assert bits(load_checkpoint(path)) == bits(STATE)
    save_checkpoint(path, {"mark": 19})
    assert load_checkpoint(path) == {"mark": 19}
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_kept_checkpoint_does_not_change_with_the_rolling_one(tmp_path: Path) -> None:
    last, kept = tmp_path / "last.pt", tmp_path / "epoch_0060.pt"
    save_checkpoint(last, {"mark": 1})
    link_checkpoint(last, kept)
    assert last.stat().st_ino == kept.stat().st_ino  # not written twice
    save_checkpoint(last, {"mark": 2})
    assert (load_checkpoint(kept), load_checkpoint(last)) == ({"mark": 1}, {"mark": 2})
    # The same epoch again, after a resume.
    link_checkpoint(last, kept)
    assert load_checkpoint(kept) == {"mark": 2}
    assert sorted(os.listdir(tmp_path)) == ["epoch_0060.pt", "last.pt"]


def test_where_links_do_not_work_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic.os, "link", refuse)
    last, kept = tmp_path / "last.pt", tmp_path / "epoch_0060.pt"
    save_checkpoint(last, {"mark": 1})
    link_checkpoint(last, kept)
    save_checkpoint(last, {"mark": 2})
    assert load_checkpoint(kept) == {"mark": 1}
    assert sorted(os.listdir(tmp_path)) == ["epoch_0060.pt", "last.pt"]


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "remove it to start over" in message
    assert "\n" not in message
    return message


class TestDamage:
    @pytest.fixture
    def good(self, tmp_path: Path) -> bytes:
        save_checkpoint(tmp_path / "good.pt", STATE)
        return (tmp_path / "good.pt").read_bytes()

    def test_cut_off_anywhere(self, good: bytes, tmp_path: Path) -> None:
        for length in range(0, len(good), 23):
            refusal(tmp_path / "last.pt", good[:length])

    def test_other_files(self, tmp_path: Path) -> None:
        path = tmp_path / "last.pt"
        assert "not a zip archive" in refusal(path, b"")
        assert "not a zip archive" in refusal(path, b"name: toy\n")
        assert "not a zip archive" in refusal(path, pickle.dumps({"format": 1}))
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a", "b")
        refusal(path, stream.getvalue())
        stream = io.BytesIO()
        torch.save({"model": torch.ones(2)}, stream)
        assert "not a checkpoint of this version" in refusal(path, stream.getvalue())
        stream = io.BytesIO()
        torch.save([1, 2], stream)
        assert "not a checkpoint of this version" in refusal(path, stream.getvalue())

    def test_a_folder_or_nothing_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "last.pt").mkdir()
        for path in (tmp_path / "last.pt", tmp_path / "none.pt"):
            with pytest.raises(CheckpointError, match="not a readable checkpoint"):
                load_checkpoint(path)


class Payload:
    """Pickled as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_of_a_hostile_file_is_executed(tmp_path: Path, legacy: bool) -> None:
    path, trace = tmp_path / "last.pt", tmp_path / "trace"
    for payload in (Payload(os.mkdir, str(trace)), Payload(eval, f"open({str(trace)!r}, 'w')")):
        stream = io.BytesIO()
        torch.save({"format": 1, "mark": 0, "learner": payload}, stream, _use_new_zipfile_serialization=not legacy)
        message = refusal(path, stream.getvalue())
        assert "not a readable checkpoint" in message
        assert not trace.exists()
