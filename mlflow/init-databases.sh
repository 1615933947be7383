#!/bin/sh
# Roles and databases, when PostgreSQL starts on an empty volume. It may be run again, to give roles the passwords of a
# docker/.env that has changed:
#   docker compose up --detach && docker compose exec db sh /docker-entrypoint-initdb.d/init-databases.sh
# Optuna has a database of its own beside MLflow's, and a role that gets at nothing else: its password is on every
# machine that searches.
set -eu
export PGUSER="$POSTGRES_USER" PGDATABASE=postgres
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
    --set=mlflow="$MLFLOW_DB_PASSWORD" --set=optuna="$OPTUNA_DB_PASSWORD" <<'SQL'
SELECT format('CREATE ROLE %I', name)
  FROM (VALUES ('mlflow'), ('optuna')) AS wanted (name)
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', name, password)
  FROM (VALUES ('mlflow', :'mlflow'), ('optuna', :'optuna')) AS wanted (name, password) \gexec
SELECT format('CREATE DATABASE %I OWNER %I', name, owner)
  FROM (VALUES ('mlflow', 'mlflow'), ('mlflow_auth', 'mlflow'), ('optuna', 'optuna')) AS wanted (name, owner)
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', datname)
  FROM pg_database WHERE datname IN ('mlflow', 'mlflow_auth', 'optuna') \gexec
SQL
