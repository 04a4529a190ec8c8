"""How much of llama-batched-bench's speed do 8 and 16 conversations at once keep?"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from benchmarks.harness import CORES, Row, Weights, asked_for, llama_batched_bench, show, system, timed

NUM_TOKENS = 128


async def rate(model_file: Path, batch: int) -> float:
    """Tokens per second of all streams while all of them decode, the best of two."""
    async with system("--threads", CORES, "--num-slots", batch, model_file=model_file) as running:
        best = 0.0
        for attempt in range(2):
            prompts = [f"{attempt} {index} " + "node " * 30 for index in range(batch)]
            found = await asyncio.gather(*(timed(running.client, prompt, NUM_TOKENS) for prompt in prompts))
            begin = max(one.times[0] for one in found)
            finish = min(one.times[-1] for one in found)
            tokens = sum(begin < at <= finish for one in found for at in one.times)
            best = max(best, tokens / (finish - begin))
        return best


def main() -> None:
    rows = []
    for weights, batch in itertools.product(asked_for(__doc__), (8, 16)):

        def theirs(weights: Weights = weights, batch: int = batch) -> float:
            return llama_batched_bench(threads=CORES, batch=batch, generate=NUM_TOKENS, model_file=weights.file)

        before = theirs()
        ours = asyncio.run(rate(weights.file, batch))
        peer = max(before, theirs())
        name = weights.of(f"decode, {batch} at once")
        rows.append(Row(name, f"{ours:.1f}/s", f"{peer:.1f}/s", ours / peer, 0.95))
    show("many conversations against llama-batched-bench", rows)


if __name__ == "__main__":
    main()
