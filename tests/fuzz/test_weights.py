"""Checkpoints and files of weights made wrong: what is taken is, to the bit, what was written; nothing is ever run."""

import argparse
import functools
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file
from torch import Tensor

import saccade
from saccade.bench.clustering import _load as load_features
from saccade.checkpoint import load_checkpoint, save_checkpoint
from saccade.errors import CheckpointError, WeightsError
from saccade.initial_weights import adopt, find_initial_weights, initial_weights_file, read_record
from saccade.models.encoder import build_encoder
from saccade.models.export import content_sum, read_weights, save_encoder
from saccade.models.published import import_published, published_name
from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec

from .mutations import Mutation, Refusal, fuzzed, mutate, mutations, read, refused

pytestmark = pytest.mark.filterwarnings(
    "ignore:Detected pickle protocol", "ignore:TypedStorage is deprecated", "ignore:invalid escape sequence"
)

WIDTH = 4
STATE = {
    "mark": 1234,
    "epoch": 3,
    "name": "e\u0301",
    "learner": {"w": torch.arange(60.0).reshape(3, 20), "n": torch.tensor(7), "b": torch.ones(9, dtype=torch.bfloat16)},
    "steps": [1, 2.5, None, True, {"k": torch.zeros(0)}],
}
TOKENS = (b"PK\x03\x04", b"PK\x01\x02", b"data.pkl", b"ctorch\n", b"cos\nsystem\n", b"R.", b"\x86", b"h\x00", b"}")


def bits(value: Any) -> Any:
    """Something to compare to the bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items()}
    return [bits(each) for each in value] if isinstance(value, list) else (type(value), value)


def torch_bytes(content: Any, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def with_script(content: bytes, script: bytes | Callable[[bytes], bytes]) -> bytes:
    """A file of `torch.save` whose pickle is another, with right checksums."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w") as changed:
        for name in archive.namelist():
            part = archive.read(name)
            if name.endswith("data.pkl"):
                part = script(part) if callable(script) else script
            changed.writestr(name, part)
    return stream.getvalue()


# Checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    save_checkpoint(path, STATE)
    return path.read_bytes()


@fuzzed(120, 1500)
@given(changes=mutations(TOKENS))
def test_checkpoints(tmp_path: Path, checkpoint: bytes, changes: list[Mutation]) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(mutate(checkpoint, changes))
    state = read("checkpoint", lambda: load_checkpoint(path), CheckpointError)
    if isinstance(state, Refusal):
        assert state.message.startswith(f"{path}: ")
    else:
        assert bits(state) == bits(STATE)


@fuzzed(80, 800)
@given(changes=mutations(TOKENS, how=("flip", "drop", "double", "overwrite", "insert", "splice")))
def test_checkpoints_with_right_sums(tmp_path: Path, checkpoint: bytes, changes: list[Mutation]) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(with_script(checkpoint, lambda script: mutate(script, changes)))
    read("tampered checkpoint", lambda: load_checkpoint(path), CheckpointError)


# Published files -----------------------------------------------------------------------------------------------------


@functools.cache
def published() -> dict[str, Any]:
    """A published pre-training file of a small encoder; tests/models/test_published.py has whole ones."""
    state = build_encoder("r3d", width=WIDTH).state_dict()
    return {
        "model": OrderedDict((f"module.{published_name(key)}", value) for key, value in state.items()),
        "contrast": {"memory": torch.zeros(2, 8 * WIDTH)},
        "opt": argparse.Namespace(lr=0.1, model="r3d"),
        "epoch": 300,
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@fuzzed(20, 300)
@given(changes=mutations(TOKENS))
def test_published_files(tmp_path: Path, legacy: bool, changes: list[Mutation]) -> None:
    path, out = tmp_path / "r3d.pth", tmp_path / "out.safetensors"
    path.write_bytes(mutate(torch_bytes(published(), legacy=legacy), changes))
    found = read("published file", lambda: import_published(path, out, overwrite=True), WeightsError)
    if isinstance(found, Refusal):
        assert found.message.startswith(f"{path}: ")
    elif not legacy:  # the older format has no checksums
        state = load_file(out)
        for key, value in published()["model"].items():
            ours = next(name for name in state if f"module.{published_name(name.removeprefix('encoder.'))}" == key)
            assert bits(state[ours]) == bits(value)
        assert (found.epoch, found.encoder, found.width) == (300, "r3d", WIDTH)


@fuzzed(20, 300)
@given(changes=mutations(TOKENS, how=("flip", "drop", "double", "overwrite", "insert", "splice")))
def test_published_files_with_right_sums(tmp_path: Path, changes: list[Mutation]) -> None:
    path, out = tmp_path / "r3d.pth", tmp_path / "out.safetensors"
    path.write_bytes(with_script(torch_bytes(published()), lambda script: mutate(script, changes)))
    found = read("tampered published file", lambda: import_published(path, out, overwrite=True), WeightsError)
    if not isinstance(found, Refusal):
        saccade.load_encoder(out)


def doubled(levels: int) -> bytes:
    """A dict whose key is a tuple of a tuple of ... that has 2^levels items in no space."""
    return b"\x80\x02}K\x01" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(levels)) + b"K\x01s."


