"""One answer on its way to an HTTP client: whole, or as server-sent events, until it ends or the client is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
import nats.errors

from broker.answer import Answer
from broker.errors import (
    InvalidMessage,
    PayloadTooLarge,
    PublishError,
    QueueFull,
    ServerError,
    TurnFailed,
    TurnpikeError,
    UnservedModel,
)
from broker.messages import NOT_UNDERSTOOD, Chunk, Done, TokenLogprob
from producers.gateway.openai.dialect import ApiError, Dialect, error_of
from producers.gateway.openai.errors import no_such_model, unavailable
from producers.gateway.patience import Patience
from producers.routing.asking import Elsewhere

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

FIRST_SECONDS = 0.25
"""A stream begins with what comes within so long: a turn that is refused at once is answered by its HTTP status."""
PLACE_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
SEND_SECONDS = 60.0
"""A client that takes nothing for so long is gone."""

log = logging.getLogger(__name__)


class ClientGone(Exception):
    """Nobody reads the answer any more."""


@dataclass
class Told:
    """What a stream says beside the answer."""

    usage: bool = False
    details: Callable[[Answer], dict[str, Any]] | None = None
    """For comments: who answers, and how. Whoever asks for them reads comments."""
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


async def published(answer: Answer) -> None:
    """Raises ApiError where the queue does not take the turn."""
    try:
        await answer.publish()
    except UnservedModel as error:
        raise no_such_model(error.model) from None
    except QueueFull as error:
        raise ApiError(429, str(error), kind="requests", code="queue_full", retry_after=5.0) from None
    except PayloadTooLarge as error:
        raise ApiError(413, str(error), code="payload_too_large") from None
    except InvalidMessage as error:  # nothing that msgpack could carry
        raise ApiError(400, f"the request cannot be queued: {error}") from None
    except PublishError as error:
        raise unavailable(error) from None


async def collect(answer: Answer) -> tuple[Done, list[TokenLogprob]]:
    """The whole answer; raises ApiError."""
    logprobs: list[TokenLogprob] = []
    attempt = 0
    async for chunk in chunks_of(answer):
        if chunk.attempt > attempt:
            attempt, logprobs = chunk.attempt, []
        logprobs += chunk.logprobs
    return answer.done, logprobs


async def chunks_of(answer: Answer) -> AsyncIterator[Chunk]:
    """The answer's chunks. Whatever becomes of it is told to its client: raises ApiError and nothing else."""
    try:
        async for chunk in answer:
            yield chunk
    except TurnFailed as error:
        raise error_of(error.failed) from None
    except (PublishError, ServerError, nats.errors.Error) as error:
        text = str(error) or type(error).__name__
        raise ApiError(503, text, kind="server_error", code="unavailable", retry_after=2.0) from None
    except TurnpikeError as error:
        raise ApiError(502, str(error), kind="server_error", code=NOT_UNDERSTOOD) from None
    except Exception:
        log.exception("! turn not read")
        detail = "the gateway could not read the answer: its log says why"
        raise ApiError(500, detail, kind="server_error", code="internal_error") from None


