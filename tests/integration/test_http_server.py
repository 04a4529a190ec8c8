"""What the HTTP server takes of a connection, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from producers.http_server import MAX_HEAD_BYTES, MAX_PIPELINED, listen, serve_http

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
OK = b"HTTP/1.1 200 OK"


async def counting(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    said = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


@asynccontextmanager
async def served(app: Callable[[Scope, Receive, Send], Awaitable[None]] = counting) -> AsyncIterator[Streams]:
    """A connection to a server of that application."""
    listening, stop = listen("127.0.0.1", 0), asyncio.Event()
    port = listening.getsockname()[1]
    async with asyncio.TaskGroup() as group:
        group.create_task(serve_http(app, listening, stop, max_connections=8))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()
            stop.set()


async def poured(writer: asyncio.StreamWriter, piece: bytes, num_bytes: int) -> None:
    """Sends so much, a little at a time; less where the other end does not want it."""
    try:
        for _ in range(num_bytes // len(piece)):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    "beginning",
    [POST + b"X-Long: ", b"GET /", POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: "],
    ids=["a header", "a path", "a trailer"],
)
async def test_a_head_that_does_not_end_is_not_read_for_ever(beginning: bytes) -> None:
    async def until_gone(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with served(until_gone) as (reader, writer), asyncio.timeout(5):
        writer.write(beginning)
        await poured(writer, b"x" * 1000, 2000 * MAX_HEAD_BYTES)
        assert writer.transport.is_closing() or (await reader.read()).startswith(b"HTTP/1.1 400")


async def test_a_body_may_be_longer_than_a_head() -> None:
    async with served() as (reader, writer), asyncio.timeout(5):
        writer.write(POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (4 * MAX_HEAD_BYTES))
        writer.write(b"x" * 4 * MAX_HEAD_BYTES)
        assert (await reader.read()).endswith(str(4 * MAX_HEAD_BYTES).encode())


async def test_who_offers_another_protocol_is_answered_in_this_one() -> None:
    """As Java's own client does, with each request on a connection that it keeps."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    async with served() as (reader, writer), asyncio.timeout(5):
        for _ in range(2):
            writer.write(POST + upgrade + b"Content-Length: 5\r\n\r\nhello")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(OK)
            assert await reader.readexactly(1) == b"5"


async def test_requests_that_come_one_behind_the_other_are_answered_in_their_order_up_to_a_limit() -> None:
    async with served() as (reader, writer), asyncio.timeout(5):
        bodies = [b"x" * length for length in range(MAX_PIPELINED)]
        writer.write(b"".join(POST + b"Content-Length: %d\r\n\r\n" % len(one) + one for one in bodies))
        for one in bodies:
            await reader.readuntil(b"\r\n\r\n")
            length = str(len(one)).encode()
            assert await reader.readexactly(len(length)) == length
        writer.write((POST + b"Content-Length: 0\r\n\r\n") * 1000)
        assert (await reader.read()).count(OK) <= MAX_PIPELINED + 1


async def test_who_answers_hears_that_its_client_is_gone_also_where_another_request_waits_behind() -> None:
    heard = asyncio.Event()
    begun = asyncio.Event()

    async def until_gone(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        heard.set()

    async with served(until_gone) as (_, writer), asyncio.timeout(5):
        writer.write((POST + b"Content-Length: 0\r\n\r\n") * 2)
        await begun.wait()
        writer.close()
        await heard.wait()


async def test_a_head_and_the_piece_behind_it_come_as_one() -> None:
    async with served() as (reader, writer), asyncio.timeout(5):
        writer.write(POST + b"Content-Length: 5\r\n\r\nhello")
        assert (await reader.read(1000)).endswith(b"\r\n\r\n5")


async def test_who_sends_much_at_once_is_held_back_by_who_does_not_read_it() -> None:
    num_sent = 0

    async def pouring(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal num_sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            num_sent += 10_000
            if num_sent > 100_000_000:
                await send({"type": "http.response.body"})
                return

    async with served(pouring) as (reader, writer), asyncio.timeout(5):
        writer.write(POST + b"Content-Length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert num_sent < 100_000_000
