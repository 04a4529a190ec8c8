#!/bin/sh
# Builds the peers that the benchmarks compare with (llama-bench, llama-batched-bench, llama-server, llama-perplexity) from the
# llama.cpp that the llama-cpp-python source distribution vendors: the same revision, the same flags as the worker's.
# About four minutes on two cores, once; a second call returns at once. Prints the folder of the binaries.
# As their users get them; with `patched` as an argument, with what the worker's llama.cpp has been given (docs/upstream.md).
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
version=$($python -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
. tools/cmake_args.sh
# A folder for each set of flags, or a change of them would compare with what was built before.
case "${1:-}" in
patched) patch=$(llama_patch) ;;
*) patch= ;;
esac
work=.cache/llama-tools/$version-$(printf '%s %s' "$(cmake_args)" "${CFLAGS:-}$patch" | cksum | cut -d' ' -f1)
if [ ! -x "$work/build/bin/llama-perplexity" ]; then
    mkdir -p "$work"
    echo "fetching llama-cpp-python $version's source" >&2
    # --require-hashes: the very archive that the lock names, not merely its version.
    sed -n "/^llama-cpp-python==/,/^[^ ]/p" requirements.lock | sed '$d' >"$work/lock"
    $python -m pip download -q --no-deps --no-binary :all: --require-hashes -d "$work" -r "$work/lock" >&2
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work" --strip-components=1
    [ -z "$patch" ] || patch_llama "$python" "$work/vendor/llama.cpp" >&2
    # shellcheck disable=SC2086
    $python -m cmake --version >/dev/null 2>&1 && cmake="$python -m cmake" || cmake=cmake
    $cmake -S "$work/vendor/llama.cpp" -B "$work/build" -DCMAKE_BUILD_TYPE=Release $(cmake_args) \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_APP=OFF \
        -DLLAMA_BUILD_NUMBER=1 -DLLAMA_BUILD_COMMIT="$version" >"$work/configure.log" 2>&1 ||
        { tail -20 "$work/configure.log" >&2; exit 1; }
    $cmake --build "$work/build" -j "$(nproc)" --target llama-bench llama-batched-bench llama-server llama-perplexity >&2
fi
echo "$work/build/bin"
