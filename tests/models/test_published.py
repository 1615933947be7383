"""Importing the release's files, checked against the release's networks written anew from method.md."""

import argparse
import builtins
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from saccade.errors import WeightsError
from saccade.models.export import load_encoder
from saccade.models.published import import_published

from .release import WIDTH, release_content, release_net, save

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(params=["r3d", "r2plus1d"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def r3d_content() -> dict[str, Any]:
    return release_content(release_net("r3d"))


def clips(*, size: int = 40, frames: int = 8) -> Tensor:
    return torch.rand(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


def normalised(x: Tensor) -> Tensor:
    return (x - MEAN[:, None, None, None]) / STD[:, None, None, None]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_pretraining_file(name: str, prefix: str, legacy: bool, tmp_path: Path) -> None:
    net = release_net(name)
    content = release_content(net, prefix=prefix)
    path = save(content, tmp_path / "release.pth", _use_new_zipfile_serialization=not legacy)
    out = tmp_path / "out.safetensors"
    report = import_published(path, out)
    assert (report.kind, report.encoder, report.width, report.epoch) == ("pre-training", name, WIDTH, 300)
    assert report.parts == ("encoder", "projection", "propagation")
    assert str(report).splitlines()[0] == f"{out}: {name} of width 8 from a pre-training file, epoch 300"
    assert f"sha256 {report.sha256}" in str(report)
    assert "contrast.memory (tensor [6, 64])" in report.left_out
    assert "opt (Namespace)" in report.left_out
    assert "f_num (3)" in report.left_out
    encoder = load_encoder(out)
    expected = net(normalised(clips()))
    assert expected.std(0).max() > 1e-2  # the reference's features do tell clips apart
    torch.testing.assert_close(encoder(clips()), expected, rtol=1e-5, atol=1e-5)
    tensors = load_file(out)
    for ours, theirs in {
        "propagation.projector.weight": net.projector.weight,
        "propagation.projector.bias": net.projector.bias,
        "propagation.value_transform.weight": net.value_transform[0].weight,
        "propagation.value_transform.bias": net.value_transform[0].bias,
        "projection.linear.weight": content["contrast"]["feature_proj.0.weight"],
        "projection.linear.bias": content["contrast"]["feature_proj.0.bias"],
    }.items():
        assert torch.equal(tensors[ours], theirs)
    assert {key.split(".")[0] for key in tensors} == {"encoder", "projection", "propagation"}


def test_heads_fit_our_modules(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    from saccade.models.heads import Projection, PropagationHead

    import_published(save(r3d_content, tmp_path / "release.pth"), tmp_path / "out.safetensors")
    tensors = load_file(tmp_path / "out.safetensors")
    for module, part in ((Projection(64, 16), "projection."), (PropagationHead(64), "propagation.")):
        module.load_state_dict({key.removeprefix(part): t for key, t in tensors.items() if key.startswith(part)})


@pytest.mark.parametrize("heads", ["linear_probe", "finetuned"])
def test_classifier_file(name: str, heads: str, tmp_path: Path) -> None:
    net = release_net(name, heads=heads)
    content = release_content(net)
    del content["contrast"]
    out = tmp_path / "out.safetensors"
    report = import_published(save(content, tmp_path / "release.pth"), out)
    assert report.kind == "classifier"
    assert report.parts == ("encoder", "classifier")
    # The release's classifiers see clips in [0, 1] as they are.
    torch.testing.assert_close(load_encoder(out)(clips()), net(clips()), rtol=1e-5, atol=1e-5)
    tensors = load_file(out)
    linear = net.linear if heads == "linear_probe" else net.linear[1]  # type: ignore[index]
    assert torch.equal(tensors["classifier.linear.weight"], linear.weight)  # type: ignore[arg-type]
    assert torch.equal(tensors["classifier.linear.bias"], linear.bias)  # type: ignore[arg-type]
    assert ("classifier.bn.running_var" in tensors) == (heads == "linear_probe")
    if heads == "linear_probe":
        for key in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(tensors[f"classifier.bn.{key}"], net.final_bn.state_dict()[key])


def test_published_width(name: str, tmp_path: Path) -> None:
    net = release_net(name, width=64)
    out = tmp_path / "out.safetensors"
    import_published(save(release_content(net), tmp_path / "release.pth"), out)
    encoder = load_encoder(out)
    assert (encoder.feature_dim, encoder.description.clip_frames, encoder.description.clip_size) == (512, 16, 112)
    torch.testing.assert_close(encoder(clips()), net(normalised(clips())), rtol=1e-4, atol=1e-4)


def test_metadata_says_where_it_comes_from(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    import hashlib

    path = save(r3d_content, tmp_path / "release.pth")
    report = import_published(path, tmp_path / "out.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.sha256 == digest
    assert load_encoder(report.out).description.source == {
        "file": "release.pth",
        "sha256": digest,
        "kind": "pre-training",
        "epoch": 300,
    }
    with safe_open(report.out, framework="pt") as file:
        assert set(file.metadata()) == {"saccade", "saccade_sha256"}


def test_counters_of_batches_may_be_missing(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    model = {key: t for key, t in r3d_content["model"].items() if not key.endswith("num_batches_tracked")}
    assert len(model) < len(r3d_content["model"])
    out = tmp_path / "out.safetensors"
    import_published(save({**r3d_content, "model": model}, tmp_path / "release.pth"), out)
    expected = release_net("r3d")(normalised(clips()))
    torch.testing.assert_close(load_encoder(out)(clips()), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_file(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    model = {key: t.half() if t.is_floating_point() else t for key, t in r3d_content["model"].items()}
    out = tmp_path / "out.safetensors"
    import_published(save({**r3d_content, "model": model}, tmp_path / "release.pth"), out)
    assert {t.dtype for t in load_file(out).values()} == {torch.float32, torch.int64}


def test_only_the_model(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    out = tmp_path / "out.safetensors"
    report = import_published(save({"model": r3d_content["model"]}, tmp_path / "release.pth"), out)
    assert (report.epoch, report.parts, report.left_out) == (None, ("encoder", "propagation"), ())


def refused(path: Path, pattern: str) -> None:
    """Importing `path` fails with one line that matches, and leaves nothing behind."""
    folder = path.parent / "out"
    folder.mkdir(exist_ok=True)
    with pytest.raises(WeightsError, match=pattern) as caught:
        import_published(path, folder / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert list(folder.iterdir()) == []


class Hostile:
    """Unpickled, this calls `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("place", ["top", "epoch", "inside opt", "model"])
@pytest.mark.parametrize("attack", ["os.system", "open", "eval"])
def test_hostile_pickle_is_refused_and_not_run(
    attack: str, place: str, form: str, tmp_path: Path, r3d_content: dict[str, Any]
) -> None:
    marker = tmp_path / "marker"
    hostile = {
        "os.system": Hostile(os.system, f"touch {marker}"),
        "open": Hostile(open, str(marker), "w"),
        "eval": Hostile(builtins.eval, f"__import__('pathlib').Path({str(marker)!r}).touch()"),
    }[attack]
    content: Any = {
        "top": hostile,
        "epoch": {**r3d_content, "epoch": hostile},
        "inside opt": {**r3d_content, "opt": argparse.Namespace(lr=0.1, name=[hostile])},
        "model": {**r3d_content, "model": {"module.bn1.weight": hostile}},
    }[place]
    path = tmp_path / "release.pth"
    if form == "bare pickle":
        # Without tensors, which a bare pickle would drag their own machinery in for.
        path.write_bytes(pickle.dumps(hostile if place == "top" else {"epoch": hostile}, protocol=2))
    else:
        save(content, path, _use_new_zipfile_serialization=form == "zip")
    function = {"os.system": "(posix|nt).system", "open": r"_?io.open", "eval": ".*eval"}[attack]
    refused(
        path, f"asks to call {function}, .* refused without running it" if form != "bare pickle" else "refused|not a"
    )
    assert not marker.exists()
    # The attack is real: Python's own unpickler runs it.
    opened = pickle.loads(pickle.dumps(hostile))
    if hasattr(opened, "close"):
        opened.close()
    assert marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated(tmp_path: Path, r3d_content: dict[str, Any], legacy: bool) -> None:
    path = save(r3d_content, tmp_path / "release.pth", _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in (1, 3, 100, 2000, len(whole) // 2, len(whole) - 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "not a PyTorch file")


def test_not_such_a_file(tmp_path: Path) -> None:
    path = tmp_path / "release.pth"
    refused(path, "no such file")
    refused(tmp_path, "is a folder")
    path.write_bytes(b"")
    refused(path, "is empty")
    for content in (b"<!doctype html><title>Quota exceeded</title>", b"\0" * 1000, b"PK\x03\x04" + b"\1" * 200):
        path.write_bytes(content)
        refused(path, "not a PyTorch file")
    refused(save([1, 2], path), r"holds a list; a published file is a dict with model, contrast, optimizer")
    refused(save(torch.zeros(3), path), "holds a Tensor; a published file")
    refused(save({}, path), "holds an empty dict; a published file")
    refused(save({"state_dict": {}, "epoch": 3}, path), "holds the keys state_dict, epoch; a published file")
    refused(save({"model": torch.zeros(1)}, path), "model: is a Tensor, expected a dict of named tensors")
    refused(save({"model": {1: torch.zeros(1)}}, path), "model: is a dict, expected a dict of named tensors")
    refused(save({"model": {"module.bn1.weight": 1.0}}, path), "bn1.weight is a float, expected a tensor")
    refused(save({"model": {"stem.0.weight": torch.zeros(1)}}, path), r"holds the keys stem.0.weight, neither conv1")


def changed(content: dict[str, Any], where: str = "model", **changes: Tensor | None) -> dict[str, Any]:
    """The content with some weights replaced, or removed for None; dots are written `__`."""
    part = dict(content[where])
    for key, value in changes.items():
        key = ("module." if where == "model" else "") + key.replace("__", ".")
        if value is None:
            del part[key]
        else:
            part[key] = value
    return {**content, where: part}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"conv5__block1__bn2__weight": None}, r"of 72 weights, 1 missing \(conv5.block1.bn2.weight\)"),
    "two missing": (
        {"bn1__bias": None, "conv2__block1__bn1__bias": None},
        r"2 missing \(bn1.bias, ...\); it belongs to another model",
    ),
    "unknown": ({"conv5__block2__bn__bias": torch.zeros(1)}, r"1 unknown \(conv5.block2.bn.bias\)"),
    "our own name": ({"stem__bn__bias": torch.zeros(8)}, r"1 unknown \(stem.bn.bias\)"),
    "shape": ({"bn1__weight": torch.zeros(9)}, r"bn1.weight has shape \(9,\), expected \(8,\)"),
    "stem's shape": ({"conv1__temporal_spatial_conv__weight": torch.zeros(3)}, r"has shape \(3,\), expected"),
    "NaN": ({"bn1__running_var": torch.full((8,), float("nan"))}, "bn1.running_var holds NaN or infinite"),
    "infinite": ({"bn1__weight": torch.full((8,), float("inf"))}, "bn1.weight holds NaN or infinite"),
    "integers": ({"bn1__weight": torch.ones(8, dtype=torch.int64)}, "bn1.weight has dtype torch.int64, expected"),
    "complex": ({"bn1__weight": torch.ones(8, dtype=torch.complex64)}, "bn1.weight is not a plain tensor"),
    "meta": ({"bn1__weight": torch.ones(8, device="meta")}, "bn1.weight is not a plain tensor"),
    "half a head": ({"projector__bias": None}, r"propagation.projector: of 2 weights, 1 missing \(bias\)"),
    "head's shape": ({"projector__weight": torch.zeros(64, 64)}, r"propagation.projector: weight has shape \(64, 64\)"),
    "head's NaN": ({"projector__bias": torch.full((64,), float("nan"))}, "propagation.projector: bias holds NaN"),
    "scalar head": ({"projector__weight": torch.tensor(1.0)}, r"propagation.projector: weight has shape \(\)"),
    "two classifiers": (
        {"linear__weight": torch.zeros(5, 64), "linear__1__weight": torch.zeros(5, 64)},
        r"holds both linear.\* and linear.1.\*",
    ),
    "classifier's shape": (
        {"linear__weight": torch.zeros(5, 32), "linear__bias": torch.zeros(5)},
        r"classifier.linear: weight has shape \(5, 32\), expected \(5, 64\)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_another_model(case: str, tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    changes, pattern = CASES[case]
    refused(save(changed(r3d_content, **changes), tmp_path / "release.pth"), pattern)


def test_contrast_of_another_model(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    path = tmp_path / "release.pth"
    content = changed(r3d_content, "contrast", feature_proj__0__weight=torch.zeros(16, 32))
    refused(save(content, path), r"projection.linear: weight has shape \(16, 32\), expected \(16, 64\)")
    refused(save(changed(r3d_content, "contrast", feature_proj__0__bias=None), path), r"1 missing \(bias\)")
    refused(save({**r3d_content, "contrast": 3}, path), "contrast: is a int, expected a dict")


def test_the_same_key_twice(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    content = {**r3d_content, "model": {**r3d_content["model"], "bn1.weight": torch.ones(8)}}
    refused(save(content, tmp_path / "release.pth"), "same key with and without `module.`")


def test_the_other_encoders_weights(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    model = release_content(release_net("r2plus1d"))["model"]
    mixed = {**model, **{key: t for key, t in r3d_content["model"].items() if "conv5" in key}}
    refused(
        save({**r3d_content, "model": mixed}, tmp_path / "release.pth"),
        r"3 unknown \(conv5.block1.*\); it belongs to another model",
    )


def test_out(tmp_path: Path, r3d_content: dict[str, Any]) -> None:
    path, out = save(r3d_content, tmp_path / "release.pth"), tmp_path / "out.safetensors"
    out.write_text("precious")
    with pytest.raises(WeightsError, match="exists already"):
        import_published(path, out)
    assert out.read_text() == "precious"
    for bad, pattern in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "out", "no folder"),
        (path, "published file itself"),
    ):
        with pytest.raises(WeightsError, match=pattern):
            import_published(path, bad, overwrite=True)
    import_published(path, out, overwrite=True)
    assert load_encoder(out).description.name == "r3d"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.safetensors", "release.pth"]
