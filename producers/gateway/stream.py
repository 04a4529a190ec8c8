"""Server-sent events, or whatever a dialect makes of an answer's pieces, on their way to an HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import nats.errors

from broker.answer import Answer
from broker.errors import TurnpikeError
from broker.messages import Chunk
from broker.model_status import ModelStatus
from broker.place_in_line import PlaceInLine
from producers.gateway.dialect import AnswerWriter, Finished
from producers.gateway.errors import ApiError
from producers.gateway.patience import Patience
from producers.gateway.reading import ClientGone, Receive, Send, beside_client, chunks_of
from producers.gateway.strand import Strand, comment

Headers = Iterable[tuple[bytes, bytes]]
Settle = Callable[[AnswerWriter, Sequence[Finished]], Awaitable[None]]
"""What is done once all answers have ended."""

FIRST_SECONDS = 0.25
"""A stream begins with what comes within so long: a turn that is refused at once is answered by its HTTP status."""
PLACE_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
SEND_SECONDS = 60.0
"""A client that takes nothing for so long is gone."""


@dataclass
class Comments:
    """What a stream says beside the answers, to those who read comments."""

    details: Callable[[Answer], dict[str, Any]] | None = None
    """Who answers, and how. Whoever asks for them reads comments."""
    num_workers: Callable[[Answer], int] | None = None
    """Of a turn that waits: how many serve its model."""
    status: Callable[[Answer], ModelStatus | None] | None = None
    """And where nobody does, what boards do about it."""


@dataclass(frozen=True)
class _Arrived:
    """What came of one answer: a chunk, the error that is its end, or nothing more."""

    strand: Strand
    what: Chunk | ApiError | None


class Stream:
    """The answers of one request as they come, each piece under its answer's index."""

    def __init__(
        self,
        answers: Sequence[Answer],
        writer: AnswerWriter,
        comments: Comments,
        headers: Headers | Callable[[], Headers] = (),
        patience: Callable[[Answer], Patience] | None = None,
        settle: Settle | None = None,
    ) -> None:
        """`headers` are asked for when the stream begins, where they are to be called; `settle` is awaited before the
        end is told."""
        self._settle = settle
        self._writer = writer
        self._comments = comments
        self._headers = headers
        self._patience = patience
        reads_comments = comments.details is not None
        self._strands = [
            Strand(index, answer, writer, reads_comments=reads_comments) for index, answer in enumerate(answers)
        ]
        self._arrived: asyncio.Queue[_Arrived] = asyncio.Queue(maxsize=256)
        self._said_at = 0.0
        self.is_referred = False
        """The client was told to read the turns elsewhere: they must go on."""

    async def run(self, receive: Receive, send: Send) -> None:
        """Sends all of it; raises ApiError before anything was sent, ClientGone."""
        tasks = [asyncio.ensure_future(self._read(strand)) for strand in self._strands]
        if self._patience is not None:
            tasks += [
                asyncio.ensure_future(self._give_up(strand, self._patience(strand.answer))) for strand in self._strands
            ]
        try:
            first = await beside_client(self._next(FIRST_SECONDS), receive)
            if first is not None and isinstance(first.what, ApiError):
                raise first.what
            await beside_client(self._send_all(first, send), receive)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _give_up(self, strand: Strand, patience: Patience) -> None:
        error = await patience.until_hopeless()
        if strand.answer.end is None:
            await self._arrived.put(_Arrived(strand, error))

    async def _read(self, strand: Strand) -> None:
        """An answer's chunks as they come; the queue's bound holds it back where the client is slow, and what NATS
        then drops is made up for from the store."""
        try:
            async for chunk in chunks_of(strand.answer, self._writer):
                await self._arrived.put(_Arrived(strand, chunk))
            await self._arrived.put(_Arrived(strand, None))
        except ApiError as error:
            await self._arrived.put(_Arrived(strand, error))

    async def _next(self, seconds: float) -> _Arrived | None:
        """What comes within so long."""
        try:
            async with asyncio.timeout(seconds):
                return await self._arrived.get()
        except TimeoutError:
            return None

    async def _send_all(self, first: _Arrived | None, send: Send) -> None:
        for strand in self._strands:
            strand.follow_model()
        own = [(b"content-type", self._writer.media_type.encode()), (b"cache-control", b"no-store")]
        headers = self._headers() if callable(self._headers) else self._headers
        await send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
        found = first
        num_left = len(self._strands)
        self._said_at = time.monotonic()
        while True:
            await self._send(send, b"".join(strand.moved() for strand in self._strands))
            if found is None:
                await self._send(send, b"".join(one.begin(has_arrived=False) for one in self._strands))
                await self._wait(send)
                found = await self._next(PLACE_SECONDS)
                continue
            strand, what = found.strand, found.what
            if isinstance(what, ApiError):
                await self._send(send, self._writer.broken_off(what), last=True)
                return
            begin = strand.begin(has_arrived=True)
            if what is not None:
                await self._send(send, begin + strand.chunk(what))
                if strand.is_contradicted:
                    return await self._refer(strand, send)
            elif strand.is_behind:  # the new answer is shorter than what the client has
                return await self._refer(strand, send)
            elif num_left == 1:
                ending = begin + strand.end()
                if self._settle is not None:
                    await self._settle(self._writer, [Finished(one.answer.done) for one in self._strands])
                return await self._send(send, ending + self._ending(), last=True)
            else:
                num_left -= 1
                await self._send(send, begin + strand.end())
            found = await self._next(PLACE_SECONDS)

    async def _refer(self, strand: Strand, send: Send) -> None:
        """Ends a stream of whose answers one was begun anew as another one."""
        self.is_referred = True
        await self._send(send, self._writer.broken_off(_contradicted(strand.answer.turn.id)), last=True)

    async def _wait(self, send: Send) -> None:
        """What is said while nothing comes: where the turn is in its line, or now and then that somebody is there."""
        if (place := await self._place()) is not None:
            await self._send(send, comment(self._writer, place))
        elif time.monotonic() - self._said_at > KEEP_ALIVE_SECONDS:
            await self._send(send, self._writer.comment("still here"))

    def _ending(self) -> bytes:
        """What comes behind the last answer's end."""
        details = self._comments.details
        answers = [strand.answer for strand in self._strands]
        told = b"".join(comment(self._writer, details(answer)) for answer in answers) if details is not None else b""
        return self._writer.finish([answer.done for answer in answers], told)

    def _model(self, answer: Answer, place: PlaceInLine) -> dict[str, Any]:
        """Where a turn is in its line, how many serve its model and, where nobody does, what boards do about it: when
        it may begin, too, as no turn is seen to move then."""
        found: dict[str, Any] = {"turns_ahead": place.turns_ahead, "seconds": place.seconds}
        if self._comments.num_workers is None:
            return found
        found["workers"] = self._comments.num_workers(answer)
        status = self._comments.status(answer) if self._comments.status is not None else None
        if found["workers"] or status is None:
            return found
        if place.seconds is None:
            found["seconds"] = status.wait_seconds(place.turns_ahead)
        return found | {"state": status.state, "share": status.share, "load_seconds": status.seconds}

    async def _place(self) -> dict[str, Any] | None:
        """Of the first answer that waits."""
        for strand in self._strands:
            # No place is no reason to end an answer.
            with contextlib.suppress(TurnpikeError, nats.errors.Error, LookupError, TypeError):
                if (place := await strand.answer.place()) is not None:
                    return self._model(strand.answer, place)
        return None

    async def _send(self, send: Send, body: bytes, *, last: bool = False) -> None:
        """Nothing for no bytes, unless they are the last."""
        if not body and not last:
            return
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": body, "more_body": not last})
        except TimeoutError:
            raise ClientGone from None
        self._said_at = time.monotonic()


def _contradicted(turn: str) -> ApiError:
    message = (
        "the answer was begun anew by another worker, and is not the one whose beginning was sent: ask again, or read "
        f"it whole at /turns/{turn}"
    )
    return ApiError(502, message, kind="server_error", code="restarted")
