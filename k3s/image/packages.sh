#!/bin/sh
# The locked packages for the target, as wheels; nothing of them is run. Usage: packages.sh amd64|arm64
set -eu
machine=$(case "$1" in amd64) echo x86_64 ;; arm64) echo aarch64 ;; esac)
/build/bin/pip install -q --require-hashes -r k3s/build.lock
platforms=$(for glibc in 5 12 17 24 26 27 28 31 34 35 39; do printf -- '--platform manylinux_2_%s_%s ' "$glibc" "$machine"; done)
for image in base worker; do
    grep -v '^llama-cpp-python==' "k3s/$image.lock" >/dev/null
    awk '/^[a-z]/ { skip = /^llama-cpp-python==/ } !skip' "k3s/$image.lock" >"/build/$image.lock"
    # shellcheck disable=SC2086
    /build/bin/pip install -q --require-hashes --no-deps --only-binary :all: --no-compile \
        --implementation cp --python-version "$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
        $platforms --platform "manylinux2014_$machine" --platform "linux_$machine" \
        --target "/out/$image" -r "/build/$image.lock"
done
# What base has, worker need not bring again.
(cd /out/worker && for entry in *; do [ -e "/out/base/$entry" ] && rm -rf "$entry"; done; true)
mkdir -p /out/base/bin
ln -s "$(cd /out/base && find . -type f -name 'nats-server*' -perm -u+x | sed 's,^\.,..,' | head -1)" /out/base/bin/nats-server
