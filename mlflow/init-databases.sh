#!/bin/sh
# Roles and databases, when PostgreSQL starts on an empty volume; where they exist nothing happens, so that after a
# change here `docker compose exec db sh /docker-entrypoint-initdb.d/init-databases.sh` adds what is new.
# Optuna has a database of its own beside MLflow's, and a role that gets at nothing else: its password is on every
# machine that searches.
set -eu
export PGUSER="$POSTGRES_USER" PGDATABASE=postgres
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
    --set=mlflow="$MLFLOW_DB_PASSWORD" --set=optuna="$OPTUNA_DB_PASSWORD" <<'SQL'
SELECT format('CREATE ROLE mlflow LOGIN PASSWORD %L', :'mlflow')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mlflow') \gexec
SELECT format('CREATE ROLE optuna LOGIN PASSWORD %L', :'optuna')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'optuna') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', name, owner)
  FROM (VALUES ('mlflow', 'mlflow'), ('mlflow_auth', 'mlflow'), ('optuna', 'optuna')) AS wanted (name, owner)
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', datname)
  FROM pg_database WHERE datname IN ('mlflow', 'mlflow_auth', 'optuna') \gexec
SQL
