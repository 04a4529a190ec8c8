#!/bin/sh
# Makes .venv from nothing: finds a Python, checks for a compiler, installs what requirements.lock pins (by hash),
# compiles llama.cpp with its progress visible. Run by `make`; returns at once when nothing changed.
set -eu
cd "$(dirname "$0")/.."
. tools/cmake_args.sh

say() { printf '%s\n' "turnpike: $*"; }
die() { printf '%s\n' "turnpike: $*" >&2; exit 1; }

# The path of an interpreter that will do. A pyenv shim exists for versions that are not active, so the candidate is
# run, not only found; and an activated .venv is first on the PATH and about to be deleted: then what it was made of.
usable() {
    "$1" -c 'import os, sys, venv, ensurepip
is_ours = os.path.realpath(sys.prefix) == os.path.realpath(".venv")
print(sys._base_executable if is_ours else sys.executable)
sys.exit(sys.version_info < (3, 12))' 2>/dev/null
}

find_python() {
    for candidate in "${PYTHON:-}" python3.13 python3.14 python3.12 python3 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python; do
        [ -n "$candidate" ] && found=$(usable "$candidate") && printf '%s\n' "$found" && return 0
    done
    return 1
}

args=$(cmake_args)
stamp=.venv/.turnpike-stamp
wanted=$( { cat requirements.lock pyproject.toml tools/setup.sh tools/cmake_args.sh; llama_patch; uname -m; } | cksum)
if [ -x .venv/bin/turnpike ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

[ ! -L .venv ] || die ".venv is a link to $(readlink .venv), whose packages may be others' and are not set up anew from \
here: remove the link (rm .venv) for a .venv of this checkout's own"
python=$(find_python) || die "no Python 3.12 or newer with venv and ensurepip was found on the PATH or under pyenv; \
install one (on Debian 13 and Raspberry Pi OS: sudo apt install python3-venv) or say PYTHON=/path/to/python3.12 make"
for tool in cc c++; do
    command -v "$tool" >/dev/null || die "no C/C++ compiler ($tool) was found, and llama.cpp has to be compiled; \
install one (on Debian and Raspberry Pi OS: sudo apt install build-essential)"
done

say "setting up .venv with $("$python" --version) ($python)"
"$python" -m venv --clear .venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
log=.venv/setup.log
lock() { awk -v want="$1" '/^[a-z]/ { in_llama = /^llama-cpp-python==/ } in_llama == want' requirements.lock; }
lock 0 >.venv/rest.lock
lock 1 >.venv/llama.lock

# Runs a command with its output in the log, and shows what the filter finds in it as it goes.
watched() {
    filter=$1; shift
    : >"$log"
    "$@" >"$log" 2>&1 & pid=$!
    trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
    tail -n +1 --pid="$pid" -f "$log" | awk "$filter"
    wait "$pid" || { tail -25 "$log" >&2; die "the set-up failed: the whole log is in $log"; }
}

say "installing the pinned packages"
watched '/^(Collecting|Successfully)/ { print "  " substr($0, 1, 110); fflush() }' \
    .venv/bin/python -m pip install --require-hashes --only-binary :all: -r .venv/rest.lock
# pip keeps compiled wheels without noting their flags, so ours lie in a folder named after all that decides.
key=$(printf '%s|%s|%s|%s|%s' "$args" "${CFLAGS:-}" "$(llama_patch)" "$(cat .venv/llama.lock; grep -m1 'model name' /proc/cpuinfo)" \
    "$(.venv/bin/python -VV; c++ --version)" | cksum | tr -d ' ')
wheels=${XDG_CACHE_HOME:-$HOME/.cache}/turnpike/wheels/$key
# Beside the wheel: the source's chat templates and vocabularies, for the tests. Without them, and a wheel, they are left out.
source=$wheels/source
fetch() {
    PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m pip download -q --require-hashes --no-build-isolation --no-deps \
        --no-binary :all: --no-cache-dir -d "$source" -r .venv/llama.lock
}
# Files of the source's models/ that match a pattern, as a folder beside the wheel, whole or not at all.
keep() {
    [ ! -d "$wheels/$1" ] || return 0
    mkdir -p "$wheels/$1.part" &&
        tar -xzf "$source"/llama_cpp_python-*.tar.gz -C "$wheels/$1.part" --strip-components="$2" --wildcards \
            "*/vendor/llama.cpp/models/$3" && mv "$wheels/$1.part" "$wheels/$1"
}
keep_all() { keep templates 5 'templates/*.jinja' && keep vocabs 4 'ggml-vocab-*'; }
if ! ls "$wheels"/llama_cpp_python-*.whl >/dev/null 2>&1; then
    say "fetching llama.cpp's source (77 MB)"
    fetch >"$log" 2>&1 || { tail -25 "$log" >&2; die "the set-up failed: the whole log is in $log"; }
    tar -xzf "$source"/llama_cpp_python-*.tar.gz -C "$source" # its hash was checked as it was fetched
    unpacked=$(echo "$source"/llama_cpp_python-*/)
    patch_llama .venv/bin/python "$unpacked/vendor/llama.cpp" ||
        die "a build without that is had by TURNPIKE_LLAMA_PATCH=off make setup"
    say "compiling llama.cpp with $args ${CFLAGS:-} (about four minutes on two cores, once)"
    PATH="$PWD/.venv/bin:$PATH" CMAKE_ARGS="$args -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF" \
        watched 'match($0, /\[[0-9]+\/[0-9]+\]/) { split(substr($0, RSTART + 1, RLENGTH - 2), n, "/");
            if (n[1] % 10 == 0 || n[1] == n[2]) { print "  compiled " n[1] " of " n[2]; fflush() } }' \
        .venv/bin/python -m pip wheel -v --no-build-isolation --no-deps --no-cache-dir --no-index -w "$wheels" "$unpacked"
fi
if [ ! -d "$wheels/templates" ] || [ ! -d "$wheels/vocabs" ]; then
    { ls "$source"/llama_cpp_python-*.tar.gz || fetch; } >"$log" 2>&1 && keep_all >"$log" 2>&1 ||
        say "without the chat templates and vocabularies of llama.cpp's source: their tests will be skipped"
fi
rm -rf "$source" "$wheels"/*.part
for kept in templates vocabs; do
    rm -rf ".cache/llama-$kept"
    [ ! -d "$wheels/$kept" ] || { mkdir -p .cache && cp -r "$wheels/$kept" ".cache/llama-$kept"; }
done
.venv/bin/python -m pip install -q --no-deps --no-index "$wheels"/llama_cpp_python-*.whl >"$log" 2>&1 ||
    { tail -25 "$log" >&2; die "the set-up failed: the whole log is in $log"; }
say "installing turnpike itself"
.venv/bin/python -m pip install -q --no-deps --no-build-isolation -e . >"$log" 2>&1 ||
    { tail -25 "$log" >&2; die "the set-up failed: the whole log is in $log"; }
.venv/bin/python -c 'import llama_cpp' || die "llama.cpp was compiled but does not load"
printf '%s' "$wanted" >"$stamp"
say "ready"
