#!/bin/sh
# sh make-env.sh HOST: write docker/.env, with secrets nobody has chosen; HOST is the name that people call the server by.
set -eu
cd "$(dirname "$0")"
if [ $# -ne 1 ] || [ -z "$1" ] || [ -n "$(printf %s "$1" | tr -d 'A-Za-z0-9._-')" ]; then
    echo "usage: sh make-env.sh HOST, the name that people call the server by, such as mlflow.lab.example" >&2
    exit 2
fi
if [ -e .env ]; then
    echo "error: docker/.env is there already, and its secrets are in use; edit it" >&2
    exit 2
fi
umask 077
while IFS= read -r line; do
    case $line in
    LAB_HOST=) echo "LAB_HOST=$1" ;;
    *_PASSWORD= | *_KEY=) echo "$line$(od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
    *) printf '%s\n' "$line" ;;
    esac
done <.env.example >.env.part
mv .env.part .env
echo "wrote docker/.env; choose profiles in it, then: docker compose up --detach --build"
