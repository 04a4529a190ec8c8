"""What do a few prompt tokens behind many cost, with our attention ÷ with llama.cpp's as it is?

llama-bench of both builds, the same tests in rounds of mirrored order.
"""

from __future__ import annotations

import asyncio
import statistics
from functools import partial

from benchmarks.harness import CORES, Row, Weights, asked_for, llama_bench, show
from benchmarks.loads import NUM_ROUNDS, mirrored

SIZES = (16, 32, 48)
DEPTH = 1024
TARGET = 0.45
OURS, PLAIN = "our attention", "llama.cpp's"


async def seconds(weights: Weights, num_tokens: int, *, patched: bool) -> float:
    """Of a step of so many tokens."""
    bench = partial(llama_bench, threads=CORES, depth=DEPTH, model_file=weights.file, patched=patched)
    return num_tokens / await asyncio.to_thread(bench, prompt=num_tokens)


async def measure(weights: Weights) -> list[Row]:
    rows = []
    for num_tokens in SIZES:
        print(weights.of(f"{num_tokens} tokens"), flush=True)
        builds = {OURS: True, PLAIN: False}
        found = await mirrored(
            NUM_ROUNDS,
            {name: partial(seconds, weights, num_tokens, patched=patched) for name, patched in builds.items()},
        )
        ours, plain = (statistics.median(found[name]) for name in (OURS, PLAIN))
        name = weights.of(f"prefill of {num_tokens} tokens behind {DEPTH:,}, our attention ÷ llama.cpp's")
        rows.append(Row(name, f"{1000 * ours:.0f} ms", f"{1000 * plain:.0f} ms", ours / plain, TARGET, at_most=True))
    return rows


def main() -> None:
    models = asked_for(__doc__)
    show("a few prompt tokens behind many", [row for weights in models for row in asyncio.run(measure(weights))])


if __name__ == "__main__":
    main()
