"""Versions of registered models: names under which a lab finds the encoder that is to be used."""

from contextlib import suppress
from typing import TYPE_CHECKING

from saccade.tracking.errors import RefusedError, translated

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["register_version"]


def register_version(client: "MlflowClient", name: str, model_id: str, mlflow_run_id: str, description: str) -> str:
    """Make a logged model the next version of a registered model, which is made if need be; returns the version.

    One that was made by a request whose answer got lost is found again.

    Raises:
        TrackingError: The server did not take it.
    """
    with suppress(RefusedError), translated():  # It is there, or the next request will say what is wrong.
        client.create_registered_model(name)
    with translated():
        for version in client.search_model_versions(f"name = '{name}' and run_id = '{mlflow_run_id}'"):
            if version.source == f"models:/{model_id}" or version.model_id == model_id:
                return str(version.version)
        made = client.create_model_version(
            name, f"models:/{model_id}", mlflow_run_id, description=description, model_id=model_id
        )
        return str(made.version)
