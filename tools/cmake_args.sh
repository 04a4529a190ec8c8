# Sourced by the set-up and by the benchmarks: how llama.cpp is built on this machine, in one place, so that
# what is compared was compiled alike.
cmake_args() {
    case "$(uname -m)" in
    aarch64)
        # The aarch64 default lacks dotprod, which the Pi 5 has: a third of the speed.
        if grep -qw asimddp /proc/cpuinfo; then
            printf '%s' '-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16'
        else
            printf '%s' '-DGGML_NATIVE=ON'
        fi ;;
    *) printf '%s' '-DGGML_NATIVE=ON' ;;
    esac
    # llama.cpp's own threads wait politely where OpenMP's spin: with as many threads as cores, beside Python and NATS,
    # a conversation keeps 0.98 of llama-bench's speed instead of 0.93 (docs/benchmarks.md).
    printf '%s' " -DGGML_OPENMP=OFF${TURNPIKE_CMAKE_ARGS:+ $TURNPIKE_CMAKE_ARGS}"
}

# What is changed in llama.cpp before it is compiled (docs/upstream.md): nothing with TURNPIKE_LLAMA_PATCH=off.
llama_patch() {
    if [ "${TURNPIKE_LLAMA_PATCH:-on}" = off ]; then echo off; else cksum tools/llama_cpp/*.py tools/llama_cpp/*.inc; fi
}

# Changes a llama.cpp's source. Usage: patch_llama PYTHON FOLDER
patch_llama() {
    [ "${TURNPIKE_LLAMA_PATCH:-on}" = off ] || "$1" tools/llama_cpp/patch.py "$2"
}

# Virtual machines may advertise AMX and still fault on its first tile: no model for a Pi needs it.
no_amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
case "$(uname -m) ${CFLAGS:-}" in
*"$no_amx"*) ;; # sourced before
x86_64*)
    # shellcheck disable=SC2086
    if cc $no_amx -x c -c /dev/null -o /dev/null 2>/dev/null; then
        export CFLAGS="${CFLAGS:+$CFLAGS }$no_amx" CXXFLAGS="${CXXFLAGS:+$CXXFLAGS }$no_amx"
    fi ;;
esac
