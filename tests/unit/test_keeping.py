"""Work beside a server, begun anew where it is lost."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client as NatsConnection

from broker.connection import Address
from broker.keeping import kept


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_signal_while_it_connects_is_its_end_and_no_interruption(is_stopped: bool) -> None:
    connected, stop = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    async def work(nc: NatsConnection) -> None:
        raise AssertionError("it never connects")

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        keeping = asyncio.create_task(kept(Address(f"nats://{host}:{port}"), "work", work, stop))
        async with asyncio.timeout(10):
            await connected.wait()
            if is_stopped:
                stop.set()
            keeping.cancel()
            [ended] = await asyncio.gather(keeping, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError) is not is_stopped
