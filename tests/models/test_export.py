"""Saved encoders: what is loaded computes what was saved, and what cannot be loaded says so in one line."""

import copy
import functools
import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import saccade
from saccade.errors import SaccadeError, WeightsError
from saccade.models.encoder import ENCODERS, Encoder, build_encoder
from saccade.models.export import ClipEncoder, ClipError, load_encoder, read_weights, save_encoder, write_weights

WIDTH = 4
WIDTHS = {name: WIDTH if name in ("r3d", "r2plus1d") else 64 for name in ENCODERS}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@functools.cache
def _trained(name: str) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        encoder = build_encoder(name, width=WIDTHS[name])
        norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm3d)]
        for norm in norms:
            norm.momentum = 1.0  # statistics that keep the signal alive, in one step
        with torch.no_grad():
            encoder(torch.randn(4, 3, 8, 32, 32))
        for norm in norms:
            norm.momentum = 0.1
    return encoder.eval()


def trained(name: str) -> Encoder:
    return copy.deepcopy(_trained(name))


def save(folder: Path, name: str = "r3d") -> Encoder:
    encoder = trained(name)
    save_encoder(folder, encoder, name=name, width=WIDTHS[name], clip_frames=8, clip_size=32)
    return encoder


def clips(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, 8, size, size, generator=torch.Generator().manual_seed(0))


def features(encoder: Encoder, x: Tensor) -> Tensor:
    out: Tensor = encoder((x - MEAN[:, None, None, None]) / STD[:, None, None, None])
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_round_trip(name: str, tmp_path: Path) -> None:
    encoder = save(tmp_path / "new" / "encoder", name)
    loaded = load_encoder(tmp_path / "new" / "encoder")
    assert isinstance(loaded, ClipEncoder)
    assert not any(module.training for module in loaded.modules())
    assert (loaded.feature_dim, loaded.description.name) == (encoder.feature_dim, name)
    there = loaded.encoder.state_dict()
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(there[key], tensor)
    # Other memory, other kernels, other sums, which a deep network makes larger.
    torch.testing.assert_close(loaded(clips()), features(encoder, clips()), rtol=1e-3, atol=1e-3)
    assert loaded(clips()).std(0).max() > 1e-2
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in loaded.parameters())


