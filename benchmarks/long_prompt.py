"""Does a long prompt stall the streams that are running? Ours and llama-server's, on the same work.

Four conversations decode, a prompt of 1,500 tokens arrives; the worst gap between two of their tokens is what counts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from pathlib import Path

from benchmarks.harness import CORES, Row, asked_for, show, system, text_of, timed, tool
from broker.process import spawn, terminate
from tests.support import free_port

NUM_STREAMS = 4
NUM_DECODE = 160
NUM_PROMPT = 1500
BUDGET = 0.25
"""Seconds of a step, or twice a decode step where that is longer."""


async def ours(model_file: Path) -> tuple[float, float, float]:
    """The worst gap of the streams, the long prompt's time to first token, a decode step of the streams; seconds."""
    async with system("--threads", CORES, "--num-ctx", 8192, "--coalesce-seconds", 0, model_file=model_file) as running:
        streaming = [asyncio.Event() for _ in range(NUM_STREAMS)]
        streams = [
            asyncio.create_task(timed(running.client, text_of(60, index), NUM_DECODE, event))
            for index, event in enumerate(streaming)
        ]
        await asyncio.gather(*(event.wait() for event in streaming))
        started = time.perf_counter()
        long = await timed(running.client, text_of(NUM_PROMPT, 9), 4)
        found = await asyncio.gather(*streams)
        # Only the gaps after the arrival: before it, the streams' own prompts come one after another.
        gaps = [
            later - earlier
            for one in found
            for earlier, later in zip(one.times, one.times[1:], strict=False)
            if later > started
        ]
        ended = long.times[-1]
        # Guessed tokens come with the one before them, in one step.
        arrivals = [sorted({at for at in one.times if at > ended}) for one in found]
        steps = [later - earlier for times in arrivals for earlier, later in itertools.pairwise(times)]
        return max(gaps), long.times[0] - started, statistics.median(steps)


async def theirs(model_file: Path) -> tuple[float, float]:
    """The same of llama-server, by its own streaming API on the same loopback."""
    port = free_port()
    command = [tool("llama-server"), "-m", model_file, "-t", CORES, "-c", 8192, "-np", 8, "-kvu", "-fa", "on"]
    quiet = asyncio.subprocess.DEVNULL
    server = await spawn([*map(str, command), "--port", str(port), "--log-disable"], stdout=quiet, stderr=quiet)

    async def complete(prompt: str, num_tokens: int, streaming: asyncio.Event | None = None) -> list[float]:
        fields = {"prompt": prompt, "n_predict": num_tokens, "stream": True, "ignore_eos": True, "temperature": 0}
        body = json.dumps(fields)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        writer.write(head.encode() + body.encode())
        times: list[float] = []
        while len(times) < num_tokens and (line := await reader.readline()):
            if line.startswith(b"data:"):
                times.append(time.perf_counter())
                if streaming is not None:
                    streaming.set()
        writer.close()
        return times

    try:
        for _ in range(600):
            try:
                if await complete("hello", 1):
                    break
            except OSError:
                pass
            await asyncio.sleep(0.1)
        streaming = [asyncio.Event() for _ in range(NUM_STREAMS)]
        streams = [
            asyncio.create_task(complete(text_of(60, index), NUM_DECODE, event))
            for index, event in enumerate(streaming)
        ]
        await asyncio.gather(*(event.wait() for event in streaming))
        started = time.perf_counter()
        long = await complete(text_of(NUM_PROMPT, 9), 4)
        found = await asyncio.gather(*streams)
        gaps = [later - earlier for one in found for earlier, later in itertools.pairwise(one) if later > started]
        return max(gaps), long[0] - started
    finally:
        await terminate(server)


def main() -> None:
    rows = []
    for weights in asked_for(__doc__):
        gap, ttft, step = asyncio.run(ours(weights.file))
        peer_gap, peer_ttft = asyncio.run(theirs(weights.file))
        bound = 2 * max(BUDGET, 2 * step)
        name = weights.of(
            f"worst gap of {NUM_STREAMS} streams ÷ twice a step's bound, a decode step taking {step:.3f} s"
        )
        rows.append(Row(name, f"{gap:.2f} s", f"{bound:.2f} s", gap / bound, 1.0, at_most=True))
        name = weights.of(f"worst gap of {NUM_STREAMS} streams ÷ llama-server's")
        rows.append(Row(name, f"{gap:.2f} s", f"{peer_gap:.2f} s", gap / peer_gap, 0.03, at_most=True))
        name, ratio = weights.of("the long prompt's TTFT, ratio"), ttft / peer_ttft
        rows.append(Row(name, f"{ttft:.1f} s", f"{peer_ttft:.1f} s", ratio, 1.5, at_most=True))
    show("a 1,500-token prompt while four streams decode, against llama-server", rows)


if __name__ == "__main__":
    main()
