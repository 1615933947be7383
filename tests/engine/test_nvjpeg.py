"""Decoding on a GPU, without one: what is asked of torchvision and of streams, and what becomes of failures."""

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg  # type: ignore[import-untyped]
import torch
from torch import Tensor

from saccade import torchvision_shim
from saccade.engine import nvjpeg
from saccade.engine.device import pick_machine
from saccade.errors import SpecError

from ..nvjpeg_stand_in import on_cpu


def jpeg(seed: int, height: int = 24, width: int = 32) -> bytes:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return bytes(simplejpeg.encode_jpeg(picture, quality=90))


def raises(error: Exception) -> Callable[[object], Tensor]:
    def fail(_: object) -> Tensor:
        raise error

    return fail


def test_each_file_is_decoded_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvjpeg, "_decoded", on_cpu)
    files = [jpeg(seed) for seed in range(3)]
    ends = np.cumsum([len(file) for file in files]).tolist()
    seen = nvjpeg.decode_on_gpu(torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8), ends)
    assert seen is not None
    for frame, file in zip(seen, files, strict=True):
        np.testing.assert_array_equal(frame.permute(1, 2, 0), simplejpeg.decode_jpeg(file))


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to decode batch: 4"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_what_cannot_be_decoded_is_left_to_the_cpu(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(nvjpeg, "_decoded", raises(error))
    assert nvjpeg.decode_on_gpu(torch.zeros(9, dtype=torch.uint8), [4, 9]) is None


class TestWhetherItCan:
    def test_it_can(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nvjpeg, "_decoded", on_cpu)
        assert nvjpeg.why_not() is None

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda seen: seen.flip(1), "its pixels are not those"),
            (lambda seen: seen[..., :-1], "its pixels are not those"),
            (raises(RuntimeError("not compiled with nvJPEG support\nmore")), "not compiled with nvJPEG"),
            (raises(AttributeError("no decode_jpegs_cuda")), "no decode_jpegs_cuda"),
        ],
    )
    def test_it_cannot(self, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor], said: str) -> None:
        monkeypatch.setattr(nvjpeg, "_decoded", lambda files: change(on_cpu(files)))
        found = nvjpeg.why_not()
        assert found is not None
        assert found.startswith(said)
        assert "\n" not in found

    def test_without_a_gpu(self) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        with pytest.raises(SpecError, match=r"^engine\.decode: nvjpeg was asked .* \(.* no CUDA device\); use cpu$"):
            pick_machine("auto", decode="nvjpeg")
        assert not pick_machine("cpu").nvjpeg

    def test_a_gpu_that_cannot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(nvjpeg, "why_not", lambda: "not compiled with it")
        with pytest.raises(SpecError, match=r"\(not compiled with it\); use cpu$"):
            pick_machine("cuda", "fp32", decode="nvjpeg")
        monkeypatch.setattr(nvjpeg, "why_not", lambda: None)
        assert pick_machine("cuda", "fp32", decode="nvjpeg").nvjpeg


def test_memory_of_the_training_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded and joined on a stream of its own, done before anyone gets it, and kept until the training is done."""
    happened: list[str] = []

    class Stream:
        def synchronize(self) -> None:
            happened.append("wait")

    @contextmanager
    def within(stream: object):
        assert isinstance(stream, Stream)
        happened.append("begin")
        yield
        happened.append("end")

    def decode(files: list[Tensor], mode: str, device: torch.device) -> list[Tensor]:
        happened.append("decode")
        assert (mode, device) == ("RGB", torch.device("cuda", 3))
        return list(on_cpu(files))

    def record(frames: Tensor, stream: object) -> None:
        happened.append(f"keep {tuple(frames.shape)} for {stream}")

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "training")
    monkeypatch.setattr(torch.Tensor, "record_stream", record)
    io = SimpleNamespace(decode_jpeg=decode, ImageReadMode=SimpleNamespace(RGB="RGB"))
    monkeypatch.setitem(vars(torchvision_shim), "io", io)
    nvjpeg._stream.cache_clear()
    file = torch.frombuffer(bytearray(jpeg(1)), dtype=torch.uint8)
    try:
        frames = nvjpeg._decoded([file, file])
    finally:
        nvjpeg._stream.cache_clear()
    assert torch.equal(frames, on_cpu([file, file]))
    assert happened == ["begin", "decode", "end", "wait", "keep (2, 3, 24, 32) for training"]
