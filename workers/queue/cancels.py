"""Cancels: what they stop in this worker's hands, and what they end in the queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, subjects
from broker.errors import InvalidMessage, InvalidName
from broker.messages import Cancel
from broker.queued_ends import concerns
from broker.subjects import CancelAddress
from workers.queue.queued_cancels import STORED_SECONDS, CancelledQueue, QueuedCancels
from workers.turns.in_hand import TurnsInHand
from workers.turns.work import Work

MAX_RECENT = 1024
"""Cancels that were heard last; older ones are in their stream."""

log = logging.getLogger(__name__)


class Cancels:
    """What was cancelled of one model's turns, by the worker of that name. `stop` ends a job in the engine."""

    def __init__(
        self, queue: CancelledQueue, model: str, worker: str, in_hand: TurnsInHand, stop: Callable[[str], None]
    ) -> None:
        self._queue = queue
        self._in_hand = in_hand
        self._stop = stop
        self._recent: deque[tuple[CancelAddress, Cancel, float]] = deque(maxlen=MAX_RECENT)
        self.queued = QueuedCancels(queue, model, worker, in_hand.holds)
        """Those that are carried out in the queue."""

    def hear(self, address: CancelAddress, cancel: Cancel) -> None:
        """Stops what is in our own hands, and keeps the cancel for those that come."""
        self._recent.append((address, cancel, time.perf_counter()))
        for work in self._in_hand.concerned(address):
            log.info("⊘ cancel turn=%s", work.turn.id)
            work.cancelled_by(cancel)
            self._stop(work.job)

    async def of(self, work: Work) -> Cancel | None:
        """The cancel that concerns a turn: just heard, or in the stream from before we listened. Raises ServerError."""
        if work.cancel is not None:
            return work.cancel
        client, stored_at = work.address.client, work.delivery.stored_at
        # A copy: others come while this waits.
        concerned = [one for one in self._recent if concerns(one[0], client, work.turn)]
        for address, cancel, _ in concerned:
            if address.turn:
                return cancel
        if any(time.perf_counter() - heard_at < STORED_SECONDS for _, _, heard_at in concerned):
            # Whether it was queued before the cancel the server's stamps tell, once the cancel is stored.
            await asyncio.sleep(STORED_SECONDS)
        for address in (
            CancelAddress(client, turn=work.turn.id),
            CancelAddress(client, conversation=work.turn.conversation),
            CancelAddress(client),
        ):
            stored = await self._queue.last_cancel(address)
            # A conversation goes on after its cancel: only what was queued before is meant.
            if stored is None or (stored.stored_at < stored_at and not address.turn):
                continue
            with contextlib.suppress(InvalidMessage):  # told when it was heard
                return codec.decode(stored.payload, Cancel, stored.headers)
        return None


class CancelListener:
    """Hears cancels as long as it is entered; first this, then the pulls, or one could fall between the two."""

    def __init__(self, nc: NatsConnection, model: str, cancels: Cancels) -> None:
        self._nc = nc
        self._model = model
        self.cancels = cancels
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> None:
        await self.cancels.queued.__aenter__()
        self._subscriptions.append(await self._nc.subscribe(subjects.ALL_CANCELS, cb=self._on_cancel))
        # Queued turns are looked for by one worker of the model, running ones by each in its own hands.
        queued = await self._nc.subscribe(
            subjects.ALL_CANCELS, queue=f"cancels-{self._model}", cb=self._on_cancel_queued
        )
        self._subscriptions.append(queued)

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(nats.errors.Error):
            for subscription in self._subscriptions:
                await subscription.unsubscribe()
        await self.cancels.queued.__aexit__()

    async def _on_cancel(self, message: Msg) -> None:
        if (understood := _understood(message)) is not None:
            self.cancels.hear(*understood)

    async def _on_cancel_queued(self, message: Msg) -> None:
        if (understood := _understood(message)) is not None:
            self.cancels.queued.put(*understood)


def _understood(message: Msg) -> tuple[CancelAddress, Cancel] | None:
    try:
        return subjects.parse_cancel(message.subject), codec.decode(message.data, Cancel, message.headers)
    except (InvalidName, InvalidMessage) as error:
        log.warning("cancel not understood subject=%r error=%s", message.subject[:200], error)
        return None
