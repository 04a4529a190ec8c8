"""What does a busy neighbour on one core cost, ours with its default settings and llama-server?"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.harness import CORES, Row, Weights, asked_for, show, system, text_of
from benchmarks.loads import Server, busy_core
from benchmarks.peers import Peer, Turnpike, llama_server
from broker.messages import Message

NUM_TOKENS = 48
SKIPPED_TOKENS = 24
"""In which ours notices the neighbour."""
ROUNDS = 2


async def rate(peer: Peer, name: str) -> float:
    """Tokens a second of one answer, its beginning left out."""
    found = await peer.ask(name, [Message("user", text_of(30))], NUM_TOKENS)
    times = found.times[SKIPPED_TOKENS:]
    return (len(times) - 1) / (times[-1] - times[0])


async def rates(server: Server) -> tuple[float, float]:
    """Alone, and beside one process that keeps the first core busy."""
    alone: list[float] = []
    beside: list[float] = []
    async with server() as peer:
        await rate(peer, "warm")
        for number in range(ROUNDS):
            alone.append(await rate(peer, f"a{number}"))
            async with busy_core():
                beside.append(await rate(peer, f"b{number}"))
            print(f"alone {alone[-1]:.2f}/s, beside a busy process {beside[-1]:.2f}/s", flush=True)
    return statistics.median(alone), statistics.median(beside)


def ours(model_file: Path) -> Server:
    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        async with system(model_file=model_file) as here:
            yield Turnpike(here)

    return serve


def theirs(model_file: Path, *flags: str | int) -> Server:
    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        async with llama_server("-c", 8192, "-np", 8, "-kvu", *flags, model_file=model_file) as server:
            yield server

    return serve


async def measure(weights: Weights) -> list[Row]:
    found = {
        name: await rates(server)
        for name, server in (
            ("ours", ours(weights.file)),
            (f"-t {CORES} --poll 0", theirs(weights.file, "-t", CORES, "--poll", 0)),
            ("its defaults", theirs(weights.file)),
        )
    }
    for name, (alone, beside) in found.items():
        print(f"{name}: alone {alone:.1f}/s, beside a busy process {beside:.1f}/s ({beside / alone:.2f})", flush=True)
    _, one = found["ours"]
    return [
        Row(
            weights.of(f"decode beside a busy neighbour on one of {CORES} cores, our defaults ÷ llama-server's {name}"),
            f"{one:.1f}/s",
            f"{found[name][1]:.1f}/s",
            one / found[name][1],
            target,
        )
        for name, target in ((f"-t {CORES} --poll 0", 1.0), ("its defaults", 0.0))
    ]


def main() -> None:
    show("a busy neighbour", [row for weights in asked_for(__doc__) for row in asyncio.run(measure(weights))])


if __name__ == "__main__":
    main()
