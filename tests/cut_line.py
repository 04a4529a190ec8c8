"""A line between a client and a nats-server, on which a test says a word of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

BYTES = 64 * 1024


class Line:
    """One port that leads to the server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._there = parts.hostname, parts.port
        self._clients: set[asyncio.StreamWriter] = set()
        self._open_tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.url = ""

    async def open(self) -> None:
        """Whoever comes is led to the server."""
        self._server = await asyncio.start_server(self._open, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"nats://127.0.0.1:{self._port}"

    async def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open_tasks.add(task)
        task.add_done_callback(self._open_tasks.discard)
        there_reader, there_writer = await asyncio.open_connection(*self._there)
        self._clients.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, there_writer))
                group.create_task(_pass_on(there_reader, writer))
        finally:
            self._clients.discard(writer)
            writer.close()
            there_writer.close()

    async def cut(self) -> None:
        """Nobody comes through any more, until it is opened again, and who is there is hung up on."""
        assert self._server is not None
        self._server.close()
        for writer in self._clients:
            writer.close()
        await asyncio.gather(*self._open_tasks, return_exceptions=True)

    async def refuse(self, words: str) -> None:
        """What a server says before it hangs up, to all who are there. They hang up: were we first, with something of
        theirs unread, they might not hear it."""
        for writer in list(self._clients):
            with contextlib.suppress(ConnectionError):  # one of them may have hung up by itself
                writer.write(f"-ERR '{words}'\r\n".encode())
                await writer.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def line_to(url: str) -> AsyncIterator[Line]:
    line = Line(url)
    await line.open()
    try:
        yield line
    finally:
        await line.cut()
