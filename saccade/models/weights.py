"""Files of weights without loading them: where they are and what they say they hold. Needs no PyTorch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from saccade.errors import WeightsError, first_line

__all__ = [
    "ENCODER_PREFIX",
    "HEAD_PREFIX",
    "METADATA_KEY",
    "PROJECTION_PREFIX",
    "SUM_KEY",
    "UNREADABLE",
    "WEIGHTS_FILE",
    "EncoderDescription",
    "find_weights",
    "read_header",
    "unreadable",
]

WEIGHTS_FILE = "encoder.safetensors"
METADATA_KEY = "saccade"
"""Of the description among a file's metadata."""
SUM_KEY = "saccade_sha256"
"""Of the checksum over description and weights (`export.content_sum`), which files of other programs lack."""
_METADATA = {METADATA_KEY, SUM_KEY, "format"}
"""What a file's metadata may hold; safetensors' own writers add a format."""
ENCODER_PREFIX = "encoder."
HEAD_PREFIX = "head."
PROJECTION_PREFIX = "projection."
UNREADABLE = (SafetensorError, OSError, ValueError, RuntimeError, TypeError)
"""What safetensors has been seen to raise on damaged files."""
_SEARCH_DEPTH = 4

Three = tuple[float, float, float]
_Positive = Annotated[int, Field(ge=1)]


class EncoderDescription(BaseModel):
    """What a file of weights holds and how its encoder wants its clips."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    """Version of this description and of the names of the weights."""
    name: str
    """Encoder, one of `saccade.models.encoder.ENCODERS`."""
    width: Annotated[int, Field(ge=1, le=4096)]
    """Channels of its first stage."""
    feature_dim: _Positive
    """Length of a feature vector."""
    clip_frames: _Positive
    """Frames of the clips that it was trained on."""
    clip_size: _Positive
    """Side of the clips that it was trained on, px."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Range of the values that `load_encoder`'s module takes, RGB."""
    mean: Three
    """Subtracted from each channel, inside that module."""
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    """Then divided by, inside that module."""
    source: dict[str, str | int | None] | None = None
    """Where imported weights come from."""


def find_weights(path_or_uri: str | Path, *, runs_root: str | Path = "runs") -> Path:
    """The file of weights that a path or an MLflow address stands for; see `saccade.load_encoder`.

    Args:
        path_or_uri: A file, a folder that holds one, here or deeper, or `runs:/...` or `models:/...`.
        runs_root: Where MLflow's SQLite file is, if no server is configured.

    Raises:
        WeightsError: There is none, or more than one.
    """
    if str(path_or_uri).startswith(("runs:/", "models:/")):
        # MLflow is an optional, heavy import that files do not need.
        from saccade.tracking.model import fetch_model

        path: Path = fetch_model(str(path_or_uri), runs_root=runs_root)
    else:
        path = Path(path_or_uri)
    if not path.is_dir():
        return path
    for depth in range(_SEARCH_DEPTH):
        found = sorted(path.glob("*/" * depth + WEIGHTS_FILE))
        if len(found) > 1:
            names = ", ".join(str(file.relative_to(path)) for file in found)
            raise WeightsError(f"{path_or_uri}: holds several encoders ({names}); give one of these files")
        if found:
            return found[0]
    raise WeightsError(f"{path_or_uri}: no {WEIGHTS_FILE} in this folder; a run writes it when its training has ended")


def read_header(path: Path) -> tuple[EncoderDescription, dict[str, tuple[int, ...]]]:
    """What a file of weights says of itself, and the shape of each tensor in it.

    Raises:
        WeightsError: When it is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: there is no such file; give one, the folder of a run, or runs:/<MLflow run id>/model"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    if METADATA_KEY not in metadata:
        raise WeightsError(
            f"{path}: a safetensors file without saccade's description; give one written by a run or by "
            "`saccade import-weights`"
        )
    unknown = sorted(metadata.keys() - _METADATA)
    if unknown:
        raise WeightsError(f"{path}: its description is damaged or of a newer version (metadata {unknown[0][:60]!r})")
    try:
        return EncoderDescription.model_validate_json(metadata[METADATA_KEY]), shapes
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise WeightsError(
            f"{path}: its description is damaged or of a newer version ({where}: {first['msg']}); "
            "take it from its run again, or update saccade"
        ) from None


def unreadable(path: Path, error: Exception) -> WeightsError:
    """The error for a file that safetensors does not take."""
    return WeightsError(
        f"{path}: not a readable safetensors file ({first_line(error)}); a published PyTorch file is first "
        "converted with `saccade import-weights`"
    )
