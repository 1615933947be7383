"""The exported encoder as an MLflow model, for whoever has MLflow and not this package.

`python -m saccade.tracking.model RUN_DIR` reads RUN_DIR/encoder and writes RUN_DIR/model: the traced program (pt2, for
any batch size, no pickle), its signature, and the two files of the encoder, from which `saccade.load_encoder` makes the
module itself. A process of its own, since it needs torch, which the supervisor does not.

It is tracked as a logged model of MLflow 3 and not as a folder of artifacts: `runs:/<run id>/model` loads either way,
but only a logged model is shown on the run's page and among the experiment's models (seen in 3.17.2).
"""

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.errors import WeightsError
from saccade.provenance import redact
from saccade.run_dir import RunDir
from saccade.tracking.address import resolve_uri, sqlite_file
from saccade.tracking.errors import line
from saccade.tracking.store import CLIENT_SETTINGS
from saccade.tracking.uploads import MODEL_FOLDER

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelPackager", "fetch_model", "package_model", "write_model"]

_EXTRA_FILES = "extra_files"
_LIMIT_SEC = 600.0
_LOOK_SEC = 0.5
_TOLERANCE = 1e-4
"""Largest difference between the traced program and the encoder, relative to the largest feature."""


def package_model(run: RunDir, interrupted: threading.Event) -> str:
    """Make RUN_DIR/model from RUN_DIR/encoder, if there is one.

    Args:
        interrupted: Gives up when set.

    Returns:
        What went wrong, in one line; empty when nothing did.
    """
    if not (run.path / "encoder" / "encoder.json").is_file():
        return ""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "saccade.tracking.model", str(run.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # One thread: the trainer is still at work, and threads that wait for each other suffer when they share cores.
        env={**environment, **CLIENT_SETTINGS, "OMP_NUM_THREADS": "1"},
    )
    output: list[bytes] = []
    assert process.stdout is not None
    with process.stdout as stream:
        reader = threading.Thread(target=lambda: output.append(stream.read()), daemon=True)
        reader.start()
        deadline = time.monotonic() + _LIMIT_SEC
        while reader.is_alive() and time.monotonic() < deadline and not interrupted.is_set():
            reader.join(0.1)
        if reader.is_alive():
            process.kill()
            reader.join()
    if process.wait() == 0:
        return ""
    if interrupted.is_set():
        return "it was interrupted"
    lines = b"".join(output).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {process.returncode}"


class ModelPackager:
    """Makes RUN_DIR/model beside a trainer that goes on to evaluate, as soon as it has written its encoder."""

    def __init__(self, run: RunDir) -> None:
        """Begin to watch for the encoder of an attempt that is about to start."""
        self._run = run
        self._before = self._written()
        self._trainer_ended, self._given_up = threading.Event(), threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="ModelPackager", daemon=True)
        self._thread.start()

    def _written(self) -> int:
        try:
            return (self._run.path / "encoder" / "encoder.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _work(self) -> None:
        while self._written() == self._before and not self._trainer_ended.wait(_LOOK_SEC):
            pass
        if not self._given_up.is_set():
            self._trouble = package_model(self._run, self._given_up)

    def finish(self, interrupted: threading.Event) -> str:
        """Wait for the model of a trainer that has finished, or until `interrupted` is set.

        Returns:
            What went wrong, in one line; empty when nothing did.
        """
        self._trainer_ended.set()
        while self._thread.is_alive() and not interrupted.is_set():
            self._thread.join(0.1)
        self.give_up()
        return self._trouble

    def give_up(self) -> None:
        """Leave a model that is not made yet; nothing happens when it is."""
        self._given_up.set()
        self._trainer_ended.set()
        self._thread.join()


def write_model(encoder: "nn.Module", files: Path, target: Path) -> None:
    """Write an encoder in MLflow's model format.

    Args:
        encoder: From clips `[B, 3, T, H, W]` in [0, 1] to features `[B, feature_dim]`, in eval mode.
        files: Folder of encoder.json and encoder.safetensors.
        target: Folder to be made; one that is there is replaced.

    Raises:
        WeightsError: The traced program gives other features than the encoder, or takes one batch size only.
    """
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    about = json.loads((files / "encoder.json").read_text(encoding="utf-8"))
    shape = (3, about["clip_frames"], about["clip_size"], about["clip_size"])
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, about["feature_dim"]))]),
    )
    clips = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    description = Model()
    with (
        # MLflow takes paths for addresses, in which #, ? and %41 have a meaning: it works where the name has none.
        tempfile.TemporaryDirectory(prefix="saccade-model-") as work,
        tempfile.TemporaryDirectory(prefix=".model-", dir=target.parent) as beside,
    ):
        folder = Path(work) / MODEL_FOLDER
        with torch.no_grad():
            mlflow.pytorch.save_model(
                encoder,
                folder,
                signature=signature,
                # A batch of one would be traced as a constant. As a tensor: an array would be stored as JSON text.
                input_example=clips[:2],
                serialization_format="pt2",
                # Given, since MLflow would find them out by loading the model in yet another process.
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
                extra_files=[(files / name).absolute().as_uri() for name in ("encoder.json", "encoder.safetensors")],
                mlflow_model=description,
            )
            _check(encoder, mlflow.pytorch.load_model(str(folder)), clips)
        # MLflow leaves this flavour out when the example is a tensor; `mlflow models serve` and the UI want it.
        mlflow.pyfunc.add_to_model(
            description,
            loader_module="mlflow.pytorch",
            data="data",
            conda_env="conda.yaml",
            python_env="python_env.yaml",
            model_config={"device": None},
        )
        description.save(str(folder / "MLmodel"))
        shutil.copytree(folder, Path(beside) / MODEL_FOLDER)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(Path(beside) / MODEL_FOLDER, target)


