"""Turns in hand are kept from being delivered to another worker, however long they take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import connection
from broker.delivery import Delivery
from broker.health import Rounds
from workers.health import ROUND_SECONDS


class KeepAlive:
    """Tells the server every third of its ack_wait that a delivery is in progress, while it is held."""

    def __init__(self, nc: NatsConnection, rounds: Rounds) -> None:
        self._nc = nc
        self._rounds = rounds
        self._deliveries: set[Delivery] = set()

    @property
    def deliveries(self) -> list[Delivery]:
        """Those that are held just now."""
        return list(self._deliveries)

    @contextlib.contextmanager
    def holding(self, delivery: Delivery) -> Iterator[None]:
        """Holds a delivery while it is entered."""
        self._deliveries.add(delivery)
        try:
            yield
        finally:
            self._deliveries.discard(delivery)

    async def run(self, ack_wait: float) -> None:
        """Until it is cancelled; `ack_wait` is the consumers', in seconds. Raises ConnectionLost."""
        while True:
            connection.check(self._nc)
            self._rounds.begin("the loop that keeps turns alive", ack_wait / 3 + ROUND_SECONDS)
            await asyncio.sleep(ack_wait / 3)
            for delivery in self.deliveries:
                with contextlib.suppress(nats.errors.Error):  # cut off: the next beat may get through
                    await delivery.in_progress()
