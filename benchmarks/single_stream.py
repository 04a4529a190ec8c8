"""How much of llama-bench's speed does one conversation keep through the whole system?

Producer, NATS, worker and reply share the cores. Each figure stands between two runs of the peer, best against best.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.harness import CORES, Row, Weights, asked_for, llama_bench, show, system, text_of, timed

NUM_DECODE = 64
NUM_PREFILL = 512


async def rates(model_file: Path, num_prompt: int, *flags: str | int | float) -> tuple[float, float, int]:
    """The best of two: tokens per second by the client's clock, the worker's prefill rate; and the prompt's tokens."""
    async with system(*flags, model_file=model_file) as running:
        decode, prefill = [], []
        for index in range(2):
            found = await timed(running.client, text_of(num_prompt, index), NUM_DECODE)
            done = found.answer.done
            decode.append(found.decode_rate)
            prefill.append((done.usage.prompt_tokens - done.usage.cached_tokens) / done.timings.prefill)
        return max(decode), max(prefill), done.usage.prompt_tokens


def decode_rows(weights: Weights, threads: int, targets: tuple[float, float]) -> list[Row]:
    """Decode with chunks of 50 ms and with a chunk a token, between two runs of the peer."""
    coalesced, _, depth = asyncio.run(rates(weights.file, 32, "--threads", threads))
    between = llama_bench(threads=threads, generate=NUM_DECODE, depth=depth, model_file=weights.file)
    each, _, _ = asyncio.run(rates(weights.file, 32, "--threads", threads, "--coalesce-seconds", 0))
    peer = max(between, llama_bench(threads=threads, generate=NUM_DECODE, depth=depth, model_file=weights.file))
    name = f"{threads} threads"
    return [
        Row(
            weights.of(f"decode, {name}, 50 ms chunks"),
            f"{coalesced:.1f}/s",
            f"{peer:.1f}/s",
            coalesced / peer,
            targets[0],
        ),
        Row(weights.of(f"decode, {name}, a chunk a token"), f"{each:.1f}/s", f"{peer:.1f}/s", each / peer, targets[1]),
    ]


def prefill_row(weights: Weights, threads: int) -> Row:
    before = llama_bench(threads=threads, prompt=NUM_PREFILL, model_file=weights.file)
    _, ours, _ = asyncio.run(rates(weights.file, NUM_PREFILL, "--threads", threads))
    peer = max(before, llama_bench(threads=threads, prompt=NUM_PREFILL, model_file=weights.file))
    return Row(weights.of(f"prefill, {threads} threads"), f"{ours:.0f}/s", f"{peer:.0f}/s", ours / peer, 0.95)


def main() -> None:
    rows = []
    for weights in asked_for(__doc__):
        rows += [*decode_rows(weights, CORES, (0.96, 0.90)), prefill_row(weights, CORES)]
        if CORES > 1:
            rows += decode_rows(weights, CORES - 1, (0.98, 0.98))
    show("one conversation through the whole system against llama-bench", rows)


if __name__ == "__main__":
    main()