def _check(encoder: "nn.Module", traced: "nn.Module", clips: "object") -> None:
    import torch

    assert isinstance(clips, torch.Tensor)
    for batch in (1, len(clips)):
        wanted = encoder(clips[:batch])
        try:
            got = traced(clips[:batch])
        except (RuntimeError, AssertionError) as error:  # AssertionError: a guard of the traced program
            raise WeightsError(f"the traced encoder does not take a batch of {batch}: {line(str(error))}") from None
        if not torch.allclose(got, wanted, rtol=0, atol=_TOLERANCE * float(wanted.abs().max().clamp(min=1e-6))):
            raise WeightsError(
                f"the traced encoder differs by {float((got - wanted).abs().max()):.3g} from the encoder"
            )


def fetch_model(uri: str, *, runs_root: str | Path = "runs") -> Path:
    """Download what an MLflow address stands for; the copy goes when the program ends.

    Args:
        uri: `runs:/<MLflow run id>/model` or `models:/<name>/<version>`, looked up where the calling program or
            $MLFLOW_TRACKING_URI says, else in the SQLite file below `runs_root`.

    Returns:
        A folder that holds encoder.safetensors, here or deeper.

    Raises:
        WeightsError: There is nothing at that address, or the server does not answer.
    """
    try:
        # In the environment too: where a run's model lies, MLflow looks up there, whatever it is passed.
        with _client_settings(resolve_uri(None, runs_root)):
            import mlflow
            from mlflow.exceptions import MlflowException

            address = mlflow.get_tracking_uri()  # the calling program may have set its own
            file = sqlite_file(address)
            if file is not None and not file.exists():
                raise WeightsError(f"{uri}: there is no {file}; set MLFLOW_TRACKING_URI to the server that has the run")
            scheme, _, rest = uri.partition(":/")
            if scheme == "runs" and rest.strip("/").endswith(f"/{MODEL_FOLDER}"):
                uri = f"{uri.rstrip('/')}/{_EXTRA_FILES}"
            target = tempfile.mkdtemp(prefix="saccade-model-")
            atexit.register(shutil.rmtree, target, ignore_errors=True)
            try:
                return Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=uri, dst_path=target, tracking_uri=address, registry_uri=address
                    )
                )
            except MlflowException as error:
                raise WeightsError(f"{uri}: {line(str(error))} (looked for at {redact(address)})") from None
    except ImportError as error:
        raise WeightsError(f"{uri}: {error}; install mlflow") from None


@contextlib.contextmanager
def _client_settings(address: str) -> Iterator[None]:
    """The server's address and our patience with it, within somebody else's program."""
    settings = {**CLIENT_SETTINGS, "MLFLOW_TRACKING_URI": address}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update({name: value for name, value in settings.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def main(argv: list[str]) -> int:
    """`python -m saccade.tracking.model RUN_DIR`; returns the exit code."""
    from saccade.models.export import load_encoder

    run = Path(argv[0])
    try:
        write_model(load_encoder(run / "encoder"), run / "encoder", run / MODEL_FOLDER)
    except WeightsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
