#!/bin/bash
# Stands for the entry point of the image plone-backend, for a run without Docker: the same
# commands, the same names of variables and files, shortened to what this example needs.
set -eu
cd /app
mkdir -p /data/blobstorage /data/cache /data/client
export CLIENT_HOME=/data/client

if [ -n "${RELSTORAGE_DSN:-}" ]; then
    CONF=relstorage.conf
elif [ -n "${ZEO_ADDRESS:-}" ]; then
    CONF=zeo.conf
else
    echo "neither RELSTORAGE_DSN nor ZEO_ADDRESS is set" >&2
    exit 1
fi

# Once, also if the container starts again.
MARK="# Runtime customizations:"
if ! grep -q "$MARK" "etc/$CONF"; then
    { echo "$MARK"; cat etc/zope.conf.d/*.conf; } >> "etc/$CONF"
fi

case "$1" in
    start) exec bin/runwsgi -v etc/zope.ini "config_file=$CONF" ;;
    create-classic) exec bin/zconsole run "etc/$CONF" scripts/create_site.py ;;
    *) exec "$@" ;;
esac
