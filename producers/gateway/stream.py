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
from broker.model_status import ModelStatus
from broker.place_in_line import PlaceInLine
from producers.gateway.arrivals import Arrivals, Arrived
from producers.gateway.dialect import AnswerWriter, Finished
from producers.gateway.errors import ApiError
from producers.gateway.patience import Patience
from producers.gateway.reading import ClientGone, Receive, Send, chunks_of, until_gone
from producers.gateway.strand import Strand, comment

Headers = Iterable[tuple[bytes, bytes]]
Settle = Callable[[AnswerWriter, Sequence[Finished]], Awaitable[None]]
"""What is done once all answers have ended."""

FIRST_SECONDS = 0.25
"""A stream begins with what comes within so long: a turn that is refused at once is answered by its HTTP status."""
PLACE_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
MAX_WAITING = 256
"""Chunks that a slow client has not taken."""
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
        self._arrivals = Arrivals(MAX_WAITING)
        self._num_left = len(answers)
        self._said_at = 0.0
        self._is_over = False
        """Something was told that nothing follows."""
        self.is_referred = False
        """The client was told to read the turns elsewhere: they must go on."""

    async def run(self, receive: Receive, send: Send) -> None:
        """Sends all of it; raises ApiError before anything was sent, ClientGone."""
        tasks = [asyncio.ensure_future(self._read(strand)) for strand in self._strands]
        tasks.append(asyncio.ensure_future(self._watch(receive)))
        if self._patience is not None:
            tasks += [
                asyncio.ensure_future(self._give_up(strand, self._patience(strand.answer))) for strand in self._strands
            ]
        try:
            arrived = await self._arrivals.take(FIRST_SECONDS)
            if arrived and isinstance(arrived[0].what, ApiError):
                raise arrived[0].what
            await self._send_all(arrived, send)
        finally:
            self._arrivals.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, receive: Receive) -> None:
        await until_gone(receive)
        self._arrivals.end()

    async def _give_up(self, strand: Strand, patience: Patience) -> None:
        error = await patience.until_hopeless()
        if strand.answer.end is None:
            await self._arrivals.put(strand, error)

    async def _read(self, strand: Strand) -> None:
        """An answer's chunks as they come; where the client is slow it is held back, and what NATS then drops is made
        up for from the store."""
        try:
            async for chunk in chunks_of(strand.answer, self._writer):
                await self._arrivals.put(strand, chunk)
            await self._arrivals.put(strand, None)
        except ApiError as error:
            await self._arrivals.put(strand, error)

    async def _send_all(self, arrived: list[Arrived], send: Send) -> None:
        for strand in self._strands:
            strand.follow_model()
        own = [(b"content-type", self._writer.media_type.encode()), (b"cache-control", b"no-store")]
        headers = self._headers() if callable(self._headers) else self._headers
        await send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
        self._said_at = time.monotonic()
        while True:
            told = b"".join(strand.moved() for strand in self._strands)
            if not arrived:
                told += b"".join(one.begin(has_arrived=False) for one in self._strands)
            for one in arrived:
                told += self._told(one)
                if self._is_over:
                    return await self._send(send, told, last=True)
                if not self._num_left:
                    return await self._end(told, send)
            await self._send(send, told)
            if not arrived:
                await self._wait(send)
            arrived = await self._arrivals.take(PLACE_SECONDS)

    def _told(self, arrived: Arrived) -> bytes:
        """What is sent for it."""
        strand, what = arrived.strand, arrived.what
        if isinstance(what, ApiError):
            self._is_over = True
            return self._writer.broken_off(what)
        told = strand.begin(has_arrived=True)
        if what is not None:
            told += strand.chunk(what)
        elif not strand.is_behind:
            self._num_left -= 1
            return told + strand.end()
        if what is None or strand.is_contradicted:  # it is shorter than what the client has, or another one
            self.is_referred = self._is_over = True
            told += self._writer.broken_off(_contradicted(strand.answer.turn.id))
        return told

    async def _end(self, told: bytes, send: Send) -> None:
        """Sends the last of what is told, once that is settled."""
        if self._settle is not None:
            await self._settle(self._writer, [Finished(one.answer.done) for one in self._strands])
        await self._send(send, told + self._ending(), last=True)

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
