#!/bin/sh
# serve.sh COMMAND...: the server's command with what the profiles in COMPOSE_PROFILES add to it.
set -eu
artifacts=$ARTIFACTS_FOLDER
app=
for profile in $(echo "$SACCADE_PROFILES" | tr ',' ' '); do
    case $profile in
    s3) artifacts=s3://$S3_BUCKET ;;
    auth) app=basic-auth ;;
    *)
        # A misspelt "auth" would otherwise be a server for everyone.
        echo "error: COMPOSE_PROFILES in docker/.env: there is no profile '$profile'; there are s3 and auth" >&2
        exit 2
        ;;
    esac
done
set -- "$@" --artifacts-destination "$artifacts"
[ -z "$app" ] || set -- "$@" --app-name "$app"
exec "$@"
