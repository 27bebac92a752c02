#!/bin/sh
# PostgreSQL's client library, which RelStorage uses, reads its password from PGPASSWORD. A secret
# is a file, so this takes the password from there, and goes on as plone-backend does.
set -eu
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
exec /app/docker-entrypoint.sh "$@"
