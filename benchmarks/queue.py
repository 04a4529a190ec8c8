"""What does a turn cost the queue? Turns per second and CPU seconds, from 1 to 64 workers, and pulls from a long queue.

The workers' engine computes nothing. Up to 16 workers are processes of their own, more share 16 processes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.harness import ROOT, Row, show
from broker import formulas, jetstream, subjects, topology
from broker.accounts import LOCAL, OPERATOR, WORKER, write_credentials
from broker.client import Client
from broker.connection import connect
from broker.delivery import Puller
from broker.messages import Message, Turn, new_id
from broker.process import spawn, terminate
from broker.server import EmbeddedServer

WORKERS = (1, 4, 16, 64)
MAX_PROCESSES = 16
NUM_TURNS = 2000
LONG_QUEUE = 100_000
NUM_PULLS = 300
IN_FLIGHT = 64


@dataclass(frozen=True)
class Cost:
    """Of one turn, published, answered and read by nobody."""

    turns_per_second: float
    server_seconds: float
    worker_seconds: float

    @property
    def seconds(self) -> float:
        return self.server_seconds + self.worker_seconds


async def publish(client: Client, count: int) -> None:
    """So many turns, IN_FLIGHT of them unacknowledged at a time."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with gate:
            await client.publish(Turn(new_id(), "c", (Message("user", "hello"),)), "m")

    for start in range(0, count, 1000):
        await asyncio.gather(*(one() for _ in range(min(1000, count - start))))


@asynccontextmanager
async def server(sync_interval: str = "always") -> AsyncIterator[EmbeddedServer]:
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        async with EmbeddedServer(Path(folder), sync_interval=sync_interval) as running:
            await running.ensure(["m"], topology.Limits(max_queued_turns=2 * LONG_QUEUE))
            yield running


@asynccontextmanager
async def workers(running: EmbeddedServer, count: int) -> AsyncIterator[list[int]]:
    """Their process ids, once all of them serve."""
    credentials = running.folder / "worker.credentials"
    write_credentials(credentials, running.address(WORKER))
    num_processes = min(count, MAX_PROCESSES)
    async with AsyncExitStack() as stack:
        pids = []
        for index in range(num_processes):
            share = count // num_processes
            command = [sys.executable, "-m", "benchmarks.queue_workers", str(credentials), str(share), f"p{index}"]
            process = await spawn(command, env={"PYTHONPATH": str(ROOT)})
            stack.push_async_callback(terminate, process)
            pids.append(process.pid)
        async with Client(running.address(LOCAL)) as client, asyncio.timeout(120):
            while len(await client.workers(1.0)) < count:
                pass
        yield pids


def cpu_seconds(pids: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


async def cost(count: int, sync_interval: str = "always") -> Cost:
    async with server(sync_interval) as running, workers(running, count) as pids:
        nc = await connect(running.address(OPERATOR), name="bench")
        before = cpu_seconds([running.pid]), cpu_seconds(pids)
        started = time.perf_counter()
        async with Client(running.address(LOCAL)) as client:
            await publish(client, NUM_TURNS)
            await until_queued(running, 0)
        seconds = time.perf_counter() - started
        after = cpu_seconds([running.pid]), cpu_seconds(pids)
        await nc.close()
    return Cost(NUM_TURNS / seconds, (after[0] - before[0]) / NUM_TURNS, (after[1] - before[1]) / NUM_TURNS)


async def until_queued(running: EmbeddedServer, count: int) -> None:
    nc = await connect(running.address(OPERATOR), name="bench")
    while True:
        info = await jetstream.api(nc, f"STREAM.INFO.{subjects.turns_stream('m')}")
        assert info is not None
        if info["state"]["messages"] == count:
            break
        await asyncio.sleep(0.02)
    await nc.close()


async def pulls() -> dict[int, tuple[float, float]]:
    """The median pull and the median acknowledgement in seconds, by the length of the queue."""
    found = {}
    async with server("2m") as running, Client(running.address(LOCAL)) as client:
        nc = await connect(running.address(WORKER), name="puller")
        puller = Puller(nc, subjects.turns_stream("m"), "interactive")
        await puller.start()
        for length in (NUM_PULLS + 10, LONG_QUEUE):
            await publish(client, length)
            taken, acknowledged, held = [], [], []
            for _ in range(NUM_PULLS):
                started = time.perf_counter()
                delivery = await puller.pull(0)
                taken.append(time.perf_counter() - started)
                assert delivery is not None
                held.append(delivery)
            for delivery in held:
                started = time.perf_counter()
                await delivery.ack()
                acknowledged.append(time.perf_counter() - started)
            found[length] = (formulas.percentile(taken, 50) or 0.0, formulas.percentile(acknowledged, 50) or 0.0)
            if length < LONG_QUEUE:
                while (delivery := await puller.pull(0)) is not None:
                    await delivery.ack()
        await nc.close()
    return found


def main() -> None:
    costs = {count: asyncio.run(cost(count)) for count in WORKERS}
    lazy = asyncio.run(cost(4, "2m"))
    rows = [
        Row(
            f"{count} workers: turns/s; ms of server + workers a turn",
            f"{one.turns_per_second:.0f}/s",
            f"{1000 * one.server_seconds:.2f} + {1000 * one.worker_seconds:.2f} ms",
            one.turns_per_second,
            0.0,
        )
        for count, one in costs.items()
    ]
    ratio = costs[64].seconds / costs[4].seconds
    rows.append(
        Row(
            "cost of a turn, 64 workers ÷ 4",
            f"{1000 * costs[64].seconds:.2f} ms",
            f"{1000 * costs[4].seconds:.2f} ms",
            ratio,
            1.3,
            at_most=True,
        )
    )
    rows.append(
        Row(
            "turns/s, synced always ÷ every 2 min",
            f"{costs[4].turns_per_second:.0f}/s",
            f"{lazy.turns_per_second:.0f}/s",
            costs[4].turns_per_second / lazy.turns_per_second,
            0.0,
        )
    )
    found = asyncio.run(pulls())
    short, long = found.values()
    for name, at, target in (("a pull", 0, 1.5), ("an acknowledgement", 1, 100.0)):
        rows.append(
            Row(
                f"{name} with {LONG_QUEUE:,} queued ÷ with a few",
                f"{1000 * long[at]:.2f} ms",
                f"{1000 * short[at]:.2f} ms",
                long[at] / short[at],
                target,
                at_most=True,
            )
        )
    show("the queue itself", rows)


if __name__ == "__main__":
    main()