def test_description_for_people(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.json", "encoder.safetensors"]
    assert json.loads((folder / "encoder.json").read_text()) == {
        "format": 1,
        "name": "r3d",
        "width": WIDTH,
        "feature_dim": 8 * WIDTH,
        "clip_frames": 8,
        "clip_size": 32,
        "value_range": [0.0, 1.0],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "source": None,
    }
    assert load_encoder(folder).description.model_dump(mode="json") == json.loads((folder / "encoder.json").read_text())


def test_the_file_alone_is_enough(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere.bin"
    (folder / "encoder.safetensors").rename(alone)
    assert load_encoder(str(alone)).description.clip_frames == 8


def test_saving_again_replaces(folder: Path) -> None:
    encoder = save(folder, "r2plus1d")
    torch.testing.assert_close(load_encoder(folder)(clips()), features(encoder, clips()))
    assert len(list(folder.iterdir())) == 2


def test_the_same_weights_are_the_same_bytes(folder: Path) -> None:
    """safetensors writes the keys of its metadata in an order that is drawn anew each time."""
    description, tensors = read_weights(folder / "encoder.safetensors")
    contents = set()
    for _ in range(10):
        write_weights(folder / "again.safetensors", tensors, description)
        contents.add((folder / "again.safetensors").read_bytes())
    assert contents == {(folder / "encoder.safetensors").read_bytes()}


def test_a_failed_save_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "encoder.safetensors").read_bytes()

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saccade.atomic.os.fsync", fails)
    with pytest.raises(OSError, match="No space"):
        save(folder)
    assert (folder / "encoder.safetensors").read_bytes() == before
    assert len(list(folder.iterdir())) == 2


def test_who_may_read_the_folder_may_read_the_weights(folder: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {0o666 & ~umask}


def test_channels_last_and_wrong_encoders(tmp_path: Path) -> None:
    encoder = trained("r3d")
    expected = features(encoder, clips())
    encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    save_encoder(tmp_path, encoder, name="r3d", width=WIDTH, clip_frames=8, clip_size=32)
    torch.testing.assert_close(load_encoder(tmp_path)(clips()), expected)
    with pytest.raises(WeightsError, match="another model"):
        save_encoder(tmp_path, encoder, name="r2plus1d", width=WIDTH, clip_frames=8, clip_size=32)
    with torch.no_grad():
        encoder.stem.bn.weight[0] = float("nan")
    with pytest.raises(WeightsError, match="NaN"):
        save_encoder(tmp_path, encoder, name="r3d", width=WIDTH, clip_frames=8, clip_size=32)


@pytest.mark.parametrize("below", [".", "encoder", "extra_files", "model/extra_files", "artifacts/model/extra_files"])
def test_folders(tmp_path: Path, below: str) -> None:
    save(tmp_path / below)
    assert load_encoder(tmp_path).feature_dim == 8 * WIDTH


def test_folders_with_none_or_several(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no encoder.safetensors in this folder; a run writes it when"):
        load_encoder(tmp_path)
    for name in "ab":
        save(tmp_path / name)
    with pytest.raises(WeightsError, match=r"several encoders \(a/encoder.safetensors, b/encoder.safetensors\)"):
        load_encoder(tmp_path)
    save(tmp_path / "a" / "deeper")
    assert load_encoder(tmp_path / "a").feature_dim == 8 * WIDTH  # the nearest


@pytest.mark.parametrize("uri", ["runs:/abc/model", "models:/clips/3"])
def test_mlflow_addresses(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    fake = types.ModuleType("saccade.tracking.model")
    fake.fetch_model = lambda address, **_: asked.append(address) or folder.parent  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, "saccade.tracking.model", fake)
    assert load_encoder(uri).feature_dim == 8 * WIDTH
    assert load_encoder(Path(uri)).feature_dim == 8 * WIDTH
    assert asked == [uri, uri]


def test_clips_of_other_sizes_and_types(folder: Path) -> None:
    encoder = load_encoder(folder)
    assert encoder(torch.rand(1, 3, 1, 16, 16)).shape == (1, 8 * WIDTH)
    assert encoder(torch.rand(3, 3, 20, 40, 56)).shape == (3, 8 * WIDTH)
    assert encoder(torch.rand(0, 3, 8, 32, 32)).shape == (0, 8 * WIDTH)
    expected = encoder(clips())
    torch.testing.assert_close(encoder(clips().double()), expected)
    torch.testing.assert_close(encoder(clips().half()), expected, rtol=1e-2, atol=1e-2)
    encoder.double()
    torch.testing.assert_close(encoder(clips()), expected.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.rand(3, 8, 32, 32), r"shape \(3, 8, 32, 32\); .*add a batch dimension"),
        (torch.rand(32, 32), r"shape \(32, 32\); clips are \[batch, 3, frames, height, width\]$"),
        (torch.rand(2, 8, 3, 32, 32), r"use clips.permute\(0, 2, 1, 3, 4\)"),
        (torch.rand(2, 8, 32, 32, 3), r"use clips.permute\(0, 4, 1, 2, 3\)"),
        (torch.rand(2, 1, 8, 32, 32), r"shape \(2, 1, 8, 32, 32\); clips are"),
        (torch.zeros(2, 3, 8, 32, 32, dtype=torch.uint8), r"dtype torch.uint8; .*use clips.float\(\) / 255"),
        (torch.zeros(2, 3, 8, 32, 32, dtype=torch.int64), "dtype torch.int64; the encoder takes floating point"),
        (torch.rand(2, 3, 0, 32, 32), "at least 1 frame of 16 x 16 px"),
        (torch.rand(2, 3, 8, 15, 32), "at least 1 frame of 16 x 16 px"),
        (torch.rand(2, 3, 8, 32, 32) * 255, r"values from .* to 25\d.*takes \[0, 1\] and normalises"),
        (torch.full((1, 3, 8, 32, 32), -2.0), r"values from -2 to -2; .*takes \[0, 1\]"),
        (torch.full((1, 3, 8, 32, 32), float("nan")), "values from nan to nan"),
    ],
)
def test_clips_that_do_not_fit(folder: Path, bad: Tensor, message: str) -> None:
    with pytest.raises(ClipError, match=message) as caught:
        load_encoder(folder)(bad)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SaccadeError)
    assert isinstance(caught.value, ValueError)


def test_clips_that_are_too_small_for_s3d(tmp_path: Path) -> None:
    save(tmp_path, "s3d")
    encoder = load_encoder(tmp_path)
    for size in ((7, 17, 17), (8, 16, 17), (8, 17, 16)):
        with pytest.raises(ClipError, match="the encoder takes at least 8 frames of 17 x 17 px"):
            encoder(torch.rand(1, 3, *size))
    assert encoder(torch.rand(1, 3, 8, 17, 17)).shape == (1, 1024)


def test_the_hints_of_the_messages_work(folder: Path) -> None:
    encoder = load_encoder(folder)
    expected = encoder(clips())
    for order, back in (((0, 2, 1, 3, 4), (0, 2, 1, 3, 4)), ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3))):
        torch.testing.assert_close(encoder(clips().permute(order).permute(back)), expected)


