"""Import the weights that the method's authors published into the form that `load_encoder` reads.

A published file is a pickle inside PyTorch's format: a dict with `model`, `contrast`, `optimizer`, `epoch`, `opt`,
`f_level` and `f_num`. A pickle can carry code, so it is read by PyTorch's restricted reader, which knows tensors, plain
values and, added here, `argparse.Namespace` (`opt`), and refuses the rest without running it.

The release's names are those of https://github.com/irhum/R2Plus1D-PyTorch: `conv1` is our stem, `conv2` to `conv5` are
our stages.
"""

import argparse
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from saccade.checksum import file_sha256
from saccade.errors import WeightsError, first_line, shorten
from saccade.models.encoder import Encoder, build_encoder
from saccade.models.export import describe, fit_state, write_weights
from saccade.torch_file import check_torch_file

__all__ = ["ImportReport", "import_published"]

CLIP_FRAMES, CLIP_SIZE = 16, 112
"""Of every published model, frames and px."""

_TOP_LEVEL = ("model", "contrast", "optimizer", "epoch", "opt", "f_level", "f_num")
_EXPECTED = f"a published file is a dict with {', '.join(_TOP_LEVEL)}"
_MODEL_HEADS = {
    "projector": "propagation.projector",
    "value_transform.0": "propagation.value_transform",
    "linear": "classifier.linear",
    "linear.1": "classifier.linear",  # behind dropout
    "final_bn": "classifier.bn",
}
_CONTRAST_HEADS = {"feature_proj.0": "projection.linear"}
_BATCHES = "num_batches_tracked"
"""A counter that old versions of PyTorch did not keep, and that nothing here uses."""


@dataclass(frozen=True)
class ImportReport:
    """What was found in a published file and what became of it."""

    out: Path
    """The file that was written."""
    kind: Literal["pre-training", "classifier"]
    """Which of the release's models it was."""
    encoder: str
    """Name of the encoder."""
    width: int
    """Its width."""
    epoch: int | None
    """Epoch that the file gives, if any."""
    sha256: str
    """Digest of the published file."""
    parts: tuple[str, ...]
    """What was kept: encoder, projection, propagation, classifier."""
    left_out: tuple[str, ...]
    """What was not: `name (what it is)`."""

    def __str__(self) -> str:
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        lines = [
            f"{self.out}: {self.encoder} of width {self.width} from a {self.kind} file{epoch}",
            f"published file: sha256 {self.sha256}",
            f"kept: {', '.join(self.parts)}",
            f"left out: {', '.join(self.left_out) or 'nothing'}",
        ]
        return "\n".join(lines)


def import_published(path: Path, out: Path, *, overwrite: bool = False) -> ImportReport:
    """Convert a published file into one safetensors file that `load_encoder` reads.

    Beside `encoder.*` the file holds what the published one has of `projection.*` (losses 1 and 3), `propagation.*`
    (loss 2) and `classifier.*`; its metadata says where they come from. A classifier of the release takes clips that
    are not normalised, and the description of what was made from one says so.

    Args:
        path: The published file, such as a `.pth`.
        out: Where to write, by custom with the ending `.safetensors`.
        overwrite: Replace `out` if it exists.

    Raises:
        WeightsError: When `path` is not such a file, is damaged or holds code, or `out` cannot be written.
    """
    _check_out(path, out, overwrite)
    content = _read(path)
    model = _tensors(content["model"], f"{path}: model")
    contrast = _tensors(content["contrast"], f"{path}: contrast") if content.get("contrast") is not None else {}
    name, width = _recognise(model, path)
    with torch.device("meta"):
        encoder = build_encoder(name, width=width)
    heads = _heads(model, _MODEL_HEADS, f"{path}: model") | _heads(contrast, _CONTRAST_HEADS, f"{path}: contrast")
    heads = _fit_heads(heads, encoder, path)
    taken = _encoder_state(model, encoder, path)
    is_classifier = any(key.startswith("classifier.") for key in heads)
    kind: Literal["pre-training", "classifier"] = "classifier" if is_classifier else "pre-training"
    epoch = content["epoch"] if type(content.get("epoch")) is int else None
    source: dict[str, str | int | None] = {"file": path.name, "sha256": file_sha256(path), "kind": kind, "epoch": epoch}
    description = describe(
        name,
        width,
        feature_dim=encoder.feature_dim,
        clip_frames=CLIP_FRAMES,
        clip_size=CLIP_SIZE,
        normalised=not is_classifier,
        source=source,
    )
    tensors = {f"encoder.{key}": value for key, value in taken.items()} | heads
    try:
        write_weights(out, tensors, description)
    except OSError as error:
        raise WeightsError(f"{out}: cannot be written ({error.strerror or error}); give another name") from None
    return ImportReport(
        out=out,
        kind=kind,
        encoder=name,
        width=width,
        epoch=epoch,
        sha256=str(source["sha256"]),
        parts=tuple(dict.fromkeys(key.split(".")[0] for key in tensors)),
        left_out=_left_out(content, contrast),
    )


