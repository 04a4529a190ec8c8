"""Server-sent events, or whatever a dialect makes of an answer's pieces, on their way to an HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import nats.errors

from broker.answer import Answer
from broker.errors import TurnpikeError
from broker.messages import Chunk
from broker.model_status import ModelStatus
from broker.place_in_line import PlaceInLine
from producers.gateway.dialect import AnswerWriter
from producers.gateway.errors import ApiError
from producers.gateway.patience import Patience
from producers.gateway.reading import ClientGone, Receive, Send, beside_client, chunks_of
from producers.gateway.told import NOTHING, Told
from producers.routing.asking import FallbackAnswer

Headers = Iterable[tuple[bytes, bytes]]

FIRST_SECONDS = 0.25
"""A stream begins with what comes within so long: a turn that is refused at once is answered by its HTTP status."""
PLACE_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
SEND_SECONDS = 60.0
"""A client that takes nothing for so long is gone."""


@dataclass
class Comments:
    """What a stream says beside the answer, to those who read comments."""

    details: Callable[[Answer], dict[str, Any]] | None = None
    """Who answers, and how. Whoever asks for them reads comments."""
    num_workers: Callable[[], int] | None = None
    """Of a turn that waits: how many serve its model."""
    status: Callable[[], ModelStatus | None] | None = None
    """And where nobody does, what boards do about it."""


class Stream:
    """Server-sent events of an answer."""

    def __init__(
        self,
        answer: Answer,
        writer: AnswerWriter,
        comments: Comments,
        headers: Headers | Callable[[], Headers] = (),
        patience: Patience | None = None,
    ) -> None:
        """`headers` are asked for when the stream begins, where they are to be called."""
        self._answer = answer
        self._patience = patience
        self._has_begun = False
        self._writer = writer
        self._comments = comments
        self._headers = headers
        self._arrived: asyncio.Queue[Chunk | ApiError | None] = asyncio.Queue(maxsize=256)
        self._attempt = 0
        self._sent = NOTHING
        """What the client has."""
        self.is_referred = False
        """The client was told to read the turn elsewhere: it must go on."""
        self._held: Told | None = None
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
            async for chunk in chunks_of(self._answer, self._writer):
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
        own = [(b"content-type", self._writer.media_type.encode()), (b"cache-control", b"no-store")]
        headers = self._headers() if callable(self._headers) else self._headers
        await send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
        found = first
        said_at = time.monotonic()
        while True:
            if isinstance(self._answer, FallbackAnswer) and self._answer.turn.id != turn:
                # Too late for the headers, and nothing of the answer was told yet.
                turn = self._answer.turn.id
                self._follow_model()
                moved = {"turn": turn, "model": self._answer.decision.model, "route": self._answer.decision.reason}
                await self._send(send, self._comment(moved))
            await self._begin(found, send)
            match found:
                case False:
                    if (place := await self._place()) is not None:
                        await self._send(send, self._comment(place))
                        said_at = time.monotonic()
                    elif time.monotonic() - said_at > KEEP_ALIVE_SECONDS:
                        await self._send(send, self._writer.comment("still here"))
                        said_at = time.monotonic()
                case True:
                    if self._held is not None:  # the new answer is shorter than what the client has
                        await self._refer(send)
                        return
                    break
                case ApiError():
                    await self._send(send, self._writer.broken_off(found), last=True)
                    return
                case Chunk():
                    if body := self._chunk(found):
                        await self._send(send, body)
                        said_at = time.monotonic()
                    if self._is_contradicted:
                        await self._refer(send)
                        return
            found = await self._next(PLACE_SECONDS)
        await self._send(send, self._ending(), last=True)

    async def _refer(self, send: Send) -> None:
        """Ends a stream whose answer was begun anew as another one."""
        self.is_referred = True
        await self._send(send, self._writer.broken_off(_contradicted(self._answer.turn.id)), last=True)

    async def _begin(self, found: Chunk | ApiError | bool, send: Send) -> None:
        """The first event, once it is known who answers: until then a turn waits, and comments say so."""
        if self._answer.started is not None:
            self._writer.begun_with(self._answer.started.model)
        elif found is False:
            return
        if not self._has_begun and not isinstance(found, ApiError):
            self._has_begun = True
            if begin := self._writer.begin():
                await self._send(send, begin)

    def _chunk(self, chunk: Chunk) -> bytes:
        """What is sent for a chunk; nothing as long as an answer that was begun anew repeats what the client has."""
        begin = b""
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            if self._comments.details is not None and self._sent:
                # Who reads comments drops what it has.
                begin, self._sent = self._comment({"restarted": chunk.attempt}), NOTHING
            elif self._sent:
                # What an API client has cannot be taken back.
                self._held = NOTHING
        if self._held is not None:
            self._held = self._held.and_then(chunk)
            if not self._sent.is_beginning_of(self._held):
                return b""
            event = self._writer.piece(self._sent.missing_of(self._held, chunk))
            self._sent, self._held = self._held, None
            self._writer.go_on_at(len(self._sent.text))
            return event
        self._sent = self._sent.and_then(chunk)
        return begin + self._writer.piece(chunk)

    @property
    def _is_contradicted(self) -> bool:
        """Whether an answer that was begun anew is another one than the client has the beginning of."""
        return self._held is not None and self._sent.contradicts(self._held)

    def _follow_model(self) -> None:
        """To whom the turn goes by now."""
        if isinstance(self._answer, FallbackAnswer):
            self._writer.goes_to(self._answer.turn.id, self._answer.decision.model)

    def _ending(self) -> bytes:
        details = self._comments.details
        told = self._comment(details(self._answer)) if details is not None else b""
        return self._writer.end(self._answer.done, told)

    def _comment(self, value: dict[str, Any]) -> bytes:
        return self._writer.comment(f"turnpike {msgspec.json.encode(value).decode()}")

    def _model(self, place: PlaceInLine) -> dict[str, Any]:
        """Where a turn is in its line, how many serve its model and, where nobody does, what boards do about it: when
        it may begin, too, as no turn is seen to move then."""
        found: dict[str, Any] = {"turns_ahead": place.turns_ahead, "seconds": place.seconds}
        if self._comments.num_workers is None:
            return found
        found["workers"] = self._comments.num_workers()
        status = self._comments.status() if self._comments.status is not None else None
        if found["workers"] or status is None:
            return found
        if place.seconds is None:
            found["seconds"] = status.wait_seconds(place.turns_ahead)
        return found | {"state": status.state, "share": status.share, "load_seconds": status.seconds}

    async def _place(self) -> dict[str, Any] | None:
        # No place is no reason to end an answer.
        with contextlib.suppress(TurnpikeError, nats.errors.Error, LookupError, TypeError):
            if (place := await self._answer.place()) is not None:
                return self._model(place)
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
