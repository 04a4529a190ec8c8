"""Which turn is taken next: pulls of both priorities while slots are free, and batch's share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import codec, subjects
from broker.connection import check
from broker.delivery import Delivery, Puller
from broker.errors import NotReady
from broker.messages import Beacon
from workers.engine.preemption import BATCH_EVERY, batch_reserve

BEACON_SECONDS = 0.5
LAST_PULL_SECONDS = 0.25
"""Of a worker that stops."""

log = logging.getLogger(__name__)


class TurnPuller:
    """Takes a turn for each free slot, interactive before batch. Whoever is done with one says `free`."""

    def __init__(
        self, nc: NatsConnection, model: str, num_slots: int, pull_seconds: float, *, can_preempt: bool = False
    ) -> None:
        """With `can_set_aside` interactive turns are taken for the slots of batch turns too, but for batch's share."""
        self._can_set_aside = can_preempt
        self._batch: set[int] = set()
        """Deliveries of batch turns that are held, by identity."""
        self._nc = nc
        self._model = model
        self._num_slots = num_slots
        self._pull_seconds = pull_seconds
        self.num_held = 0
        """Turns that were taken and not freed yet."""
        self.pending = dict.fromkeys(subjects.PRIORITIES, 0)
        """Turns in the model's queue by priority, as of its last pull."""
        self._slot_freed = asyncio.Event()
        self._interactive_idle = asyncio.Event()
        self._interactive_may = asyncio.Event()
        self._interactive_may.set()
        self._num_in_a_row = 0
        self._batch_is_due = asyncio.Event()
        self._batch_is_open = False
        self._beacon_at = 0.0

    def free(self, delivery: Delivery) -> None:
        """A turn that was taken is settled."""
        self.num_held -= 1
        self._batch.discard(id(delivery))
        self._slot_freed.set()

    @property
    def num_pending(self) -> int:
        return sum(self.pending.values())

    def num_ahead(self, priority: str) -> int:
        """How many turns one that is queued now would wait for: batch for all of them, interactive not for batch, nor
        for the slots of batch turns that are set aside for it."""
        room, held, queued = self._num_slots, self.num_held, self.num_pending
        if priority == "interactive":
            queued = self.pending["interactive"]
            if self._can_set_aside:
                room -= min(len(self._batch), batch_reserve(self._num_slots))
                held -= len(self._batch)
        return queued + max(0, held + 1 - room)

    def _has_room(self, is_interactive: bool) -> bool:
        if self.num_held < self._num_slots:
            return True
        if not is_interactive or not self._can_set_aside:
            return False
        kept_for_batch = min(len(self._batch), batch_reserve(self._num_slots))
        return self.num_held - len(self._batch) < self._num_slots - kept_for_batch

    async def run(
        self,
        priority: str,
        stop: asyncio.Event,
        take: Callable[[Delivery], None],
        closing: asyncio.Event | None = None,
    ) -> None:
        """Keeps one pull open on a priority's consumer while a slot is free, until `stop`; `take` gets what came.

        A loop that has room at `stop`, and so nothing waiting, takes what comes until `closing`: it is of those who had
        not heard yet that the worker stops.
        """
        closing = closing or stop
        puller = Puller(self._nc, subjects.turns_stream(self._model), priority)
        await puller.start()
        is_interactive = priority == "interactive"
        try:
            while not closing.is_set():
                check(self._nc)
                if not await self._may_pull(stop, is_interactive):
                    if stop.is_set():
                        break
                    continue
                expires = min(self._pull_seconds, LAST_PULL_SECONDS) if stop.is_set() else self._pull_seconds
                delivery = await self._next(puller, priority, expires)
                if delivery is None:
                    continue
                if closing.is_set() or not self._has_room(is_interactive):
                    # The other consumer's pull took the last slot while this one was open.
                    with contextlib.suppress(nats.errors.Error):  # then it comes back by itself
                        await delivery.hand_back()
                    continue
                self.num_held += 1
                if not is_interactive:
                    self._batch.add(id(delivery))
                self.pending[priority] = delivery.num_pending
                self._count_turns(is_interactive)
                take(delivery)
                await self._beacon(priority, delivery)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await puller.stop()

    def _count_turns(self, is_interactive: bool) -> None:
        """After BATCH_EVERY − 1 interactive turns in a row, batch is asked first, unless its pull is open anyway."""
        self._num_in_a_row = self._num_in_a_row + 1 if is_interactive else 0
        if self._num_in_a_row >= BATCH_EVERY - 1 and not self._batch_is_open:
            self._batch_is_due.set()
            self._interactive_may.clear()

    async def _may_pull(self, stop: asyncio.Event, is_interactive: bool) -> bool:
        """Waits until a slot is free and it is this priority's turn. False: look again.

        Batch waits until interactive has nothing waiting, but for its share.
        """
        if not self._has_room(is_interactive):
            self._slot_freed.clear()
            await _first(self._slot_freed, stop)
            return False
        if is_interactive and not self._interactive_may.is_set():
            await _first(self._interactive_may, stop)
            return False
        if not is_interactive and not (self._interactive_idle.is_set() or self._batch_is_due.is_set()):
            await _first(self._interactive_idle, self._batch_is_due, stop)
            return False
        return True

    async def _next(self, puller: Puller, priority: str, expires: float) -> Delivery | None:
        is_interactive = priority == "interactive"
        is_due = not is_interactive and self._batch_is_due.is_set()
        try:
            # At once what is there; then an open pull, during which the other priority may have the slot.
            delivery = await puller.pull(0)
            if delivery is None and not is_due:
                if is_interactive:
                    self._interactive_idle.set()
                self.pending[priority] = 0
                self._batch_is_open = self._batch_is_open or not is_interactive
                delivery = await puller.pull(expires)
        except (nats.errors.Error, NotReady) as error:
            log.warning("pull failed error=%s", error)
            await asyncio.sleep(1)
            return None
        finally:
            if not is_interactive:
                self._batch_is_open = False
            if is_due:
                self._num_in_a_row = 0
                self._batch_is_due.clear()
                self._interactive_may.set()
        if delivery is not None and is_interactive:
            self._interactive_idle.clear()
        return delivery

    async def _beacon(self, priority: str, delivery: Delivery) -> None:
        now = time.perf_counter()
        if now - self._beacon_at >= BEACON_SECONDS:
            self._beacon_at = now
            payload = codec.encode(Beacon(delivery.sequence, delivery.num_pending))
            with contextlib.suppress(nats.errors.Error):
                await self._nc.publish(subjects.queue(self._model, priority), payload)


async def _first(*events: asyncio.Event) -> None:
    """Waits for whichever is set first."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
