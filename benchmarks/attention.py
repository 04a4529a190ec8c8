"""Attention by itself: CPU seconds of llama.cpp as it is and of the worker's, over how many tokens look how far back.

CPU seconds, not wall: neighbours disturb them less. The best of all times of three rounds in turn.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import llama_cpp.llama_cpp as lib

from benchmarks.harness import ROOT, Row, show, tool
from tests.ggml_attention import F16, Q8_0, Case, Ggml, causal, of_streams

ROUNDS = 3
TIMES, SECONDS, MOST = 3, 0.02, 500
"""How often each is measured in a round, in how many CPU seconds, of how many calls at most."""
MODELS = {
    "Qwen2.5 0.5B": (14, 2, 64),
    "Llama 3.2 3B": (24, 8, 128),
    "Gemma 3 270M": (4, 1, 256),
    "Phi-3 mini": (32, 32, 96),
}
"""Heads, KV heads, and a head's size."""
KINDS = {F16: "f16", Q8_0: "q8_0"}
TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 256)
DEPTHS = (0, 256, 1024, 4096)
STREAMS = (4, 8)


def cases(only: str) -> Iterator[tuple[str, Case]]:
    """By model, kind and what is computed: a step of a prompt, or of streams that decode together; of those whose
    model and kind have `only` in them."""
    looks = {
        f"{tokens} behind {depth}": partial(causal, tokens, depth + tokens) for depth in DEPTHS for tokens in TOKENS
    }
    looks |= {f"{num} streams of 1024": partial(of_streams, num, num * 1024, num) for num in STREAMS}
    for (model, (heads, kv_heads, size)), (kind, name) in product(MODELS.items(), KINDS.items()):
        if only in f"{model}, {name}":
            for what, made in looks.items():
                yield f"{model}, {name}: {what}", Case(made(), heads=heads, kv_heads=kv_heads, size=size, kind=kind)


def of_library(folder: str, only: str = "") -> None:
    """Prints each case's best CPU seconds as JSON."""
    ggml, found = Ggml(Path(folder)), {}
    for what, case in cases(only):
        num = max(1, min(MOST, int(SECONDS / ggml.seconds(case, 1))))
        found[what] = min(ggml.seconds(case, num) for _ in range(TIMES))
    print(json.dumps(found))


def measure(only: str = "") -> list[Row]:
    """The worker's ÷ llama.cpp's as it is."""
    best: dict[str, dict[str, float]] = {"plain": {}, "ours": {}}
    folders = {"plain": tool("libggml-cpu.so").parent, "ours": Path(lib.__file__).parent / "lib"}
    for _ in range(ROUNDS):
        for name, folder in folders.items():
            command = [sys.executable, "-m", "benchmarks.attention", str(folder), only]
            printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
            for case, seconds in json.loads(printed).items():
                best[name][case] = min(seconds, best[name].get(case, seconds))
    return [
        Row(case, f"{ours * 1e3:.3f} ms", f"{plain * 1e3:.3f} ms", ours / plain, 1.0, at_most=True)
        for case, plain in best["plain"].items()
        if (ours := best["ours"][case])
    ]


def main() -> None:
    """With a folder: what its library takes; without, both side by side."""
    if len(sys.argv) > 1:
        of_library(*sys.argv[1:])
    else:
        show("attention by itself: the worker's ÷ llama.cpp's as it is", measure())


if __name__ == "__main__":
    main()
