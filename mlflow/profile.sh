#!/bin/sh
# profile.sh NAME [COMMAND...]: run a command of a profile's service, once the server knows of the profile.
# `docker compose --profile auth up` starts that profile's services but tells the others nothing, so the server would
# run without passwords; only COMPOSE_PROFILES in docker/.env reaches both.
set -eu
name=$1
shift
case ",$SACCADE_PROFILES," in
*",$name,"*) ;;
*)
    echo "error: --profile $name does not reach the server; write COMPOSE_PROFILES=$name in docker/.env instead" >&2
    exit 2
    ;;
esac
[ $# -eq 0 ] || exec "$@"
