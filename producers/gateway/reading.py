"""Answers that somebody reads over HTTP: published, read to their ends, and cancelled where their reader goes first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import nats.errors

from broker.answer import Answer, TurnFailed
from broker.errors import (
    InvalidMessage,
    PayloadTooLarge,
    PublishError,
    QueueFull,
    ServerError,
    TurnpikeError,
    UnservedModel,
)
from broker.messages import NOT_UNDERSTOOD, Chunk, TokenLogprob
from producers.gateway.dialect import AnswerWriter, Finished
from producers.gateway.errors import ApiError, no_such_model, unavailable

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)


class ClientGone(Exception):
    """Nobody reads the answer any more."""


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


async def together[T](works: Iterable[Awaitable[T]]) -> list[T]:
    """Awaits them all; where one fails, the others are cancelled, and its error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def published(answer: Answer, choices: Callable[[], Sequence[str]] = tuple) -> None:
    """Raises ApiError where the queue does not take the turn; `choices` tells the models that would."""
    try:
        await answer.publish()
    except UnservedModel as error:
        raise no_such_model(error.model, choices()) from None
    except QueueFull as error:
        raise ApiError(429, str(error), kind="requests", code="queue_full", retry_after=5.0) from None
    except PayloadTooLarge as error:
        raise ApiError(413, str(error), code="payload_too_large") from None
    except InvalidMessage as error:  # nothing that msgpack could carry
        raise ApiError(400, f"the request cannot be queued: {error}") from None
    except PublishError as error:
        raise unavailable(error) from None


async def collect(answer: Answer, writer: AnswerWriter) -> Finished:
    """The whole answer, and its log-probabilities; raises ApiError."""
    logprobs: list[TokenLogprob] = []
    attempt = 0
    async for chunk in chunks_of(answer, writer):
        if chunk.attempt > attempt:
            attempt, logprobs = chunk.attempt, []
        logprobs += chunk.logprobs
    return Finished(answer.done, logprobs)


async def chunks_of(answer: Answer, writer: AnswerWriter) -> AsyncIterator[Chunk]:
    """The answer's chunks. Whatever becomes of it is told to its client: raises ApiError and nothing else."""
    try:
        async for chunk in answer:
            yield chunk
    except TurnFailed as error:
        raise writer.failure(error.failed) from None
    except (PublishError, ServerError, nats.errors.Error) as error:
        text = str(error) or type(error).__name__
        raise ApiError(503, text, kind="server_error", code="unavailable", retry_after=2.0) from None
    except TurnpikeError as error:
        raise ApiError(502, str(error), kind="server_error", code=NOT_UNDERSTOOD) from None
    except Exception:
        log.exception("! turn not read")
        detail = "the gateway could not read the answer: its log says why"
        raise ApiError(500, detail, kind="server_error", code="internal_error") from None


@dataclass
class Reading:
    """How somebody reads turns."""

    is_detached: bool
    """They go on without their reader."""

    def detach(self) -> None:
        """From now on the turns go on without their reader."""
        self.is_detached = True


@contextlib.asynccontextmanager
async def cancelled_unless_ended(*answers: Answer, is_detached: bool = False) -> AsyncIterator[Reading]:
    """Whoever leaves them early leaves no turn behind that nobody reads."""
    reading = Reading(is_detached)
    try:
        yield reading
    finally:
        await asyncio.shield(together(_left(answer, is_detached=reading.is_detached) for answer in answers))


async def _left(answer: Answer, *, is_detached: bool) -> None:
    if answer.may_run and not is_detached:
        with contextlib.suppress(PublishError, nats.errors.Error):
            await answer.cancel()
    await answer.close()