def _check_out(path: Path, out: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise WeightsError(f"{out}: is a folder; give the name of the file to write, such as {out / 'r3d.safetensors'}")
    if out.exists() and path.exists() and out.samefile(path):
        raise WeightsError(f"{out}: is the published file itself; give another name to write to")
    if out.exists() and not overwrite:
        raise WeightsError(f"{out}: exists already; give another name, or allow it to be overwritten")
    if not out.parent.is_dir():
        raise WeightsError(f"{out}: there is no folder {out.parent}; create it first")


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; give the published file itself")
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; give a checkpoint of the published release")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: is empty; download it again")
    try:
        check_torch_file(path)
        # The allow-list: what else a pickle names is refused before anything of it is called.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: {_refusal(error)}") from None
    except _DAMAGED as error:
        raise WeightsError(
            f"{path}: not a PyTorch file, or cut off or damaged ({first_line(error)}); download it again"
        ) from None
    if not isinstance(content, dict) or "model" not in content:
        found = _names(content) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise WeightsError(f"{path}: holds {found}; {_EXPECTED}")
    return content


# What PyTorch's readers have been seen to raise on damaged bytes, depending on where the damage is.
_DAMAGED = (
    SafetensorError,  # torch.load looks at how a file's name ends
    RuntimeError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
    MemoryError,
)


def _refusal(error: pickle.UnpicklingError) -> str:
    refused = re.search(r"GLOBAL (\S+?),? ", str(error))
    if refused:
        return (
            f"asks to call {shorten(refused[1])}, which weights never need, and was refused without running it; "
            "use a file from a source you trust"
        )
    return "not a PyTorch file of weights, or a damaged one; download it again"


def _names(keys: Mapping[Any, Any]) -> str:
    shown = ", ".join(str(key)[:60] for key in list(keys)[:4])  # no key is large: see `check_torch_file`
    return f"the keys {shown}{', ...' if len(keys) > 4 else ''}" if keys else "an empty dict"


def _tensors(value: Any, what: str) -> dict[str, Tensor]:
    """A state dict, without the `module.` that DistributedDataParallel puts before its keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WeightsError(f"{what}: is a {type(value).__name__}, expected a dict of named tensors; {_EXPECTED}")
    tensors = {}
    for key, tensor in value.items():
        if not isinstance(tensor, Tensor):
            raise WeightsError(f"{what}: {key} is a {type(tensor).__name__}, expected a tensor")
        tensors[key.removeprefix("module.")] = tensor
    if len(tensors) != len(value):
        raise WeightsError(f"{what}: holds the same key with and without `module.`; expected one of them")
    return tensors


def _recognise(model: dict[str, Tensor], path: Path) -> tuple[str, int]:
    """Encoder and width from the stem: R(2+1)D's is factorised."""
    # The last of a stem's convolutions: [w, channels in, kt, kh, kw].
    stems = {"r3d": "conv1.temporal_spatial_conv.weight", "r2plus1d": "conv1.temporal_conv.weight"}
    for name, key in stems.items():
        if key in model:
            shape = tuple(model[key].shape)
            if len(shape) != 5 or not 1 <= shape[0] <= 4096:
                raise WeightsError(f"{path}: model: {key} has shape {shape}, expected (64, ..) with five dimensions")
            return name, shape[0]
    raise WeightsError(
        f"{path}: model holds {_names(model)}, neither {' nor '.join(stems.values())}; "
        "expected the release's R3D or R(2+1)D"
    )


