"""Whether a model is served, and by whom: asked before a turn is queued, as a queue takes turns that nobody takes too.

A worker is there while it answers discovery. One on a busy board answers late, so that silence counts at once only
where the model's consumers have nothing in work and nobody pulls from them. A model without a worker may be one that
a board will load for the turn: then its queue is worth waiting in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import discovery, jetstream, model_status, placing, subjects
from broker.discovery import SERVING, WorkerInfo
from broker.errors import NotLoaded, NotReady, NotServed, UnservedModel
from broker.messages.boards import BoardState
from broker.model_status import ModelStatus
from broker.priorities import DEFAULT_PRIORITY, LANES
from broker.retrying import retried

QUICK_SECONDS = 0.25
"""Within which a worker that has little to do answers."""
PATIENT_SECONDS = 2.0
"""Within which one on a busy board does."""
LOOK_SECONDS = 0.5
QUEUE_SECONDS = 5.0
"""Within which a model that a board has just announced has its queue."""
NAMES_SECONDS = 1.0
"""A server that does not let us ask does not answer."""


async def state(nc: NatsConnection, model: str) -> str | None:
    """SERVING within milliseconds where a worker of the model takes turns. Else what one does that answers, drains say;
    None where none answers: after a quarter of a second, or two where turns are in work, whose worker may only be busy.
    Raises ServerError."""
    stream = subjects.turns_stream(model)
    found = [await jetstream.consumer(nc, stream, lane) for lane in LANES]
    is_idle = not any(one.num_waiting or one.num_ack_pending for one in found if one is not None)
    return await _answered(nc, model, QUICK_SECONDS if is_idle else PATIENT_SECONDS)


async def is_served(nc: NatsConnection, model: str) -> bool:
    """Whether a worker of the model takes turns; as patient as `state`. Raises ServerError."""
    return await state(nc, model) == SERVING


async def served_by(nc: NatsConnection, model: str) -> list[WorkerInfo]:
    """The workers of the model that answer, with what they are doing; none where nobody serves it. As patient as
    `is_served`, raises ServerError."""
    if not await is_served(nc, model):
        return []
    for seconds in (QUICK_SECONDS, PATIENT_SECONDS):
        if found := [
            one
            for one in await discovery.find_workers(nc, seconds)
            if one.model == model and one.load.state != discovery.DRAINING
        ]:
            return found
    return []


async def until_served(nc: NatsConnection, model: str, seconds: float = 0.0) -> ModelStatus | None:
    """Comes back once a turn for the model would be answered: by a worker that serves it, None, or by one that a board
    will load, with what is known of that.

    Raises NotServed where there is neither after so many seconds, NotLoaded where boards have it and cannot load it,
    UnservedModel at once where no stream takes its turns; ServerError.
    """

    async def look() -> ModelStatus | None:
        if await is_served(nc, model):
            return None
        boards = await placing.boards(nc)
        status = model_status.status_of(model, boards)
        if status is not None and not status.is_servable:
            raise unserved(model, status)
        if await has_queue(nc, model):
            if status is None:
                raise NotServed(model)
            return status
        if status is None:
            raise UnservedModel(model, await choices(nc, boards))
        raise NotReady(f"stream {subjects.turns_stream(model)}")

    def patience(error: Exception) -> float:
        return max(seconds, QUEUE_SECONDS) if isinstance(error, NotReady) else seconds

    try:
        return await retried(look, after=(NotServed, NotReady), delay=LOOK_SECONDS, patience=patience)
    except NotLoaded:
        raise
    except NotServed:
        if not (boards := await placing.boards(nc)):
            raise
        raise NotServed(model, await choices(nc, boards)) from None


def unserved(model: str, status: ModelStatus | None = None) -> NotServed:
    """Why nobody would answer a turn: boards have its model and cannot load it, or there is nobody at all."""
    if status is None or status.is_servable:
        return NotServed(model)
    return NotLoaded(model, status.reason, status.seconds)


async def choices(nc: NatsConnection, boards: Iterable[BoardState]) -> list[str]:
    """The models that a turn can be for: those with a worker that takes turns, and those that a board may load."""
    workers = await discovery.find_workers(nc, QUICK_SECONDS)
    return askable(workers, model_status.statuses(boards).values())


def askable(workers: Iterable[WorkerInfo], known: Iterable[ModelStatus]) -> list[str]:
    """The same, of what was seen."""
    served = {one.model for one in workers if one.is_serving}
    return sorted(served | {status.model for status in known if status.is_servable})


async def has_queue(nc: NatsConnection, model: str) -> bool:
    """Whether the server has a queue for the model's turns, served or not. Raises ServerError."""
    return await jetstream.consumer(nc, subjects.turns_stream(model), DEFAULT_PRIORITY) is not None


async def queues(nc: NatsConnection) -> list[str]:
    """The models that the server has a queue for, served or not, by their tokens. Raises ServerError, also where it
    does not let us ask, as one that an older release has set up."""
    found = await jetstream.stream_names(nc, subjects.ALL_TURNS, timeout=NAMES_SECONDS)
    return sorted(name.removeprefix(subjects.TURNS_PREFIX) for name in found if name.startswith(subjects.TURNS_PREFIX))


async def _answered(nc: NatsConnection, model: str, seconds: float) -> str | None:
    """What the model's workers do that answer within so many seconds; comes back with the first that serves."""
    found: str | None = None
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    try:
        await nc.publish(f"$SRV.STATS.{discovery.SERVICE}", b"", reply=inbox)
        async with asyncio.timeout(seconds):
            while found != SERVING:
                found = _state_of((await subscription.next_msg(timeout=seconds)).data, model) or found
    except (nats.errors.TimeoutError, TimeoutError):
        pass
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
    return found


def _state_of(answer: bytes, model: str) -> str | None:
    """None for what is no answer of the model's workers. A release that does not tell its state serves."""
    try:
        said = json.loads(answer)
        if said["metadata"]["model"] != model:
            return None
        data = said["endpoints"][0]["data"]
        return str(data.get("state", SERVING))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
