"""A NATS client that sends bytes as they are: what strangers may do and no library would."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from broker import subjects
from broker.connection import Address

ANSWER_SECONDS = 20.0


class RawClient:
    """One user's connection. `publish` tells nobody, `request` waits for the answer that comes to an inbox."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str) -> None:
        self._reader = reader
        self._writer = writer
        self._inbox = f"{subjects.inbox(user)}.raw"
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        self._num_requests = 0
        self._pongs: list[asyncio.Future[None]] = []
        self.errors: list[str] = []
        """What the server said against it."""

    async def publish(self, subject: bytes, payload: bytes, headers: bytes | None = None, reply: bytes = b"") -> None:
        """`headers` is the whole block, from its first line to the empty one."""
        named = subject + b" " + reply + b" " if reply else subject + b" "
        if headers is None:
            self._writer.write(b"PUB %s%d\r\n%s\r\n" % (named, len(payload), payload))
        else:
            sizes = (len(headers), len(headers) + len(payload))
            self._writer.write(b"HPUB %s%d %d\r\n%s%s\r\n" % (named, *sizes, headers, payload))
        await self._writer.drain()

    async def request(self, subject: bytes, payload: bytes, headers: bytes | None = None) -> bytes:
        """The answer's payload, empty where nobody is there. Raises TimeoutError, ConnectionError."""
        self._num_requests += 1
        name = str(self._num_requests)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[name] = answer
        try:
            await self.publish(subject, payload, headers, f"{self._inbox}.{name}".encode())
            return await asyncio.wait_for(answer, ANSWER_SECONDS)
        finally:
            del self._answers[name]

    async def flush(self) -> None:
        """Comes back when the server has taken all that was sent before."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._writer.write(b"PING\r\n")
        await asyncio.wait_for(pong, ANSWER_SECONDS)

    async def listen(self) -> None:
        """Takes what the server sends, until it hangs up or this is cancelled."""
        self._writer.write(f"SUB {self._inbox}.* 1\r\n".encode())
        try:
            while line := await self._reader.readline():
                await self._take(line)
        finally:
            gone = ConnectionError(f"the server hung up: {self.errors[-1:]}")
            waiting: list[asyncio.Future[bytes] | asyncio.Future[None]] = [*self._answers.values(), *self._pongs]
            for one in waiting:
                if not one.done():
                    one.set_exception(gone)

    async def _take(self, line: bytes) -> None:
        match line.split():
            case [b"PING"]:
                self._writer.write(b"PONG\r\n")
            case [b"PONG"]:
                self._pongs.pop(0).set_result(None)
            case [b"-ERR", *_]:
                self.errors.append(line.decode("utf-8", "replace").strip())
            case [b"MSG", subject, _, *_, size]:
                body = (await self._reader.readexactly(int(size) + 2))[:-2]
                self._answer(subject, body)
            case [b"HMSG", subject, _, *_, head, size]:
                body = (await self._reader.readexactly(int(size) + 2))[:-2]
                self._answer(subject, body[int(head) :])

    def _answer(self, subject: bytes, body: bytes) -> None:
        waiting = self._answers.get(subject.rpartition(b".")[2].decode())
        if waiting is not None and not waiting.done():
            waiting.set_result(body)


@asynccontextmanager
async def raw_client(address: Address) -> AsyncIterator[RawClient]:
    """Connected as the address's user."""
    parts = urlsplit(address.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=4 * 1024 * 1024)
    await reader.readline()  # INFO
    known = {"user": address.user, "pass": address.password, "verbose": False, "headers": True, "no_responders": True}
    writer.write(b"CONNECT %s\r\n" % json.dumps(known | {"lang": "raw", "version": "0"}).encode())
    client = RawClient(reader, writer, address.user)
    listening = asyncio.create_task(client.listen())
    try:
        await client.flush()
        yield client
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await listening
        writer.close()
