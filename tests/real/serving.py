"""A real model behind a real server, and the gateway before it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import openai

from broker.connection import close, connect
from producers.gateway.app import Gateway
from producers.gateway.keys import Keys
from producers.http_server import listen, serve_http
from producers.local_system import LocalSystem, local_system
from producers.routing.policies import Routes
from tests.gateway import talk
from tests.real import real_model
from tests.support import ROOT, free_port


@contextlib.asynccontextmanager
async def served(name: str, folder: Path, *flags: str) -> AsyncIterator[LocalSystem]:
    """A broker and a worker that serves the real model of that name as `m`."""
    file = real_model(name)
    more = ["--threads", "1", "--num-ctx", "2048", "--num-slots", "2", *flags]
    async with local_system(ROOT / "turnpike", folder, model="m", model_file=file, flags=more) as found:
        await found.until_served()
        yield found


@contextlib.asynccontextmanager
async def openai_before(system: LocalSystem) -> AsyncIterator[openai.AsyncOpenAI]:
    """The openai package, talking to a gateway before that system."""
    stop, port = asyncio.Event(), free_port()
    nc = await connect(system.gateway_address, name="gateway")
    gateway = Gateway(nc, Keys(None), Routes(), node="here", version="0")
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(gateway.look())
        group.create_task(serve_http(gateway.app(), listen("127.0.0.1", port), stop, max_connections=64))
        try:
            async with talk(f"http://127.0.0.1:{port}") as found:
                yield found
        finally:
            stop.set()
            looking.cancel()
    await close(nc)
