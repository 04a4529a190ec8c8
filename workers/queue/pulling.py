"""Which turn is taken next: pulls of both priorities while slots are free, and batch's share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

import nats.errors

from broker.delivery import Delivery
from broker.errors import NotReady
from broker.priorities import INTERACTIVE, Lane, Priority
from workers.engine.preemption import BATCH_EVERY
from workers.queue.occupancy import Occupancy

BEACON_SECONDS = 0.5
"""Between two words to those who wait of how far the queue is."""
LAST_PULL_SECONDS = 0.25
"""Of a worker that stops."""
RETRY_SECONDS = 1.0
"""After a pull that failed."""

log = logging.getLogger(__name__)


class Pulls(Protocol):
    """One consumer's turns, one at a time. `Puller` is one."""

    async def start(self) -> None:
        """To be called before the first pull."""
        ...

    async def stop(self) -> None:
        """No more pulls. Raises nats.errors.Error."""
        ...

    async def pull(self, expires: float, closing: asyncio.Event | None = None) -> Delivery | None:
        """The next turn, or None when none came within `expires` seconds; 0 asks without waiting. An open one is taken
        back once `closing` is set. Raises nats.errors.Error, NotReady."""
        ...


class PulledQueue(Protocol):
    """A model's queue. `ModelQueue` is one."""

    def check(self) -> None:
        """Raises ConnectionLost once nothing more will come of the connection."""
        ...

    def puller(self, lane: Lane) -> Pulls:
        """Pulls from a lane's consumer."""
        ...

    async def tell_front(self, priority: Priority, sequence: int, num_pending: int) -> None:
        """Tells those who wait that the turn of that sequence was taken, and how many are behind it."""
        ...


class TurnPuller:
    """Takes a turn for each free slot, interactive before batch. Whoever is done with one says `free`."""

    def __init__(self, queue: PulledQueue, occupancy: Occupancy, pull_seconds: float) -> None:
        """`pull_seconds` is how long a pull stays open."""
        self._queue = queue
        self._occupancy = occupancy
        self._pull_seconds = pull_seconds
        self._slot_freed = asyncio.Event()
        self._interactive_is_idle = asyncio.Event()
        self._interactive_is_allowed = asyncio.Event()
        self._interactive_is_allowed.set()
        self._num_in_a_row = 0
        self._batch_is_due = asyncio.Event()
        self._batch_is_open = False
        self._beacon_at = 0.0

    def free(self, delivery: Delivery) -> None:
        """A turn that was taken is settled."""
        self._occupancy.free(delivery)
        self._slot_freed.set()

    async def run(
        self,
        priority: Priority,
        stop: asyncio.Event,
        take: Callable[[Delivery], None],
        closing: asyncio.Event | None = None,
    ) -> None:
        """Keeps one pull open on a priority's consumer while a slot is free, until `stop`; `take` gets what came.
        Raises ConnectionLost.

        A loop that has room at `stop`, and so nothing waiting, takes what comes until `closing`: it is of those who had
        not heard yet that the worker stops.
        """
        closing = closing or stop
        puller = self._queue.puller(priority)
        await puller.start()
        try:
            while not closing.is_set():
                self._queue.check()
                if not await self._may_pull(stop, priority):
                    if stop.is_set():
                        break
                    continue
                expires = min(self._pull_seconds, LAST_PULL_SECONDS) if stop.is_set() else self._pull_seconds
                delivery = await self._next(puller, priority, expires, closing)
                if delivery is None:
                    continue
                if closing.is_set() or not self._occupancy.has_room(priority):
                    # The other consumer's pull took the last slot while this one was open.
                    with contextlib.suppress(nats.errors.Error):  # then it comes back by itself
                        await delivery.hand_back()
                    continue
                self._occupancy.take(delivery, priority)
                self._count_turns(priority)
                take(delivery)
                await self._tell_front(priority, delivery)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await puller.stop()

    def _count_turns(self, priority: Priority) -> None:
        """After BATCH_EVERY − 1 interactive turns in a row, batch is asked first, unless its pull is open anyway."""
        self._num_in_a_row = self._num_in_a_row + 1 if priority == INTERACTIVE else 0
        if self._num_in_a_row >= BATCH_EVERY - 1 and not self._batch_is_open:
            self._batch_is_due.set()
            self._interactive_is_allowed.clear()

    async def _may_pull(self, stop: asyncio.Event, priority: Priority) -> bool:
        """Waits until a slot is free and it is this priority's turn. False: look again.

        Batch waits until interactive has nothing waiting, but for its share.
        """
        is_interactive = priority == INTERACTIVE
        if not self._occupancy.has_room(priority):
            self._slot_freed.clear()
            await _first(self._slot_freed, stop)
            return False
        if is_interactive and not self._interactive_is_allowed.is_set():
            await _first(self._interactive_is_allowed, stop)
            return False
        if not is_interactive and not (self._interactive_is_idle.is_set() or self._batch_is_due.is_set()):
            await _first(self._interactive_is_idle, self._batch_is_due, stop)
            return False
        return True

    async def _next(self, puller: Pulls, priority: Priority, expires: float, closing: asyncio.Event) -> Delivery | None:
        is_interactive = priority == INTERACTIVE
        is_due = not is_interactive and self._batch_is_due.is_set()
        try:
            # At once what is there; then an open pull, during which the other priority may have the slot.
            delivery = await puller.pull(0)
            if delivery is None and not is_due:
                if is_interactive:
                    self._interactive_is_idle.set()
                self._occupancy.note_pending(priority, 0)
                self._batch_is_open = self._batch_is_open or not is_interactive
                delivery = await puller.pull(expires, closing)
        except (nats.errors.Error, NotReady) as error:
            log.warning("pull failed error=%s", error)
            await asyncio.sleep(RETRY_SECONDS)
            return None
        finally:
            if not is_interactive:
                self._batch_is_open = False
            if is_due:
                self._num_in_a_row = 0
                self._batch_is_due.clear()
                self._interactive_is_allowed.set()
        if delivery is not None and is_interactive:
            self._interactive_is_idle.clear()
        return delivery

    async def _tell_front(self, priority: Priority, delivery: Delivery) -> None:
        now = time.perf_counter()
        if now - self._beacon_at >= BEACON_SECONDS:
            self._beacon_at = now
            await self._queue.tell_front(priority, delivery.sequence, delivery.num_pending)


async def _first(*events: asyncio.Event) -> None:
    """Waits for whichever is set first."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
