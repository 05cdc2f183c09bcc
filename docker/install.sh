#!/usr/bin/env bash
# The steps that Dockerfile and Dockerfile.a100 share; each call is a layer of its own.
set -euo pipefail
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

apt_install() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  rm -rf /var/lib/apt/lists/*
}

case $1 in
  system) # what running needs; a user of that name, and a home that any other user can write to, for `--user`
    apt_install ca-certificates libgomp1 make python3 python3-venv tini
    python3 -m venv /opt/venv
    taken=$(id -nu 1000 2>/dev/null || true)
    [[ -z $taken ]] || userdel --remove "$taken" 2>/dev/null
    useradd --uid 1000 --home-dir "$HOME" --create-home --shell /bin/bash rloss
    echo "PS1='rloss:\w\$ '" >>"$HOME/.bashrc"
    chmod -R a+rwX "$HOME"
    ;;
  packages) # WANTED...: what requirements.txt and requirements-dev.txt ask for, in these versions
    if [[ ${TORCH_INDEX_URL:-} ]]; then
      grep -oE '^torch[^ ]+' requirements.txt | xargs pip install --quiet --index-url "$TORCH_INDEX_URL" "${@:2}"
    fi
    pip install --quiet --requirement requirements-dev.txt "${@:2}"
    ;;
  wheel) # build the filter, with a compiler that does not go into the image
    apt_install g++ python3-dev
    pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels ./bilateralfilter
    ;;
  filter) # install it, so that it is there whatever is mounted over /workspace
    pip install --quiet --no-index --no-deps /wheels/*.whl
    mkdir -p run data
    chmod -R a+rwX .
    cd / && python /workspace/docker/smoke_test.py
    ;;
esac
