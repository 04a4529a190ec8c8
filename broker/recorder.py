"""Points on their way to NATS: gathered for a second, sent in batches, kept in bounds while the server is away."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque

from nats.aio.client import Client as NatsConnection

from broker import codec, publishing, subjects
from broker.errors import InvalidMessage, NotStored, PayloadTooLarge, PublishError
from broker.messages import MAX_BATCH_POINTS, Point, Points

FLUSH_SECONDS = 1.0
MAX_BUFFERED = 50_000

log = logging.getLogger(__name__)


class Recorder:
    """Takes points at any rate; `flush` sends them, about every FLUSH_SECONDS. What does not fit while NATS is away is
    dropped, oldest first."""

    def __init__(self, nc: NatsConnection, node: str, *, max_buffered: int = MAX_BUFFERED) -> None:
        self._nc = nc
        self._subject = subjects.telemetry(node)
        self._buffer: deque[Point] = deque()
        self._max_buffered = max_buffered
        self._batch_points = MAX_BATCH_POINTS
        self._last_time = 0
        self._sending = asyncio.Lock()
        self.num_sent = 0
        self.num_dropped = 0

    def record(self, *points: Point | None) -> None:
        """None is a measurement of which nothing was to be had."""
        self._buffer.extend(point for point in points if point is not None)
        while len(self._buffer) > self._max_buffered:
            self._drop_first()

    def unique(self, time: int) -> int:
        """`time`, or the nanosecond after the last one returned: two points with the same tags must not be one."""
        self._last_time = max(time, self._last_time + 1)
        return self._last_time

    async def flush(self) -> bool:
        """Sends all that is there; False when the server did not take it, which keeps it for the next time. One at a
        time: whoever flushes beside another has what is left then."""
        async with self._sending:
            return await self._flush()

    async def _flush(self) -> bool:
        while self._buffer:
            batch = tuple(itertools.islice(self._buffer, self._batch_points))
            num_dropped = self.num_dropped
            try:
                # Acknowledged: a plain publish would be lost with its connection.
                await publishing.publish(self._nc, self._subject, codec.encode(Points(batch)))
            except (PayloadTooLarge, InvalidMessage) as error:
                if len(batch) > 1:
                    self._batch_points = len(batch) // 2
                else:  # a point that nobody could ever send holds up no other
                    log.warning("point dropped measurement=%.64s error=%s", batch[0].measurement, error)
                    self._drop_first()
                continue
            except PublishError as error:
                level = logging.WARNING if isinstance(error, NotStored) and error.code else logging.DEBUG
                log.log(level, "points kept num=%d error=%s", len(self._buffer), error)
                return False
            # Those that were dropped meanwhile were of this batch.
            for _ in range(max(0, len(batch) - (self.num_dropped - num_dropped))):
                self._buffer.popleft()
            self.num_sent += len(batch)
            self._batch_points = min(MAX_BATCH_POINTS, 2 * self._batch_points)
        return True

    def _drop_first(self) -> None:
        self._buffer.popleft()
        self.num_dropped += 1
