"""What does a turn write to the card of the node that holds NATS?

A thousand turns of 100 tokens with the fake engine, each token a chunk of its own, as on a board with less than 20
tokens a second; the server's own count of bytes handed to the disk (/proc/PID/io, write_bytes: whole pages), once all
is synced.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Row, show
from broker.accounts import LOCAL, WORKER
from broker.client import Client
from broker.connection import connect
from broker.messages import Message, Sampling
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine, fake_worker
from workers.worker_options import WorkerOptions

NUM_TURNS = 1000
NUM_TOKENS = 100
STEP_SECONDS = 0.01


def written(pid: int) -> int:
    """Bytes that a process has had written, after the kernel wrote what it still held."""
    os.sync()
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


async def measure() -> tuple[float, float]:
    """Bytes of a turn, and turns per second meanwhile."""
    with tempfile.TemporaryDirectory(prefix="turnpike-card-", dir=".") as folder:
        async with EmbeddedServer(Path(folder)) as server, Client(server.address(LOCAL)) as client:
            await server.ensure(["m"])
            engine = FakeEngine(num_slots=16, num_ctx=65536, answer="x" * 200, step_seconds=STEP_SECONDS)
            nc = await connect(server.address(WORKER), name="card")
            worker = fake_worker(nc, engine, WorkerOptions("w", "m", coalesce_seconds=0))
            stop = asyncio.Event()
            running = asyncio.create_task(worker.run(stop))
            await worker.is_serving.wait()
            text = [Message("user", "What is the weather like on the mast today? " * 5)]
            await client.ask("m", text, sampling=Sampling(max_tokens=5, ignore_eos=True))
            before, started = written(server.pid), time.perf_counter()
            gate = asyncio.Semaphore(16)

            async def turn() -> None:
                async with gate:
                    await client.ask("m", text, sampling=Sampling(max_tokens=NUM_TOKENS, ignore_eos=True))

            async with asyncio.TaskGroup() as group:
                for _ in range(NUM_TURNS):
                    group.create_task(turn())
            seconds = time.perf_counter() - started
            found = (written(server.pid) - before) / NUM_TURNS
            stop.set()
            await running
            await nc.close()
    return found, NUM_TURNS / seconds


def main() -> None:
    num_bytes, rate = asyncio.run(measure())
    mega = num_bytes * 1000 / 1e6
    show(
        "what turns write", [Row("MB written by 1,000 turns of 100 tokens", f"{mega:.0f} MB", f"{rate:.0f}/s", mega, 0)]
    )


if __name__ == "__main__":
    main()
