"""About where a queued turn is in its line: its rank when it was asked for, less what workers have taken since."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, jetstream, subjects
from broker.errors import InvalidMessage, ServerError
from broker.messages import Beacon
from broker.priorities import Lane


@dataclass(frozen=True)
class PlaceInLine:
    """About where a waiting turn is: `turns_ahead` before it, and when it may begin, if turns were seen to move."""

    turns_ahead: int
    seconds: float | None


class Line:
    """A turn's line, followed by what workers tell as they take turns from it."""

    def __init__(self, sequence: int, base: int, rank: int) -> None:
        """Of the turn with this `sequence` in its stream, when its consumer had come to `base` and had `rank` turns to
        deliver, this one the last of them."""
        self._sequence, self._base, self._rank = sequence, base, max(0, rank - 1)
        self._progress = base
        self._started_at = time.perf_counter()
        self._beacons: Subscription | None = None

    @classmethod
    async def of(cls, nc: NatsConnection, model: str, lane: Lane, sequence: int) -> Line | None:
        """Asks the server once (0.2 ms) and listens from then on; None while it does not tell."""
        if not nc.is_connected:
            return None
        try:
            info = await jetstream.consumer(nc, subjects.turns_stream(model), lane)
            if info is None:
                return None
            line = cls(sequence, info.delivered.stream_sequence, info.num_pending)
            line._beacons = await nc.subscribe(subjects.queue(model, lane), cb=line.on_beacon)
        except (ServerError, nats.errors.Error):  # it has restarted, say: the turn waits all the same
            return None
        return line

    async def on_beacon(self, message: Msg) -> None:
        """Takes a worker's word on how far it has come."""
        with suppress(InvalidMessage):
            self._progress = max(self._progress, codec.decode(message.data, Beacon, message.headers).sequence)

    def place(self) -> PlaceInLine:
        """The turn's place by now."""
        span = max(1, self._sequence - self._base)
        share = min(1.0, max(0, self._progress - self._base) / span)
        ahead = round(self._rank * (1 - share))
        taken = self._rank - ahead
        seconds = (time.perf_counter() - self._started_at) / taken * ahead if taken else None
        return PlaceInLine(ahead, seconds)

    async def close(self) -> None:
        """Stops listening."""
        if self._beacons is not None:
            with suppress(nats.errors.Error):
                await self._beacons.unsubscribe()