def shared(levels: int) -> bytes:
    """A list of a list of ... of two, each twice in the next, that has 2^levels items in no space."""
    return b"]q\x00K\x01a" + b"".join(b"]q%c(h%ch%ce" % (n, n - 1, n - 1) for n in range(1, levels))


def encoded(text: str) -> bytes:
    """The instruction that puts a text on the stack."""
    content = text.encode()
    return b"X" + len(content).to_bytes(4, "little") + content


BOMBS = {
    "key that takes years to hash": doubled(60),
    "key that is too deep to hash": b"\x80\x02}K\x01" + b"\x85" * 2_000_000 + b"K\x01s.",
    "deep list": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "marks": b"\x80\x02" + b"(" * 20_000 + b"t" * 20_000 + b".",
    "integer of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 10 + b".",
    "text of 4 GB": b"\x80\x02X\xff\xff\xff\xff" + b"a" * 10 + b".",
    "text of 8 EB": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"a" * 10 + b".",
    "place in the memo": b"\x80\x02K\x01r\xff\xff\xff\xff.",
    "millions of instructions": b"\x80\x02" + b"N0" * 101_000 + b".",
    "name that takes minutes to look for in": b"\x80\x02c" + b"[" * 50_000 + b"\nx\n.",
    "list that takes years to write, as a function": b"\x80\x02" + shared(60) + b")R.",
    "list that takes years to write, as a class": b"\x80\x02" + shared(60) + b")\x81.",
    "text that takes minutes to look for in, as a function": b"\x80\x02X"
    + (50_000).to_bytes(4, "little")
    + b"[" * 50_000
    + b")R.",
    "text that takes hours to encode": b"\x80\x02c_codecs\nencode\n"
    + encoded("".join(map(chr, range(0x4E00, 0x9E00))) * 4)
    + b"U\x08punycode\x86R.",
    "integers that have the same hash": b"\x80\x02}("
    + b"".join(b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in range(60_000))
    + b"u.",
    "nothing": b"",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("form", ["zip", "bare"])
def test_pickles_that_would_not_end(tmp_path: Path, checkpoint: bytes, bomb: str, form: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(with_script(checkpoint, BOMBS[bomb]) if form == "zip" else BOMBS[bomb])
    refused("pickle bomb", lambda: load_checkpoint(path), f"{path}: not a ")
    refused("pickle bomb", lambda: import_published(path, tmp_path / "out.safetensors"), str(path))


def test_sizes_that_a_file_claims(tmp_path: Path, checkpoint: bytes) -> None:
    path = tmp_path / "last.pt"
    # The storage of w has 60 items, and so has the tensor: claim 2^28 in both places.
    script = b"K<", b"J\x00\x00\x00\x10"
    path.write_bytes(with_script(checkpoint, lambda content: content.replace(*script)))
    assert path.read_bytes() != checkpoint
    refused("absurd size", lambda: load_checkpoint(path), "not a readable checkpoint")
    squeezed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(checkpoint)) as archive,
        zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as changed,
    ):
        for name in archive.namelist():
            changed.writestr(name, archive.read(name) + b"\0" * 10_000_000 * name.endswith("/0"))
    path.write_bytes(squeezed.getvalue())
    refused("absurd size", lambda: load_checkpoint(path), "is compressed")
    for length in (2**63 - 1, 2**40, 100_000_000):
        weights = tmp_path / "x.safetensors"
        weights.write_bytes(length.to_bytes(8, "little") + b'{"a":' * 1000)
        refused("absurd size", lambda: saccade.load_encoder(tmp_path / "x.safetensors"), "not a readable safetensors")
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    refused("absurd size", lambda: saccade.load_encoder(weights), "not a readable safetensors")
    features = tmp_path / "x.npy"
    said = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 512), }\n"
    features.write_bytes(b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said)
    refused("absurd size", lambda: load_features(features, 8), "not an .npy file of features")


