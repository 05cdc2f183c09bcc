#!/bin/sh
# Run a command in the container; say beforehand when its results could not be written.
if [ ! -w . ]; then
  owner=$(stat -c %u:%g .)
  echo "warning: $PWD belongs to user $owner and this container runs as $(id -u):$(id -g), so it cannot write results" \
    "there: start it with --user $owner (docker-compose: USER_ID=${owner%:*} and GROUP_ID=${owner#*:} in a file .env)" >&2
fi
exec "$@"
