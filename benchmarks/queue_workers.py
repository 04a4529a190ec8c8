"""A process of workers whose engine computes nothing: what is left is the cost of the queue.

python -m benchmarks.queue_workers CREDENTIALS COUNT NAME
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from broker.accounts import read_credentials
from broker.connection import connect
from tests.fakes import FakeEngine, fake_worker
from workers.worker_options import WorkerOptions


async def serve(credentials: Path, name: str, stop: asyncio.Event) -> None:
    engine = FakeEngine(answer="an answer")
    nc = await connect(read_credentials(credentials), name=name)
    options = WorkerOptions(name=name, model="m", model_name="fake", quantization="none")
    await fake_worker(nc, engine, options).run(stop)
    await nc.close()


async def main() -> None:
    if len(sys.argv) != 4:
        sys.exit("usage: python -m benchmarks.queue_workers CREDENTIALS COUNT NAME")
    credentials, count, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as group:
        for index in range(count):
            group.create_task(serve(credentials, f"{name}-{index}", stop))


if __name__ == "__main__":
    asyncio.run(main())