def test_export_of_what_was_loaded(folder: Path) -> None:
    encoder = load_encoder(folder)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(encoder, (clips(3),), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(clips(2)), encoder(clips(2)))


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        load_encoder(folder)
        assert torch.equal(torch.rand(1), expected)


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(WeightsError, match=pattern) as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_not_a_file_of_weights(folder: Path, tmp_path: Path) -> None:
    path = folder / "encoder.safetensors"
    whole = path.read_bytes()
    refused(tmp_path / "nothing.safetensors", "there is no such file")
    for content in (b"", b"\xff" * 64, whole[:7], whole[:500], whole[:-1], whole + b"0", b"\x02" + b"\0" * 7 + b"{}"):
        path.write_bytes(content)
        refused(path, r"not a readable safetensors file|without saccade's description")
    torch.save({"model": {}}, path)
    refused(path, "converted with `saccade import-weights`")


def rewrite(path: Path, *, tensors: dict[str, Tensor] | None = None, **description: object) -> None:
    """Write the file again with other weights or another description."""
    described = json.loads((path.parent / "encoder.json").read_text()) | description
    save_file({**load_file(path), **(tensors or {})}, path, metadata={"saccade": json.dumps(described)})


@pytest.mark.parametrize(
    ("description", "pattern"),
    [
        ({"name": "vit"}, "there is no encoder 'vit'; use one of r3d, r2plus1d, r3d_18"),
        ({"name": "s3d"}, "encoder.width: 4, but s3d has widths of its own"),
        ({"width": 8}, "feature_dim is 32 in its description, but width 8 gives 64"),
        ({"width": 8, "feature_dim": 64}, r"stem.conv.weight has shape \(4, 3, 3, 7, 7\), expected \(8, 3, 3, 7, 7\)"),
        ({"width": 10**9, "feature_dim": 8 * 10**9}, r"damaged or of a newer version \(width: "),
        ({"width": "4"}, r"\(width: "),
        ({"format": 2}, r"damaged or of a newer version \(format: "),
        ({"mean": [0, 0]}, r"\(mean"),
        ({"std": [1.0, 1.0, 0.0]}, r"\(std.2: "),
        ({"surprise": 1}, r"\(surprise: "),
    ],
)
def test_descriptions_that_do_not_fit(folder: Path, description: dict[str, Any], pattern: str) -> None:
    path = folder / "encoder.safetensors"
    rewrite(path, **description)
    refused(path, pattern)


def test_weights_that_do_not_fit(folder: Path) -> None:
    path = folder / "encoder.safetensors"
    rewrite(path, tensors={"encoder.stem.bn.weight": torch.full((WIDTH,), float("inf"))})
    refused(path, "stem.bn.weight holds NaN or infinite")
    rewrite(path, tensors={"encoder.stem.bn.weight": torch.ones(WIDTH), "encoder.more": torch.ones(1)})
    refused(path, r"1 unknown \(more\)")
    save_file({"a": torch.ones(1)}, path)
    refused(path, "without saccade's description")
    save_file({"a": torch.ones(1)}, path, metadata={"saccade": "{"})
    refused(path, "damaged or of a newer version")


def test_other_parts_in_the_file_are_left_alone(folder: Path) -> None:
    path = folder / "encoder.safetensors"
    expected = load_encoder(path)(clips())
    rewrite(path, tensors={"projection.linear.weight": torch.ones(2, 32), "encoder.stem.bn.bias": torch.zeros(WIDTH)})
    rewrite(path, tensors={"encoder.stem.bn.bias": trained("r3d").stem.bn.bias.detach()})
    assert torch.equal(load_encoder(path)(clips()), expected)


def test_the_package_imports_without_torch_and_offers_load_encoder() -> None:
    code = (
        "import sys, saccade\n"
        "assert saccade.__version__ and not {'torch', 'numpy', 'mlflow', 'cv2'} & set(sys.modules)\n"
        "from saccade import load_encoder\n"
        "assert not {'torchvision', 'mlflow', 'cv2'} & set(sys.modules)\n"
        "print(load_encoder.__module__)\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.stdout, result.stderr) == ("saccade.models.export\n", "")
    assert saccade.load_encoder is load_encoder
    with pytest.raises(AttributeError, match="no attribute 'load_decoder'"):
        saccade.load_decoder  # noqa: B018


def test_fine_tuning_what_was_loaded(folder: Path) -> None:
    encoder = load_encoder(folder).train()
    head = nn.Linear(encoder.feature_dim, 2)
    head(encoder(clips())).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_device(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = load_encoder(folder, device="cpu")
    assert {tensor.device.type for tensor in [*encoder.parameters(), *encoder.buffers()]} == {"cpu"}
