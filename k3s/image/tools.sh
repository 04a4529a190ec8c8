#!/bin/sh
# What builds: a compiler for the target, and the locked build tools. Usage: tools.sh amd64|arm64
set -eu
case "$1:$(uname -m)" in
    amd64:x86_64 | arm64:aarch64) packages="g++" compiler=c++ ;;
    arm64:x86_64) packages="g++ g++-aarch64-linux-gnu" compiler=aarch64-linux-gnu-g++ ;;
    amd64:aarch64) packages="g++ g++-x86-64-linux-gnu" compiler=x86_64-linux-gnu-g++ ;;
    *) echo "no such target: $1 on $(uname -m)" >&2; exit 1 ;;
esac
if ! command -v c++ >/dev/null || ! command -v "$compiler" >/dev/null; then
    apt-get -q update
    # shellcheck disable=SC2086
    apt-get install -qy --no-install-recommends $packages libc6-dev
fi
python3 -m venv /build
