#!/bin/sh
# sdist and wheel into dist/, by the locked setuptools and nothing else. `make dist` runs this; PYTHON names another Python.
set -eu
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 12))' ||
    { echo "turnpike: ${PYTHON:-python3} is older than Python 3.12: PYTHON=/path/to/python3.12 make dist" >&2; exit 1; }
"${PYTHON:-python3}" -m venv "$scratch/venv"
awk '/^[a-z]/ { keep = /^setuptools==/ } keep' k3s/build.lock >"$scratch/build.lock"
"$scratch/venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r "$scratch/build.lock"
rm -rf dist
"$scratch/venv/bin/python" -c 'from setuptools import build_meta; build_meta.build_sdist("dist")' >"$scratch/log" 2>&1 ||
    { cat "$scratch/log" >&2; exit 1; }
# The wheel is made from the sdist: what is missing there is missing here, where it is noticed.
tar -xzf dist/*.tar.gz -C "$scratch"
dist=$PWD/dist
(cd "$scratch"/turnpike_mq-* && "$scratch/venv/bin/python" -c \
    'import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])' "$dist") >"$scratch/log" 2>&1 ||
    { cat "$scratch/log" >&2; exit 1; }
ls -l dist
