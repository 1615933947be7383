"""Encoders as files for others to use: one safetensors file holds the weights and says what they are.

`save_encoder` writes one at the end of a run, `saccade import-weights` makes one of a published file, `load_encoder`
gives a module that takes plain clips in [0, 1]. The description lies in the file's metadata, so the file alone is
enough; the encoder.json beside it says the same to people and other tools, and nothing here reads it. Keys of the
weights begin with `encoder.`; a file may hold other parts under other names.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from saccade import atomic
from saccade.errors import SaccadeError, WeightsError
from saccade.models.encoder import Encoder, build_encoder
from saccade.models.heads import Projection
from saccade.models.weights import (
    ENCODER_PREFIX,
    METADATA_KEY,
    PROJECTION_PREFIX,
    SUM_KEY,
    UNREADABLE,
    WEIGHTS_FILE,
    EncoderDescription,
    find_weights,
    read_header,
    unreadable,
)

__all__ = [
    "ClipEncoder",
    "ClipError",
    "describe",
    "fit_state",
    "load_encoder",
    "load_weights",
    "read_weights",
    "save_encoder",
    "write_weights",
]

DESCRIPTION_FILE = "encoder.json"


class ClipError(SaccadeError, ValueError):
    """Clips that an encoder cannot take."""


class ClipEncoder(nn.Module):
    """An encoder with its normalisation inside: what `load_encoder` returns.

    Attributes:
        description: What the file said.
        feature_dim: Length of a feature vector.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, description: EncoderDescription) -> None:
        super().__init__()
        self.encoder = encoder
        self.description = description
        self.feature_dim = encoder.feature_dim
        for name, values in (("mean", description.mean), ("std", description.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1, 1), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips.

        Args:
            clips: RGB clips `[B, 3, T, H, W]`, floating point in [0, 1]; best of the frames and size of `description`.

        Returns:
            Features `[B, feature_dim]`.

        Raises:
            ClipError: When the clips have another shape, type or range.
        """
        _check_clips(clips, self.encoder)
        features: Tensor = self.encoder((clips.to(self.mean.dtype) - self.mean) / self.std)
        return features


def _check_clips(clips: Tensor, encoder: Encoder) -> None:
    shape = tuple(clips.shape)
    wanted = "clips are [batch, 3, frames, height, width]"
    if clips.ndim != 5:
        hint = "; add a batch dimension: clips[None]" if clips.ndim == 4 else ""
        raise ClipError(f"clips have shape {shape}; {wanted}{hint}")
    if shape[1] != 3:
        orders = {2: "(0, 2, 1, 3, 4)", 4: "(0, 4, 1, 2, 3)"}
        hint = next((f"; use clips.permute{order}" for place, order in orders.items() if shape[place] == 3), "")
        raise ClipError(f"clips have shape {shape}; {wanted}{hint}")
    if not clips.is_floating_point():
        hint = "; use clips.float() / 255" if clips.dtype == torch.uint8 else ""
        raise ClipError(f"clips have dtype {clips.dtype}; the encoder takes floating point in [0, 1]{hint}")
    frames, size = encoder.min_frames, encoder.min_size
    if shape[2] < frames or min(shape[3:]) < size:
        least = f"{frames} frame{'s' * (frames > 1)} of {size} x {size} px"
        raise ClipError(f"clips have shape {shape}; the encoder takes at least {least}")
    # Costs a wait for the device, but frames of 0 to 255, or normalised ones, would only give quietly worse features.
    # The margin is for what bicubic resizing overshoots.
    if not torch.compiler.is_compiling() and clips.numel():
        low, high = (float(value) for value in torch.aminmax(clips.detach()))
        if not (low >= -0.5 and high <= 1.5):
            raise ClipError(
                f"clips have values from {low:.4g} to {high:.4g}; the encoder takes [0, 1] and normalises them itself"
            )


def describe(
    name: str,
    width: int,
    *,
    feature_dim: int,
    clip_frames: int,
    clip_size: int,
    normalised: bool = True,
    source: dict[str, str | int | None] | None = None,
) -> EncoderDescription:
    """The description of an encoder trained on clips with ImageNet's mean and deviation, or on plain ones."""
    # Imported here because it brings torchvision, which whoever only loads an encoder can do without.
    from saccade.transforms import IMAGENET_MEAN, IMAGENET_STD

    return EncoderDescription(
        name=name,
        width=width,
        feature_dim=feature_dim,
        clip_frames=clip_frames,
        clip_size=clip_size,
        mean=IMAGENET_MEAN if normalised else (0.0, 0.0, 0.0),
        std=IMAGENET_STD if normalised else (1.0, 1.0, 1.0),
        source=source,
    )


def save_encoder(
    directory: Path,
    encoder: Encoder,
    projection: Projection | None = None,
    *,
    name: str,
    width: int,
    clip_frames: int,
    clip_size: int,
) -> EncoderDescription:
    """Write encoder.safetensors and encoder.json into `directory`, each whole or not at all.

    Args:
        directory: Made when missing; files of an earlier call are replaced.
        encoder: The trained encoder, on any device.
        projection: Trained with it, without which retrieval by these weights would give other scores.
        name: Its name in the spec.
        width: Its width in the spec.
        clip_frames: Frames of the clips that it was trained on.
        clip_size: Their side, px.
    """
    description = describe(name, width, feature_dim=encoder.feature_dim, clip_frames=clip_frames, clip_size=clip_size)
    state = encoder.state_dict()
    fit_state(state, _empty_encoder(description).state_dict(), what="the encoder to save")
    tensors = {ENCODER_PREFIX + key: value for key, value in state.items()}
    if projection is not None:
        tensors |= {PROJECTION_PREFIX + key: value for key, value in projection.state_dict().items()}
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(directory / WEIGHTS_FILE, tensors, description)
    atomic.write_text(directory / DESCRIPTION_FILE, json.dumps(description.model_dump(mode="json"), indent=2) + "\n")
    return description


def write_weights(path: Path, tensors: dict[str, Tensor], description: EncoderDescription) -> None:
    """Write one safetensors file with its description, whole or not at all."""
    # safetensors wants tensors that are dense in row-major order, and each with memory of its own.
    dense = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
    described = description.model_dump_json()
    # As bytes: its own way to a file makes one that nobody else may read, whatever the umask says.
    content = _in_order(save(dense, metadata={METADATA_KEY: described, SUM_KEY: content_sum(described, dense)}))
    with atomic.replacing(path) as file:
        file.write(content)


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the same weights are the same bytes in all processes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_weights(path: Path) -> tuple[EncoderDescription, dict[str, Tensor]]:
    """Read a file of `write_weights` to the CPU, nothing executed.

    Raises:
        WeightsError: When it is missing, damaged or of another kind.
    """
    description, _ = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata()
        tensors = load_file(path)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    if SUM_KEY in said and said[SUM_KEY] != content_sum(said[METADATA_KEY], tensors):
        raise WeightsError(f"{path}: is damaged: its weights are not those that it was written with; get it again")
    return description, tensors


def content_sum(described: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a description and of the names, types, shapes and bytes of tensors on the CPU, dense in memory."""
    content = hashlib.sha256(described.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        content.update(f"\0{key}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _empty_encoder(description: EncoderDescription) -> Encoder:
    """An encoder without memory for its weights: a made-up width costs nothing, and no random number is drawn."""
    with torch.device("meta"):
        return build_encoder(description.name, width=description.width)


def fit_state(state: dict[str, Tensor], wanted: dict[str, Tensor], *, what: str) -> dict[str, Tensor]:
    """Check that `state` has the keys and shapes of `wanted`, a module's state dict, and give it those types.

    Raises:
        WeightsError: On a key too few or too many, another shape or type, or a value that is not finite.
    """
    missing, unknown = [key for key in wanted if key not in state], [key for key in state if key not in wanted]
    if missing or unknown:
        counts = [
            f"{len(keys)} {kind} ({keys[0]}{', ...' if len(keys) > 1 else ''})"
            for kind, keys in (("missing", missing), ("unknown", unknown))
            if keys
        ]
        raise WeightsError(f"{what}: of {len(wanted)} weights, {' and '.join(counts)}; it belongs to another model")
    fitted = {}
    for key, like in wanted.items():
        tensor = state[key]
        if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_complex():
            raise WeightsError(f"{what}: {key} is not a plain tensor of numbers; write the file again")
        if tensor.shape != like.shape:
            raise WeightsError(
                f"{what}: {key} has shape {tuple(tensor.shape)}, expected {tuple(like.shape)}; it belongs "
                "to another model"
            )
        if tensor.is_floating_point() != like.is_floating_point():
            raise WeightsError(
                f"{what}: {key} has dtype {tensor.dtype}, expected {like.dtype}; it belongs to another model"
            )
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{what}: {key} holds NaN or infinite values; the training that wrote it had diverged")
        fitted[key] = tensor.to(like.dtype)
    return fitted


def load_encoder(path_or_uri: str | Path, *, device: torch.device | str | None = None) -> ClipEncoder:
    """Load an encoder, in eval mode and with its normalisation inside.

    Args:
        path_or_uri: A run's folder, a folder with encoder.safetensors in it or below, such a file, one written by
            `saccade import-weights`, or an MLflow address: `runs:/<run id>/model`, `models:/<name>/<version>`.
        device: Where it goes; the CPU when None.

    Returns:
        A module from clips `[B, 3, T, H, W]`, floating point in [0, 1], to features `[B, feature_dim]`.

    Raises:
        WeightsError: When there is no encoder, or what there is is damaged.

    Example:
        >>> encoder = load_encoder("runs/20260101-120000-r3d")  # doctest: +SKIP
        >>> features = encoder(torch.rand(1, 3, 16, 112, 112))  # doctest: +SKIP
    """
    path = find_weights(path_or_uri)
    description, tensors = read_weights(path)
    try:
        encoder = _empty_encoder(description)
    except SaccadeError as error:
        raise WeightsError(f"{path}: {error}") from None
    if encoder.feature_dim != description.feature_dim:
        raise WeightsError(
            f"{path}: feature_dim is {description.feature_dim} in its description, but width {description.width} gives "
            f"{encoder.feature_dim}; the description is damaged"
        )
    state = fit_state(_part(tensors, ENCODER_PREFIX), encoder.state_dict(), what=str(path))
    encoder.load_state_dict(state, assign=True)
    return ClipEncoder(encoder, description).to(device or "cpu").eval()


def load_weights(path: Path, encoder: Encoder, projection: Projection) -> bool:
    """Put a file's weights into an encoder, and into a projection if the file has one; nothing else changes.

    Returns:
        Whether the file has a projection.

    Raises:
        WeightsError: The file is damaged, or its weights do not fit.
    """
    _, tensors = read_weights(path)
    encoder_state, projection_state = _part(tensors, ENCODER_PREFIX), _part(tensors, PROJECTION_PREFIX)
    encoder.load_state_dict(fit_state(encoder_state, encoder.state_dict(), what=str(path)))
    if projection_state:
        projection.load_state_dict(fit_state(projection_state, projection.state_dict(), what=f"{path}: projection"))
    return bool(projection_state)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