class Stream:
    """Server-sent events of an answer."""

    def __init__(
        self,
        answer: Answer,
        dialect: Dialect,
        told: Told,
        headers: Headers | Callable[[], Headers] = (),
        patience: Patience | None = None,
    ) -> None:
        """`headers` are asked for when the stream begins, where they are to be called."""
        self._answer = answer
        self._patience = patience
        self._has_begun = False
        self._dialect = dialect
        self._told = told
        self._headers = headers
        self._arrived: asyncio.Queue[Chunk | ApiError | None] = asyncio.Queue(maxsize=256)
        self._attempt = 0
        self._sent = ""
        """The text that the client has."""
        self.is_referred = False
        """The client was told to read the turn elsewhere: it must go on."""
        self._held: str | None = None
        """Of an attempt that was begun anew, as long as it says what was said before."""

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
            async for chunk in chunks_of(self._answer):
                await self._arrived.put(chunk)
            await self._arrived.put(None)
        except ApiError as error:
            await self._arrived.put(error)

    async def _next(self, seconds: float) -> Chunk | ApiError | bool:
        """What comes within so long: True at the answer's end, False where nothing came."""
        try:
            async with asyncio.timeout(seconds):
                found = await self._arrived.get()
        except TimeoutError:
            return False
        return True if found is None else found

    async def _send_all(self, first: Chunk | ApiError | bool, send: Send) -> None:
        self._follow_model()
        turn = self._answer.turn.id
        own = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        headers = self._headers() if callable(self._headers) else self._headers
        await send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
        found = first
        said_at = time.monotonic()
        while True:
            if isinstance(self._answer, Elsewhere) and self._answer.turn.id != turn:
                # Too late for the headers, and nothing of the answer was told yet.
                turn = self._answer.turn.id
                self._follow_model()
                moved = {"turn": turn, "model": self._answer.decision.model, "route": self._answer.decision.reason}
                await self._send(send, _comment(moved))
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
                    if self._held is not None:  # the new answer is shorter than what the client has
                        await self._refer(send)
                        return
                    break
                case ApiError():
                    await self._send(send, _event(found.body), last=True)
                    return
                case Chunk():
                    if body := self._chunk(found):
                        await self._send(send, body)
                        said_at = time.monotonic()
                    if self._is_contradicted:
                        await self._refer(send)
                        return
            found = await self._next(PLACE_SECONDS)
        await self._send(send, b"".join(self._ending()), last=True)

    async def _refer(self, send: Send) -> None:
        """Ends a stream whose answer was begun anew as another one."""
        self.is_referred = True
        await self._send(send, _event(_contradicted(self._answer.turn.id).body), last=True)

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
        """What is sent for a chunk; nothing as long as an answer that was begun anew repeats what the client has."""
        begin = b""
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            if self._told.details is not None and self._sent:
                # Who reads comments drops what it has.
                begin, self._sent = _comment({"restarted": chunk.attempt}), ""
            elif self._sent:
                # What an API client has cannot be taken back.
                self._held = ""
        if self._held is not None:
            self._held += chunk.text
            if not self._held.startswith(self._sent):
                return b""
            text, self._held = self._held[len(self._sent) :], None
            chunk = msgspec.structs.replace(chunk, text=text, logprobs=())
            self._sent += text
            event = _event(self._dialect.chunk(chunk))
            self._dialect.go_on_at(len(self._sent))
            return event
        self._sent += chunk.text
        return begin + _event(self._dialect.chunk(chunk))

    @property
    def _is_contradicted(self) -> bool:
        """Whether an answer that was begun anew is another one than the client has the beginning of."""
        held = self._held
        return held is not None and not self._sent.startswith(held) and not held.startswith(self._sent)

    def _follow_model(self) -> None:
        """To whom the turn goes by now."""
        if isinstance(self._answer, Elsewhere):
            self._dialect.id, self._dialect.model = self._answer.turn.id, self._answer.decision.model

    def _ending(self) -> Iterable[bytes]:
        done = self._answer.done
        yield _event(self._dialect.end(done))
        if self._told.usage:
            yield _event(self._dialect.usage(done))
        if self._told.details is not None:
            yield _comment(self._told.details(self._answer))
        yield b"data: [DONE]\n\n"

    async def _place(self) -> dict[str, Any] | None:
        # No place is no reason to end an answer.
        with contextlib.suppress(TurnpikeError, nats.errors.Error, LookupError, TypeError):
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


def _contradicted(turn: str) -> ApiError:
    message = (
        "the answer was begun anew by another worker, and is not the one whose beginning was sent: ask again, or read "
        f"it whole at /turns/{turn}"
    )
    return ApiError(502, message, kind="server_error", code="restarted")


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _comment(value: dict[str, Any]) -> bytes:
    """For who listens; an event stream's other readers skip it."""
    return b": turnpike " + msgspec.json.encode(value) + b"\n\n"


@dataclass
class Reading:
    """How somebody reads a turn."""

    is_detached: bool
    """It goes on without its reader."""


@contextlib.asynccontextmanager
async def cancelled_unless_ended(answer: Answer, *, is_detached: bool = False) -> AsyncIterator[Reading]:
    """Whoever leaves it early leaves no turn behind that nobody reads."""
    reading = Reading(is_detached)
    try:
        yield reading
    finally:
        if answer.may_run and not reading.is_detached:
            with contextlib.suppress(PublishError, nats.errors.Error):
                await asyncio.shield(answer.cancel())
        await answer.close()
