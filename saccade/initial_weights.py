"""The weights that a run starts from: found and checked before it begins, copied into its folder, read from there.

The launcher does the first two, since the trainer has no MLflow and a run must not depend on another's folder:

    RUN/inputs/weights.safetensors      the file as it was found
    RUN/inputs/weights.json             where it was found, its sha256, what it says of itself
"""

import json
import shutil
from pathlib import Path
from typing import Any

from saccade import atomic
from saccade.checksum import file_sha256
from saccade.errors import RunError, WeightsError, first_line
from saccade.models.weights import PROJECTION_PREFIX, EncoderDescription, find_weights, read_header
from saccade.run_dir import RunDir, open_run
from saccade.spec import Spec
from saccade.spec_reader import expand_env
from saccade.strict_json import parse_object

__all__ = ["adopt", "find_initial_weights", "initial_weights_file", "read_record", "with_weights_beside"]

_ADDRESSES = ("runs:/", "models:/")


def initial_weights_file(folder: Path) -> Path:
    """The copy in a run's folder."""
    return folder / "inputs" / "weights.safetensors"


def find_initial_weights(spec: Spec, runs_root: Path) -> Path | None:
    """The file that `encoder.weights` stands for, checked against the spec; None when it is empty.

    Raises:
        WeightsError: There is no such file, it is damaged, or it is of another encoder.
    """
    if not spec.encoder.weights:
        return None
    given = expand_env(spec.encoder.weights, "encoder.weights")
    place: str | Path = given
    if not given.startswith(_ADDRESSES) and not Path(given).exists():
        try:
            place = open_run(runs_root, given).path
        except RunError as error:
            raise WeightsError(f"encoder.weights: {given}: no such file or folder, and {error}") from None
    path = find_weights(place, runs_root=runs_root)
    description, shapes = read_header(path)
    if (description.name, description.width) != (spec.encoder.name, spec.encoder.width):
        raise WeightsError(
            f"encoder.weights: {given} holds {description.name} of width {description.width}, but the spec's encoder "
            f"is {spec.encoder.name} of width {spec.encoder.width}; set encoder.name={description.name} and "
            f"encoder.width={description.width}, or give other weights"
        )
    projected = shapes.get(f"{PROJECTION_PREFIX}linear.weight", ())[:1]
    if projected and projected[0] != spec.contrast.projection_dim:
        raise WeightsError(
            f"encoder.weights: {given} holds a projection to {projected[0]} dimensions, but contrast.projection_dim is "
            f"{spec.contrast.projection_dim}; set contrast.projection_dim={projected[0]}, or give other weights"
        )
    return path


def with_weights_beside(spec: Spec, spec_path: Path) -> Spec:
    """A spec whose file of weights lies beside it, as in an exported run, names that file from here."""
    given, beside = spec.encoder.weights, spec_path.parent / spec.encoder.weights
    if not given or Path(given).exists() or not beside.is_file():
        return spec
    return spec.model_copy(update={"encoder": spec.encoder.model_copy(update={"weights": str(beside)})})


def adopt(weights: Path, given: str, run: RunDir) -> None:
    """Copy a file of weights into a new run's folder, and write down what it is.

    Args:
        weights: Of `find_initial_weights`.
        given: `encoder.weights` as the spec has it.
        run: The run.

    Raises:
        RunError: The disk does not take it.
    """
    target = initial_weights_file(run.path)
    description, shapes = read_header(weights)
    try:
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(weights, target)
        record = {
            "given": given,
            "file": str(weights.absolute()),
            "sha256": file_sha256(target),
            "projection": any(key.startswith(PROJECTION_PREFIX) for key in shapes),
            "description": description.model_dump(mode="json"),
        }
        atomic.write_text(target.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise RunError(
            f"{target}: {error.strerror}; the weights are copied into the run's folder: make room there"
        ) from None


def read_record(folder: Path) -> dict[str, Any]:
    """weights.json of a run's folder: given, file, sha256, projection, description.

    Raises:
        WeightsError: The run has not got its weights, or others than it was begun with.
    """
    weights = initial_weights_file(folder)
    path = weights.with_suffix(".json")
    kinds = {"given": str, "file": str, "sha256": str, "projection": bool, "description": dict}
    try:
        record = parse_object(path.read_bytes(), kinds)
        if not record.keys() >= kinds.keys():
            raise ValueError(f"it has to hold {', '.join(kinds)}")
        record["description"] = EncoderDescription.model_validate_json(json.dumps(record["description"])).model_dump(
            mode="json"
        )
        changed = file_sha256(weights) != record["sha256"]
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read ({first_line(error)}); a run that starts from weights is begun with `saccade run`"
        ) from None
    if changed:
        raise WeightsError(f"{weights}: is not the file that {path.name} describes; begin the run anew")
    return record
