#!/bin/sh
# docker compose run --rm backup: all databases and the artifacts, to docker/backups/<time>. The server may go on.
set -eu
umask 077
target=$BACKUPS_FOLDER/$(date -u +%Y%m%dT%H%M%SZ)
mkdir "$target.part"
for database in mlflow mlflow_auth optuna; do
    pg_dump --format=custom --file="$target.part/$database.dump" "$database"
done
# After the databases: whatever they speak of has been written by then.
# Exit code 1: a file changed meanwhile, one that is being uploaded.
tar --directory="$ARTIFACTS_FOLDER" --create --file="$target.part/artifacts.tar" . || [ $? -eq 1 ]
(cd "$target.part" && sha256sum -- *.dump *.tar >SHA256SUMS)
mv "$target.part" "$target"
echo "backup is in $target"
case ",$SACCADE_PROFILES," in
*,s3,*) echo "the artifacts are in the S3 store: now docker compose run --rm bucket pull" ;;
esac
