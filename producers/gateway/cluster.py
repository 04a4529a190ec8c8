"""`GET /cluster`: the boards, the models and their queues, the workers, and the turns in work: a key's own one by one,
all others' as numbers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.client import Client as NatsConnection

from broker import availability, jetstream, subjects
from broker.client import Client
from broker.discovery import WorkerInfo
from broker.errors import ServerError
from broker.messages.boards import IN_MEMORY, LOADING, BoardState, ModelOnBoard
from broker.model_status import ModelStatus, progress
from broker.priorities import BATCH, INTERACTIVE, PRIORITIES
from producers.gateway.in_work import InWork
from producers.gateway.seen import Seen

LOOK_SECONDS = 1.0
"""For so long nobody asks the server again, however many look at the cluster."""


class Queue(Struct, frozen=True):
    """Of a model: the turns that no worker has taken, by priority, and those in work."""

    waiting: int = 0
    waiting_batch: int = 0
    in_work: int = 0


class Cluster:
    """What there is to see, as of now."""

    def __init__(self, nc: NatsConnection, seen: Seen, in_work: InWork) -> None:
        self._nc = nc
        self._seen = seen
        self._in_work = in_work
        self._queues: dict[str, Queue] = {}
        self._looked_at = -LOOK_SECONDS
        self._looking = asyncio.Lock()

    async def picture(self, client: Client) -> dict[str, Any]:
        """As that client may see it."""
        queues = await self._look()
        workers, boards, statuses = self._seen.workers, self._seen.board_states, self._seen.boards
        own = self._in_work.of(client)
        names = sorted({one.model for one in workers} | set(statuses) | set(queues))
        return {
            "boards": [board_row(one) for one in boards],
            "models": [
                model_row(name, [one for one in workers if one.model == name], statuses.get(name), queues.get(name))
                for name in names
            ],
            "workers": [worker_row(one) for one in workers],
            "turns": [await one.told() for one in own],
            "turns_of_others": self._in_work.num_others(client),
        }

    async def _look(self) -> dict[str, Queue]:
        """What waits in all queues; what was seen last where the server does not tell just now."""
        async with self._looking:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                try:
                    names = await availability.queues(self._nc)
                except (ServerError, nats.errors.Error):  # of an earlier release, say: those that are served
                    names = sorted({one.model for one in self._seen.workers})
                found = await asyncio.gather(*(self._queue(name) for name in names))
                self._queues = {name: one for name, one in zip(names, found, strict=True) if one is not None}
                self._looked_at = time.monotonic()
            return self._queues

    async def _queue(self, model: str) -> Queue | None:
        waiting, in_work = dict.fromkeys(PRIORITIES, 0), 0
        try:
            for priority in PRIORITIES:
                info = await jetstream.consumer(self._nc, subjects.turns_stream(model), priority)
                if info is not None:
                    waiting[priority] = info.num_pending
                    in_work += info.num_ack_pending
        except (ServerError, nats.errors.Error):
            return self._queues.get(model)
        return Queue(waiting[INTERACTIVE], waiting[BATCH], in_work)


def board_row(board: BoardState) -> dict[str, Any]:
    """A board, with what it has in its memory and what it could load."""
    return {
        "board": board.board,
        "memory_bytes": board.memory_bytes,
        "used_bytes": sum(one.planned_bytes for one in board.models if one.state in IN_MEMORY),
        "cores": board.num_cores,
        "is_throttled": board.is_throttled,
        "memory_pressure": board.memory_pressure,
        "swaps": board.num_swaps,
        "models": [_model_on_board(one, board) for one in board.models],
    }


def _model_on_board(one: ModelOnBoard, board: BoardState) -> dict[str, Any]:
    found = {
        "model": one.model,
        "state": one.state,
        "planned_bytes": one.planned_bytes,
        "active": one.num_in_hand,
        "slots": one.num_slots,
        "pin": one.pin,
        "reason": one.reason,
    }
    if one.state == LOADING:
        found["share"], found["seconds"] = progress(one, board)
    return found


def model_row(
    name: str, workers: Sequence[WorkerInfo], status: ModelStatus | None, queue: Queue | None
) -> dict[str, Any]:
    """A model: who serves it, what waits, and where nobody serves it what boards do about it."""
    serving = [one for one in workers if one.is_serving]
    queue = queue or Queue()
    waits: Iterable[float] = [one.load.expected_wait_seconds for one in serving]
    if not serving and status is not None and status.is_servable:
        waits = [status.seconds]
    return {
        "model": name,
        "name": next((one.model_name for one in workers if one.model_name), name),
        "state": "loaded" if serving else status.state if status is not None else "unserved",
        "words": "" if serving or status is None else status.words(),
        "share": status.share if status is not None and not serving else None,
        "workers": len(serving),
        "slots": sum(one.load.num_slots for one in serving),
        "active": sum(one.load.num_active for one in workers),
        "waiting": queue.waiting,
        "waiting_batch": queue.waiting_batch,
        "in_work": queue.in_work,
        "wait_seconds": min(waits, default=None),
    }


def worker_row(worker: WorkerInfo) -> dict[str, Any]:
    """A worker and what it does just now."""
    load = worker.load
    return {
        "worker": worker.worker,
        "node": worker.node,
        "model": worker.model,
        "quantization": worker.quantization,
        "state": load.state,
        "slots": load.num_slots,
        "active": load.num_active,
        "prefill_tokens_per_second": load.prefill_tokens_per_second,
        "decode_tokens_per_second": load.decode_tokens_per_second,
        "cached_share": load.cached_share,
        "failed": load.num_failed,
        "celsius": load.celsius,
        "is_throttled": load.is_throttled,
    }
