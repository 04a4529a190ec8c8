"""How a turn that is still queued is ended: by a worker that hears its cancel, or without any by the reaper."""

from __future__ import annotations

import logging

from nats.aio.client import Client as NatsConnection

from broker import jetstream, subjects
from broker.messages import Cancel, Done, End, Failed, Timings, Turn, Usage
from broker.model_status import ModelStatus
from broker.replies import write_end
from broker.subjects import CancelAddress, TurnAddress

NOT_LOADED = "not_loaded"
MAX_DETAIL = 1000

log = logging.getLogger(__name__)


def concerns(address: CancelAddress, client: str, turn: Turn) -> bool:
    """Whether a cancel of that subject means the client's turn."""
    if address.client != client:
        return False
    if address.turn is not None:
        return address.turn == turn.id
    return address.conversation is None or address.conversation == turn.conversation


def past_deadline(worker: str) -> Failed:
    """The end of a turn whose deadline passed before anybody began it; `worker` is who says so."""
    return Failed("deadline", "the deadline passed while the turn was queued", worker=worker)


def not_loaded(status: ModelStatus, worker: str) -> Failed:
    """The end of a turn whose model boards have and none of them can load."""
    detail = f"model {status.model!r} {status.words()}"
    return Failed(NOT_LOADED, detail[:MAX_DETAIL], worker=worker, retryable=True, retry_after=status.seconds)


def is_not_loaded(end: End) -> bool:
    """Whether it is such an end."""
    return isinstance(end, Failed) and end.code == NOT_LOADED


def stopped(cancel: Cancel, queue_wait: float, worker: str) -> End:
    """The end of a turn that was stopped before it was begun, `queue_wait` seconds after it was queued."""
    if cancel.reason == "deadline":
        return past_deadline(worker)
    return Done("cancelled", "", (), Usage(0, 0, 0), Timings(queue_wait, 0.0, 0.0), worker)


async def end_queued(nc: NatsConnection, address: TurnAddress, sequence: int, end: End) -> bool:
    """Writes the turn's end, and has it leave the queue; False where it had an end before. The server decides who is
    first, so any number of processes may do this at once. Raises ServerError."""
    is_first = await write_end(nc, address, end)
    stream = subjects.turns_stream(address.model)
    deleted = await jetstream.delete(nc, stream, sequence)
    if is_first:
        log.info("⊘ queued turn=%s deleted=%s", address.turn, deleted)
    return is_first
