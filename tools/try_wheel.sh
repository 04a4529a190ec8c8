#!/bin/sh
# The wheel of `make dist` in an empty virtual environment: command and client are there, and no llama.cpp
# and no numpy came with them.
set -eu
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install -q --disable-pip-version-check dist/turnpike_mq-*.whl
cd "$scratch"
venv/bin/turnpike --help >/dev/null
venv/bin/python -c 'from turnpike import Address, Client, Message, Sampling'
venv/bin/python -m pip list --disable-pip-version-check --format=freeze >packages
if grep -Ei '^(llama|numpy)' packages; then
    echo "turnpike: the wheel brings what only a worker needs" >&2
    exit 1
fi
echo "turnpike: the wheel runs, with $(wc -l <packages) packages"
