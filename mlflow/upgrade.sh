#!/bin/sh
# docker compose run --rm upgrade: bring the tables to the version of the MLflow in this image, after a backup.
set -eu
if [ -z "$(find "$BACKUPS_FOLDER" -mindepth 1 -maxdepth 1 -type d -name '*Z' -mmin -1440)" ]; then
    echo "error: there is no backup of the last 24 hours; first docker compose run --rm backup" >&2
    exit 1
fi
python -m mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
python -m mlflow.server.auth db upgrade --url "$(sed -n 's/^database_uri *= *//p' "$MLFLOW_AUTH_CONFIG_PATH")"
echo "the tables are those of MLflow $(python -c 'from importlib.metadata import version; print(version("mlflow"))')"