# safetensors ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_encoder(folder, build_encoder("r3d", width=WIDTH), name="r3d", width=WIDTH, clip_frames=8, clip_size=32)
    return folder / "encoder.safetensors"


@fuzzed(80, 900)
@given(changes=mutations((b"encoder.", b'"shape":[4],', b'"F16"', b"saccade", b'\\"width\\":8,', b"0.485", b"1")))
def test_weights(tmp_path: Path, weights: Path, changes: list[Mutation]) -> None:
    """Half of the changes are in the header, which is a hundredth of a file."""
    path, content = tmp_path / "encoder.safetensors", weights.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    in_header = len(changes) % 2
    wrong = mutate(content[:length], changes) + content[length:] if in_header else mutate(content, changes)
    path.write_bytes(wrong)
    encoder = read("safetensors", lambda: saccade.load_encoder(path), WeightsError)
    if isinstance(encoder, Refusal):
        assert encoder.message.startswith(f"{path}: ")
    else:
        whole = saccade.load_encoder(weights)
        assert encoder.description == whole.description
        assert bits(dict(encoder.state_dict())) == bits(dict(whole.state_dict()))


def test_the_sum_of_weights_by_hand() -> None:
    import hashlib

    tensors = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    said = b"{}" + b"\0a\0torch.int64\0[]\0" + np.array(3, "<i8").tobytes()
    said += b"\0b\0torch.float32\0[2]\0" + np.array([1, 2], "<f4").tobytes()
    assert content_sum("{}", tensors) == hashlib.sha256(said).hexdigest()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> RunDir:
    """A run that starts from weights."""
    folder = tmp_path_factory.mktemp("begun")
    spec = Spec.model_validate({"name": "x", "encoder": {"name": "r3d", "width": WIDTH, "weights": str(weights)}})
    found = find_initial_weights(spec, folder)
    assert found == weights
    run = create_run(folder / "runs", spec, ["saccade"])
    adopt(found, str(weights), run)
    return run


@fuzzed(30, 300)
@given(changes=mutations((b'"sha256": "', b"false", b'"source": {}', b"null")))
def test_records_of_weights(begun: RunDir, weights: Path, changes: list[Mutation]) -> None:
    path = initial_weights_file(begun.path).with_suffix(".json")
    adopt(weights, str(weights), begun)
    before = read_record(begun.path)
    path.write_bytes(mutate(path.read_bytes(), changes))
    record = read("weights.json", lambda: read_record(begun.path), WeightsError)
    if not isinstance(record, Refusal):
        assert record["sha256"] == before["sha256"]
        assert {key: type(record[key]) for key in before} == {key: type(value) for key, value in before.items()}


def test_a_run_goes_on_from_the_very_weights_that_it_was_begun_with(begun: RunDir, weights: Path) -> None:
    adopt(weights, str(weights), begun)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    initial_weights_file(begun.path).write_bytes(content)
    refused("weights of a run", lambda: read_record(begun.path), "is not the file that weights.json describes")


# Code in a pickle ----------------------------------------------------------------------------------------------------


class Payload:
    """Pickled as a call that leaves a trace."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("trace",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".npy", ".npz", ".safetensors"])
def test_code_is_run_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Wherever a file can be given: each form of pickle under each name."""
    monkeypatch.chdir(tmp_path)
    path, spec = tmp_path / f"evil{suffix}", Spec.model_validate({"name": "x", "encoder": {"weights": f"evil{suffix}"}})
    array = io.BytesIO()
    np.save(array, np.array([Payload()], dtype=object), allow_pickle=True)
    arrays = io.BytesIO()
    np.savez(arrays, a=np.array([Payload()], dtype=object), allow_pickle=True)
    model = {"model": {"conv1.temporal_spatial_conv.weight": Payload()}}
    forms = [pickle.dumps(Payload()), array.getvalue(), arrays.getvalue()]
    forms += [torch_bytes(content, legacy=legacy) for content in (Payload(), model) for legacy in (False, True)]
    for content in forms:
        path.write_bytes(content)
        (tmp_path / "last.pt").write_bytes(content)
        readers: list[Callable[[], object]] = [
            lambda: import_published(path, tmp_path / "out.safetensors"),
            lambda: find_initial_weights(spec, tmp_path),
            lambda: saccade.load_encoder(path),
            lambda: read_weights(path),
            lambda: load_checkpoint(tmp_path / "last.pt"),
            lambda: load_features(path, 8),
        ]
        for reader in readers:
            refused("code", reader)
    assert not (tmp_path / "trace").exists()
