#!/bin/sh
# llama.cpp for the target, never for the machine that builds: for arm64 what a Pi 5 has (dotprod and fp16), for x86-64 a
# library for each generation of CPUs, of which the fitting one is loaded at the start; with our grouped attention, unless
# TURNPIKE_LLAMA_PATCH=off (docs/upstream.md). Usage: llama.sh amd64|arm64
set -eu
common="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF"
case "$1" in
    amd64) machine=x86_64 flags="-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON" ;;
    arm64) machine=aarch64 flags="-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16" ;;
esac
if [ "$machine" != "$(uname -m)" ]; then
    flags="$flags -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=$machine"
    flags="$flags -DCMAKE_C_COMPILER=$machine-linux-gnu-gcc -DCMAKE_CXX_COMPILER=$machine-linux-gnu-g++"
    # The wheel's tag is the target's too.
    export _PYTHON_HOST_PLATFORM="linux-$machine"
fi
awk '/^[a-z]/ { keep = /^llama-cpp-python==/ } keep' k3s/worker.lock >/build/llama.lock
export PATH="/build/bin:$PATH"
logged() { "$@" >/build/llama.log 2>&1 || { tail -40 /build/llama.log >&2; exit 1; }; }
logged pip download --require-hashes --no-build-isolation --no-deps --no-binary :all: --no-cache-dir -d /build/source -r /build/llama.lock
tar -xzf /build/source/llama_cpp_python-*.tar.gz -C /build/source
unpacked=$(echo /build/source/llama_cpp_python-*/)
[ "${TURNPIKE_LLAMA_PATCH:-on}" = off ] || python tools/llama_cpp/patch.py "$unpacked/vendor/llama.cpp"
export CMAKE_ARGS="$common $flags"
logged pip wheel -v --no-build-isolation --no-deps --no-cache-dir -w /build/wheels "$unpacked"
/build/bin/python -m zipfile -e /build/wheels/llama_cpp_python-*.whl /out/worker
lib=/out/worker/llama_cpp/lib
mv /out/worker/bin/libggml-cpu-*.so "$lib"/ 2>/dev/null || true
# One name each: the libraries are copied under three, the loader wants what the others were linked with.
for library in libllama libggml libggml-base libggml-cpu; do
    [ -e "$lib/$library.so" ] || continue
    for other in "$lib/$library".so.*; do
        ln -sf "$library.so" "$other"
    done
done
rm -rf /out/worker/bin /out/worker/include /out/worker/lib /out/worker/share
# Virtual machines may advertise AMX and still fault on its first tile: no model for a Pi needs it.
rm -f "$lib"/libggml-cpu-sapphirerapids.so
ls -l "$lib"
