"""`turnpike top`: who serves what, by discovery."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table

from broker.client import Client
from broker.connection import Address


async def top(address: Address, *, as_json: bool = False) -> int:
    """One table of the workers that answer; exit code 1 when none does."""
    async with Client(address) as client:
        workers = await client.workers()
    if as_json:
        print(msgspec.json.encode(workers).decode())  # noqa: T201
        return 0 if workers else 1
    table = Table("model", "worker", "node", "quantisation", "context", "slots", "active", "queued", "wait s")
    for worker in workers:
        load = worker.load
        table.add_row(
            worker.model,
            worker.worker,
            worker.node,
            worker.quantization,
            str(worker.num_ctx),
            str(load.num_slots),
            str(load.num_active),
            str(load.num_pending),
            f"{load.expected_wait_seconds:.1f}",
        )
    Console().print(table if workers else "no worker answers")
    return 0 if workers else 1
