"""A process of workers that compute nothing, for the gateway's benchmark: they are none of its clients, and share no
interpreter with them.

python -m benchmarks.gateway_workers CREDENTIALS
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.gateway_dialects import MODEL, SLOW, VECTORS
from broker.accounts import read_credentials
from broker.connection import Address, connect
from tests.embedding_fakes import FakeEmbedder, embedding_worker_at
from tests.fakes import FakeEngine, fake_worker
from workers.worker_options import WorkerOptions

NUM_STREAMS = 200
STREAM_TOKENS = 60
SHORT = "abcd"
STEP_SECONDS = 0.02


@asynccontextmanager
async def working(address: Address, model: str, engine: FakeEngine) -> AsyncIterator[None]:
    """A worker of that engine."""
    nc = await connect(address, name=f"w-{model}")
    worker = fake_worker(
        nc, engine, WorkerOptions(name=f"w-{model}", model=model, coalesce_seconds=0, pull_seconds=0.2)
    )
    stop = asyncio.Event()
    serving = asyncio.create_task(worker.run(stop))
    await worker.is_serving.wait()
    try:
        yield
    finally:
        stop.set()
        await serving
        await nc.close()


async def main() -> None:
    """One that answers at once, one that has a slot for each of many streams, so that it is the gateway that may starve
    one, and one of vectors."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.gateway_workers CREDENTIALS")
    address = read_credentials(Path(sys.argv[1]))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    slow = FakeEngine(num_slots=NUM_STREAMS, num_ctx=100_000, answer="x" * STREAM_TOKENS, step_seconds=STEP_SECONDS)
    slow.max_batch_outputs = NUM_STREAMS
    embedder = FakeEmbedder(max_text_tokens=512, max_batch_tokens=512)
    async with (
        working(address, MODEL, FakeEngine(answer=SHORT)),
        working(address, SLOW, slow),
        embedding_worker_at(address, embedder, "w-e", VECTORS),
    ):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
