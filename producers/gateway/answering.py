"""One answer on its way to an HTTP client: whole, or as server-sent events, until it ends or the client is gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
import nats.errors

from broker.client import Answer
from broker.errors import PublishError, ServerError, TurnFailed
from broker.messages import Chunk, Done, TokenLogprob
from producers.gateway.dialect import ApiError, Dialect, error_of
from producers.gateway.patience import Patience

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

FIRST_SECONDS = 0.25
"""A stream begins with what comes within so long: a turn that is refused at once is answered by its HTTP status."""
PLACE_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
SEND_SECONDS = 60.0
"""A client that takes nothing for so long is gone."""


class ClientGone(Exception):
    """Nobody reads the answer any more."""


@dataclass
class Told:
    """What a stream says beside the answer."""

    usage: bool = False
    details: Callable[[Answer], dict[str, Any]] | None = None
    """For comments: who answers, and how."""
    num_workers: Callable[[], int] | None = None
    """For comments of a turn that waits: how many serve its model."""


async def until_gone(receive: Receive) -> None:
    """Returns when the client has closed its end."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def beside_client[T](work: Awaitable[T], receive: Receive) -> T:
    """Awaits the work; raises ClientGone where the client goes first, and the work is cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def collect(answer: Answer) -> tuple[Done, list[TokenLogprob]]:
    """The whole answer; raises ApiError."""
    logprobs: list[TokenLogprob] = []
    attempt = 0
    try:
        async for chunk in answer:
            if chunk.attempt > attempt:
                attempt, logprobs = chunk.attempt, []
            logprobs += chunk.logprobs
    except TurnFailed as error:
        raise error_of(error.failed) from None
    return answer.done, logprobs


class Stream:
    """Server-sent events of an answer."""

    def __init__(
        self, answer: Answer, dialect: Dialect, told: Told, headers: Headers, patience: Patience | None = None
    ) -> None:
        self._answer = answer
        self._patience = patience
        self._has_begun = False
        self._dialect = dialect
        self._told = told
        self._headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), *headers]
        self._arrived: asyncio.Queue[Chunk | ApiError | None] = asyncio.Queue(maxsize=256)
        self._attempt = 0

    async def run(self, receive: Receive, send: Send) -> None:
        """Sends all of it; raises ApiError before anything was sent, ClientGone."""
        reading = asyncio.ensure_future(self._read())
        giving_up = asyncio.ensure_future(self._give_up())
        try:
            first = await beside_client(self._next(FIRST_SECONDS), receive)
            if isinstance(first, ApiError):
                raise first
            await beside_client(self._send_all(first, send), receive)
        finally:
            for task in (reading, giving_up):
                task.cancel()
            await asyncio.gather(reading, giving_up, return_exceptions=True)

    async def _give_up(self) -> None:
        if self._patience is not None:
            await self._arrived.put(await self._patience.until_hopeless())

    async def _read(self) -> None:
        """The answer's chunks as they come; the queue's bound holds it back where the client is slow, and what NATS
        then drops is made up for from the store."""
        try:
            async for chunk in self._answer:
                await self._arrived.put(chunk)
            await self._arrived.put(None)
        except TurnFailed as error:
            await self._arrived.put(error_of(error.failed))
        except (PublishError, ServerError, nats.errors.Error) as error:
            await self._arrived.put(ApiError(503, str(error), kind="server_error", code="unavailable"))

    async def _next(self, seconds: float) -> Chunk | ApiError | bool:
        """What comes within so long: True at the answer's end, False where nothing came."""
        try:
            async with asyncio.timeout(seconds):
                found = await self._arrived.get()
        except TimeoutError:
            return False
        return True if found is None else found

    async def _send_all(self, first: Chunk | ApiError | bool, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        found = first
        said_at = time.monotonic()
        while True:
            await self._begin(found, send)
            match found:
                case False:
                    if (place := await self._place()) is not None:
                        await self._send(send, _comment(place))
                        said_at = time.monotonic()
                    elif time.monotonic() - said_at > KEEP_ALIVE_SECONDS:
                        await self._send(send, b": still here\n\n")
                        said_at = time.monotonic()
                case True:
                    break
                case ApiError():
                    await self._send(send, _event(found.body), last=True)
                    return
                case Chunk():
                    await self._send(send, self._chunk(found))
                    said_at = time.monotonic()
            found = await self._next(PLACE_SECONDS)
        await self._send(send, b"".join(self._ending()), last=True)

    async def _begin(self, found: Chunk | ApiError | bool, send: Send) -> None:
        """The first event, once it is known who answers: until then a turn waits, and comments say so."""
        if self._answer.started is not None:
            self._dialect.fingerprint = self._answer.started.model
        elif found is False:
            return
        if not self._has_begun and not isinstance(found, ApiError):
            self._has_begun = True
            if (begin := self._dialect.begin()) is not None:
                await self._send(send, _event(begin))

    def _chunk(self, chunk: Chunk) -> bytes:
        if chunk.attempt > self._attempt:
            # What was sent cannot be taken back from an API client: it is told, and what follows is said anew.
            self._attempt = chunk.attempt
            return _comment({"restarted": chunk.attempt}) + _event(self._dialect.chunk(chunk))
        return _event(self._dialect.chunk(chunk))

    def _ending(self) -> Iterable[bytes]:
        done = self._answer.done
        yield _event(self._dialect.end(done))
        if self._told.usage:
            yield _event(self._dialect.usage(done))
        if self._told.details is not None:
            yield _comment(self._told.details(self._answer))
        yield b"data: [DONE]\n\n"

    async def _place(self) -> dict[str, Any] | None:
        with contextlib.suppress(ServerError):
            if (place := await self._answer.place()) is not None:
                found = {"turns_ahead": place.turns_ahead, "seconds": place.seconds}
                return found | ({"workers": self._told.num_workers()} if self._told.num_workers is not None else {})
        return None

    async def _send(self, send: Send, body: bytes, *, last: bool = False) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": body, "more_body": not last})
        except TimeoutError:
            raise ClientGone from None


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _comment(value: dict[str, Any]) -> bytes:
    """For who listens; an event stream's other readers skip it."""
    return b": turnpike " + msgspec.json.encode(value) + b"\n\n"


@contextlib.asynccontextmanager
async def cancelled_unless_ended(answer: Answer, *, is_detached: bool = False) -> AsyncIterator[None]:
    """Whoever leaves it early leaves no turn behind that nobody reads."""
    try:
        yield
    finally:
        if answer.end is None and answer.sent_at is not None and not is_detached:
            with contextlib.suppress(PublishError, nats.errors.Error):
                await asyncio.shield(answer.cancel())
        await answer.close()
