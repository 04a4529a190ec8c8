"""What does the gateway add? Time to first token against our own client, many streams at once, memory over requests."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import psutil

from benchmarks.harness import Row, gateway, show
from broker.accounts import LOCAL, WORKER
from broker.client import Client
from broker.connection import connect
from broker.messages import Message, Sampling
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine, fake_worker
from workers.worker_options import WorkerOptions

NUM_PAIRS = 300
NUM_STREAMS = 200
NUM_REQUESTS = 10_000
STREAM_TOKENS = 60


@asynccontextmanager
async def running(engine: FakeEngine) -> AsyncIterator[tuple[Client, httpx2.AsyncClient, psutil.Process]]:
    """A broker, a worker whose engine computes nothing, and a gateway process: what is measured is the way, not the
    model."""
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        async with EmbeddedServer(Path(folder)) as server:
            await server.ensure(["m"])
            nc = await connect(server.address(WORKER), name="w")
            options = WorkerOptions(name="w", model="m", coalesce_seconds=0, pull_seconds=0.2)
            worker = fake_worker(nc, engine, options)
            stop = asyncio.Event()
            serving = asyncio.create_task(worker.run(stop))
            await worker.is_serving.wait()
            limits = httpx2.Limits(max_connections=NUM_STREAMS + 10, max_keepalive_connections=NUM_STREAMS)
            try:
                async with (
                    gateway(server) as (url, process),
                    Client(server.address(LOCAL)) as client,
                    httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as http,
                ):
                    yield client, http, psutil.Process(process.pid)
            finally:
                stop.set()
                await serving
                await nc.close()


async def first_by_client(client: Client, text: str) -> float:
    started = time.perf_counter()
    first: float | None = None
    async for chunk in client.ask("m", [Message("user", text)], sampling=Sampling(max_tokens=4)):
        first = first if first is not None or not chunk.tokens else time.perf_counter() - started
    assert first is not None
    return first


async def stream(http: httpx2.AsyncClient, text: str, max_tokens: int) -> tuple[float, int]:
    """The time to the first token, and how many characters came."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": max_tokens}
    started = time.perf_counter()
    first: float | None = None
    num = 0
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            if choices and (piece := choices[0]["delta"].get("content")):
                first = first if first is not None else time.perf_counter() - started
                num += len(piece)
    assert first is not None
    return first, num


async def ttft() -> list[Row]:
    """Pairs, one by one, so that what else the machine does falls on both."""
    async with running(FakeEngine(answer="abcd")) as (client, http, _):
        ours: list[float] = []
        through: list[float] = []
        for number in range(NUM_PAIRS + 20):
            ours.append(await first_by_client(client, f"a{number}"))
            through.append((await stream(http, f"b{number}", 4))[0])
    ours, through = sorted(ours[20:]), sorted(through[20:])
    rows = []
    for name, share, target in (("p50", 0.5, 3.0), ("p99", 0.99, 10.0)):
        place = int(share * (NUM_PAIRS - 1))
        added = (through[place] - ours[place]) * 1000
        question = f"time to first token through the gateway − by our own client, {name}, ms"
        rows.append(Row(question, f"{through[place] * 1000:.2f}", f"{ours[place] * 1000:.2f}", added, target, True))
    return rows


async def many() -> Row:
    """All at once on one gateway process; how unevenly they end."""
    engine = FakeEngine(num_slots=NUM_STREAMS, num_ctx=100_000, answer="x" * STREAM_TOKENS, step_seconds=0.02)
    engine.max_batch_outputs = NUM_STREAMS  # so that it is the gateway that may starve one
    async with running(engine) as (_, http, _):
        started = time.perf_counter()

        async def one(number: int) -> tuple[float, int]:
            _, num = await stream(http, f"s{number}", STREAM_TOKENS)
            return time.perf_counter() - started, num

        found = await asyncio.gather(*(one(number) for number in range(NUM_STREAMS)))
    assert all(num == STREAM_TOKENS for _, num in found)
    ends = sorted(seconds for seconds, _ in found)
    name = f"{NUM_STREAMS} streams at once: the last one's end ÷ the median's"
    middle = statistics.median(ends)
    return Row(name, f"{ends[-1]:.1f} s", f"{middle:.1f} s", ends[-1] / middle, 2.0, True)


async def memory() -> Row:
    """Of the gateway's process, over requests, a few at once."""
    async with running(FakeEngine(answer="abcd")) as (_, http, process):
        numbers = iter(range(NUM_REQUESTS))

        async def work() -> None:
            for number in numbers:
                await stream(http, f"{number} " + "words " * (number % 50), 4)
                if number == NUM_REQUESTS // 5:
                    seen.append(process.memory_info().rss)

        seen: list[int] = []
        await asyncio.gather(*(work() for _ in range(16)))
        seen.append(process.memory_info().rss)
    early, late = (one / 2**20 for one in seen)
    name = f"the gateway's memory after {NUM_REQUESTS:,} requests ÷ after {NUM_REQUESTS // 5:,}"
    return Row(name, f"{late:.1f} MiB", f"{early:.1f} MiB", late / early, 1.05, True)


async def measure() -> list[Row]:
    return [*await ttft(), await many(), await memory()]


def main() -> None:
    show("the gateway", asyncio.run(measure()))


if __name__ == "__main__":
    main()
