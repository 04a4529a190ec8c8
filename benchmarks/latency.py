"""How long from publish to an idle worker's hands, and from a token's choice to the client?"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from benchmarks.harness import CORES, Row, show, system, text_of, timed
from broker import formulas, subjects
from broker.accounts import LOCAL, WORKER
from broker.client import Client
from broker.connection import connect
from broker.delivery import Puller
from broker.messages import Message, Turn, new_id
from broker.server import EmbeddedServer

NUM_TURNS = 500
NUM_TOKENS = 400


async def pulled(server: EmbeddedServer) -> list[float]:
    """Seconds from publish to pulled, an idle worker's open pull on the other side."""
    nc = await connect(server.address(WORKER), name="puller")
    puller = Puller(nc, subjects.turns_stream("m"), "interactive")
    await puller.start()
    delays = []
    async with Client(server.address(LOCAL)) as client:
        for _ in range(NUM_TURNS):
            waiting = asyncio.ensure_future(puller.pull(5.0))
            await nc.flush()  # the pull is at the server
            started = time.perf_counter()
            publishing = asyncio.ensure_future(client.publish(Turn(new_id(), "c", (Message("user", "hi"),)), "m"))
            delivery = await waiting
            delays.append(time.perf_counter() - started)
            await publishing
            assert delivery is not None
            await delivery.ack()
    await nc.close()
    return delays


async def token_to_client() -> list[float]:
    """Seconds from the choice of a token to its arrival: a chunk a token, one thread less than cores."""
    with NamedTemporaryFile() as trace:
        threads = max(1, CORES - 1)
        async with system(
            "--threads", threads, "--coalesce-seconds", 0, entry=["-m", "benchmarks.traced_worker", trace.name]
        ) as one:
            await timed(one.client, "warm up", 16)
            found = await timed(one.client, text_of(64), NUM_TOKENS)
        chosen = [float(line) for line in Path(trace.name).read_text().splitlines()]
    return [arrived - at for at, arrived in zip(chosen[-NUM_TOKENS:], found.times, strict=True)]


async def main_async() -> list[float]:
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        async with EmbeddedServer(Path(folder)) as server:
            await server.ensure(["m"])
            return await pulled(server)


def main() -> None:
    delays = asyncio.run(main_async())
    tokens = asyncio.run(token_to_client())
    rows = []
    for q, target in ((50, 1.0), (99, 5.0)):
        value = 1000 * (formulas.percentile(delays, q) or 0)
        rows.append(Row(f"publish → pulled, p{q}", f"{value:.2f} ms", "–", value, target, at_most=True))
    for q in (50, 99):
        value = 1000 * (formulas.percentile(tokens, q) or 0)
        rows.append(Row(f"token chosen → client, p{q}", f"{value:.2f} ms", "–", value, 3.0, at_most=True))
    show(f"latency in milliseconds, {NUM_TURNS} turns and {NUM_TOKENS} tokens", rows)


if __name__ == "__main__":
    main()
