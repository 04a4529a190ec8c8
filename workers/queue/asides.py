"""Turns that take no slot: pulled beside those that do, also while all slots are taken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import nats.errors

from broker.delivery import Delivery
from broker.errors import NotReady
from broker.priorities import ASIDE
from broker.waiting import unless
from workers.queue.pulling import RETRY_SECONDS, PulledQueue

MAX_ASIDES = 4
"""At once: each may be a message's worth of text, and they compute on cores that the model computes on."""

log = logging.getLogger(__name__)


class AsidePuller:
    """Takes them, so many at once. Whoever is done with one says `free`."""

    def __init__(self, queue: PulledQueue, pull_seconds: float, max_held: int = MAX_ASIDES) -> None:
        """`pull_seconds` is how long a pull stays open."""
        self._queue = queue
        self._pull_seconds = pull_seconds
        self._places = asyncio.Semaphore(max_held)

    def free(self, delivery: Delivery) -> None:
        """A turn that was taken is settled."""
        self._places.release()

    async def run(self, take: Callable[[Delivery], None], closing: asyncio.Event) -> None:
        """Keeps one pull open while there is a place, until `closing`; `take` gets what came. Raises ConnectionLost."""
        puller = self._queue.puller(ASIDE)
        await puller.start()
        try:
            while not closing.is_set() and await unless(closing, self._places.acquire()):
                delivery = None
                try:
                    self._queue.check()
                    delivery = await puller.pull(self._pull_seconds, closing)
                except (nats.errors.Error, NotReady) as error:
                    log.warning("pull failed error=%s", error)
                    await asyncio.sleep(RETRY_SECONDS)
                if delivery is None:
                    self._places.release()
                elif closing.is_set():
                    with contextlib.suppress(nats.errors.Error):  # then it comes back by itself
                        await delivery.hand_back()
                else:
                    take(delivery)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await puller.stop()
