#!/bin/sh
# Turnpike itself, and everything compiled to byte code, as the final images cannot write.
set -eu
/build/bin/pip install -q --no-deps --no-build-isolation --target /build/turnpike .
cp -r /build/turnpike/. /out/base/
for image in base worker; do
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "/out/$image"
    rm -rf "/out/$image"/*/tests
done
du -sh /out/base /out/worker
