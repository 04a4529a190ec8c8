"""Attention by itself on a Raspberry Pi's CPU, without a Raspberry Pi: llama.cpp as it is and as the worker's, compiled
for Cortex-A76 and emulated; instructions, and how far each is from the formula.

Instructions are not time, but they do not depend on this machine. Wants Debian's g++-aarch64-linux-gnu and qemu-user;
compiles for some minutes, once. `python -m benchmarks.attention_on_arm [MODEL]`
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.attention import MODELS
from benchmarks.harness import CORES, ROOT, Row, show, tool

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
WORK = ROOT / ".cache" / "attention-on-arm"
HERE = ROOT / "benchmarks" / "arm"
FLAGS = "-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16 -DGGML_OPENMP=OFF"
"""As tools/cmake_args.sh has them on a Pi 5."""
PARTS_LEFT_OUT = ("TESTS", "TOOLS", "EXAMPLES", "SERVER", "COMMON", "APP")
TOKENS = (1, 2, 4, 8, 16, 32, 48, 64)
DEPTHS = (256, 1024, 4096)
PADDING = 256
"""llama.cpp hands out cells by so many."""
KINDS = ("f16", "q8_0")


def _run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def build(*, is_patched: bool) -> Path:
    """The program for that CPU."""
    folder = WORK / ("patched" if is_patched else "plain")
    program = folder / "attention"
    if program.exists():
        return program
    source = folder / "llama.cpp"
    shutil.rmtree(folder, ignore_errors=True)
    given = tool("llama-bench").parents[2] / "vendor" / "llama.cpp"
    shutil.copytree(given, source, ignore=shutil.ignore_patterns("models", "tests", "docs"))
    if is_patched:
        _run(sys.executable, ROOT / "tools" / "llama_cpp" / "patch.py", source)
    without = [f"-DLLAMA_BUILD_{part}=OFF" for part in PARTS_LEFT_OUT]
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    compilers = [f"-DCMAKE_CXX_COMPILER={COMPILER}", f"-DCMAKE_C_COMPILER={COMPILER.replace('g++', 'gcc')}"]
    build_folder = folder / "build"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF", *FLAGS.split()]
    _run("cmake", "-S", source, "-B", build_folder, *system, *compilers, *options, *without)
    _run("cmake", "--build", build_folder, "-j", str(CORES), "--target", "ggml")
    libraries = [next(build_folder.rglob(f"lib{name}.a")) for name in ("ggml-cpu", "ggml-base")]
    include = source / "ggml" / "include"
    _run(COMPILER, "-O2", "-I", include, HERE / "attention.cpp", "-o", program, *libraries, "-lpthread", "-ldl", "-lm")
    return program


@cache
def counter() -> Path:
    """The plugin that counts instructions."""
    made = WORK / "instructions.so"
    WORK.mkdir(parents=True, exist_ok=True)
    _run("cc", "-shared", "-fPIC", "-O2", HERE / "instructions.c", "-o", made)
    return made


def emulated(program: Path, *arguments: str | int, counts: bool = False) -> str:
    """What the program says on that CPU; with `counts` its instructions after that."""
    plugin: list[str | Path] = ["-plugin", counter()] if counts else []
    return _run(EMULATOR, "-cpu", "cortex-a76", "-L", "/usr/aarch64-linux-gnu", *plugin, program, *map(str, arguments))


def instructions(program: Path, *case: str | int) -> int:
    """Of one attention: those of three less those of one, halved."""
    three, one = (int(emulated(program, *case, times, counts=True)) for times in (3, 1))
    return (three - one) // 2


def main() -> None:
    """`python -m benchmarks.attention_on_arm [MODEL]`: all models, or those with this in their name."""
    if not (shutil.which(COMPILER) and shutil.which(EMULATOR)):
        sys.exit(f"wants {COMPILER} and {EMULATOR}: apt install g++-aarch64-linux-gnu qemu-user")
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    plain, patched = build(is_patched=False), build(is_patched=True)
    rows: list[Row] = []
    for model, (heads, kv_heads, size) in MODELS.items():
        for kind in KINDS if only in model else ():
            for depth in DEPTHS:
                for tokens in TOKENS:
                    cells = -(-(depth + tokens) // PADDING) * PADDING
                    case = (heads, kv_heads, size, tokens, cells, kind)
                    ours, theirs = instructions(patched, *case), instructions(plain, *case)
                    far = float(emulated(patched, *case, 1, "check"))
                    name = f"{model}, {kind}: {tokens} behind {depth} (off by {far:.1g})"
                    rows.append(Row(name, f"{ours / 1e6:.2f} M", f"{theirs / 1e6:.2f} M", ours / theirs, 1.0, True))
                    print(rows[-1], flush=True)
    show("instructions of an attention on a Cortex-A76, the worker's ÷ llama.cpp's", rows)


if __name__ == "__main__":
    main()
