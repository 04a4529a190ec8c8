"""How much of llama-bench's speed does one conversation keep through the whole system?

Producer, NATS, worker and reply share the cores. Each figure stands between two runs of the peer, best against best.
"""

from __future__ import annotations

import asyncio

from benchmarks.harness import CORES, Row, llama_bench, show, system, text_of, timed

NUM_DECODE = 128
NUM_PREFILL = 512


async def decode_rate(*flags: str | int | float) -> tuple[float, float]:
    """The best of three: tokens per second by the client's clock, and the worker's prefill rate."""
    async with system(*flags) as running:
        decode, prefill = [], []
        for index in range(3):
            found = await timed(running.client, text_of(NUM_PREFILL, index), NUM_DECODE)
            done = found.answer.done
            decode.append(found.decode_rate)
            prefill.append((done.usage.prompt_tokens - done.usage.cached_tokens) / done.timings.prefill)
        return max(decode), max(prefill)


def main() -> None:
    rows = []
    for threads in sorted({CORES, max(1, CORES - 1)}, reverse=True):
        before = llama_bench(threads=threads, generate=NUM_DECODE)
        pp_before = llama_bench(threads=threads, prompt=NUM_PREFILL)
        coalesced, prefill = asyncio.run(decode_rate("--threads", threads))
        each, _ = asyncio.run(decode_rate("--threads", threads, "--coalesce-seconds", 0))
        tg = max(before, llama_bench(threads=threads, generate=NUM_DECODE))
        pp = max(pp_before, llama_bench(threads=threads, prompt=NUM_PREFILL))
        all_cores = threads == CORES
        name = f"{threads} threads"
        rows += [
            Row(
                f"decode, {name}, 50 ms chunks",
                f"{coalesced:.1f}/s",
                f"{tg:.1f}/s",
                coalesced / tg,
                0.96 if all_cores else 0.98,
            ),
            Row(
                f"decode, {name}, a chunk a token",
                f"{each:.1f}/s",
                f"{tg:.1f}/s",
                each / tg,
                0.90 if all_cores else 0.98,
            ),
        ]
        if all_cores:
            rows.append(Row(f"prefill of {NUM_PREFILL}, {name}", f"{prefill:.0f}/s", f"{pp:.0f}/s", prefill / pp, 0.95))
    show("one conversation through the whole system against llama-bench", rows)


if __name__ == "__main__":
    main()
