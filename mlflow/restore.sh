#!/bin/sh
# docker compose run --rm restore TIME: put the databases and artifacts of docker/backups/TIME in place of what is there.
set -eu
fail() {
    echo "error: $*" >&2
    exit 1
}
[ $# -eq 1 ] || fail "give one of: $(cd "$BACKUPS_FOLDER" && echo *Z)"
source=$BACKUPS_FOLDER/$1
[ -f "$source/SHA256SUMS" ] || fail "there is no backup $1; there are: $(cd "$BACKUPS_FOLDER" && echo *Z)"
(cd "$source" && sha256sum --check --quiet SHA256SUMS) || fail "backup $1 is damaged"
export PGDATABASE=postgres
used=$(psql --no-psqlrc --tuples-only --no-align --command="
    SELECT string_agg(DISTINCT datname, ', ') FROM pg_stat_activity
     WHERE datname IN ('mlflow', 'mlflow_auth', 'optuna') AND backend_type = 'client backend'")
[ -z "$used" ] || fail "someone is at work on $used; first docker compose stop mlflow, and stop searches"
# Unpacked before anything is taken away: a disk that is too small shows here.
rm -rf "$ARTIFACTS_FOLDER/.restored"
mkdir "$ARTIFACTS_FOLDER/.restored"
tar --directory="$ARTIFACTS_FOLDER/.restored" --extract --preserve-permissions --file="$source/artifacts.tar"
for database in mlflow mlflow_auth optuna; do
    pg_restore --clean --if-exists --create --exit-on-error --dbname=postgres "$source/$database.dump"
done
find "$ARTIFACTS_FOLDER" -mindepth 1 -maxdepth 1 ! -name .restored -exec rm -rf {} +
find "$ARTIFACTS_FOLDER/.restored" -mindepth 1 -maxdepth 1 -exec mv {} "$ARTIFACTS_FOLDER" \;
rmdir "$ARTIFACTS_FOLDER/.restored"
echo "restored $source"