def published_name(key: str) -> str:
    """The release's name of one of our encoder's weights."""
    key = re.sub(r"^stem\.conv\.", "conv1.", key)
    key = re.sub(r"^stem\.bn\.", "bn1.", key)
    key = re.sub(r"^stages\.(\d)\.", lambda match: f"conv{int(match[1]) + 2}.block1.", key)
    key = re.sub(r"\bshortcut\.(conv|bn)\.", r"downsample\1.", key)
    key = re.sub(r"\b(conv\d?|downsampleconv)\.weight$", r"\1.temporal_spatial_conv.weight", key)
    return re.sub(r"\b(spatial|temporal)\.weight$", r"\1_conv.weight", key)


def _head_of(key: str, heads: dict[str, str]) -> str | None:
    prefix, _, leaf = key.rpartition(".")
    return f"{heads[prefix]}.{leaf}" if prefix in heads else None


def _encoder_state(model: dict[str, Tensor], encoder: nn.Module, path: Path) -> dict[str, Tensor]:
    """The encoder's weights in our names, everything of `model` accounted for."""
    ours = encoder.state_dict()
    state = {key: tensor for key, tensor in model.items() if _head_of(key, _MODEL_HEADS) is None}
    for key in ours:
        if key.endswith(_BATCHES):
            state.setdefault(published_name(key), torch.tensor(0))
    wanted = {published_name(key): like for key, like in ours.items()}
    fitted = fit_state(state, wanted, what=f"{path}: model")
    return {key: fitted[published_name(key)] for key in ours}


def _heads(tensors: dict[str, Tensor], heads: dict[str, str], what: str) -> dict[str, Tensor]:
    """The heads among `tensors`, in our names; each in full."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        ours = _head_of(key, heads)
        if ours in found:
            raise WeightsError(f"{what}: holds both linear.* and linear.1.*; expected one classifier")
        if ours is not None and not ours.endswith(_BATCHES):
            found[ours] = tensor
    return found


def _fit_heads(heads: dict[str, Tensor], encoder: Encoder, path: Path) -> dict[str, Tensor]:
    """Check the heads, each against a module of its kind that fits the encoder."""
    fitted: dict[str, Tensor] = {}
    for part in sorted({key.rpartition(".")[0] for key in heads}):
        given = {key.removeprefix(f"{part}."): tensor for key, tensor in heads.items() if key.startswith(f"{part}.")}
        weight = given.get("weight")
        rows = weight.shape[0] if weight is not None and weight.ndim else 1
        like: nn.Module
        with torch.device("meta"):
            if part == "classifier.bn":
                like = nn.BatchNorm1d(encoder.feature_dim)
            elif part.startswith("propagation."):
                channels = rows if rows in encoder.level_channels else encoder.feature_dim
                like = nn.Conv3d(channels, channels, 1)
            else:
                like = nn.Linear(encoder.feature_dim, max(rows, 1))
        wanted = {key: tensor for key, tensor in like.state_dict().items() if key != _BATCHES}
        state = fit_state(given, wanted, what=f"{path}: {part}")
        fitted |= {f"{part}.{key}": tensor for key, tensor in state.items()}
    return fitted


def _left_out(content: dict[str, Any], contrast: dict[str, Tensor]) -> tuple[str, ...]:
    lines = [
        f"contrast.{key} (tensor {list(tensor.shape)})"
        for key, tensor in contrast.items()
        if _head_of(key, _CONTRAST_HEADS) is None
    ]
    lines += [
        f"{key} ({value if type(value) in (int, float, bool) else type(value).__name__})"
        for key, value in content.items()
        if key not in ("model", "contrast", "epoch")
    ]
    return tuple(lines)
