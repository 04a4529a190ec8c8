"""From TELEMETRY into the database. A batch is acknowledged after it is written: none is lost while that is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import codec, points, subjects
from broker.connection import check
from broker.delivery import Delivery, Puller
from broker.errors import InvalidMessage, NotReady
from broker.health import Rounds
from broker.messages import Point
from broker.recorder import Recorder
from telemetry.influx import Rejected, Sink, SinkUnavailable

WRITE_POINTS = 5000
"""What one write gathers at most from what waits."""
PULL_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 10.0
FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 15.0
MAX_WAIT_SECONDS = 120.0
"""However much later a database wants to be asked again."""
WRITING = "the writer"
ROUND_SECONDS = 300.0
"""For one write, in which the database may be slow to name each bad line."""

log = logging.getLogger(__name__)


class Writer:
    """Takes its share of the stream by the consumer that all sidecars share, and writes it."""

    def __init__(
        self, nc: NatsConnection, sink: Sink, recorder: Recorder, node: str, rounds: Rounds | None = None
    ) -> None:
        self._rounds = rounds or Rounds()
        self._nc = nc
        self._sink = sink
        self._recorder = recorder
        self._node = node
        self._held: list[Delivery] = []
        self.num_written = 0
        self.num_rejected = 0
        self.write_seconds: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Writes until `stop`, then what waits, if the database takes it at once; else it is handed back."""
        puller = Puller(self._nc, subjects.TELEMETRY, subjects.WRITER)
        await puller.start()
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep_alive())
                is_last = False
                while not is_last:
                    check(self._nc)
                    self._rounds.begin(WRITING, ROUND_SECONDS)
                    is_last = stop.is_set()
                    gathered = await self._gather(puller, 0 if is_last else PULL_SECONDS)
                    if self._held:
                        await self._write(gathered, stop)
                keeping.cancel()
        finally:
            self._rounds.end(WRITING)
            with contextlib.suppress(nats.errors.Error):
                for delivery in self._held:
                    await delivery.hand_back()
                await puller.stop()

    async def _gather(self, puller: Puller, expires: float) -> list[Point]:
        """What waits, up to a write's worth; waits `expires` seconds for the first of it."""
        gathered: list[Point] = []
        while len(gathered) < WRITE_POINTS:
            try:
                delivery = await puller.pull(expires)
            except (nats.errors.Error, NotReady) as error:
                log.warning("pull failed error=%s", error)
                await asyncio.sleep(1)
                break
            if delivery is None:
                break
            self._held.append(delivery)
            expires = 0
            try:
                found, rejected = codec.decode_points(delivery.payload, delivery.headers)
            except InvalidMessage as error:
                self._note_rejected(Rejected(delivery.subject[:64], repr(delivery.payload[:200]), str(error)))
                continue
            gathered += found
            self._note_odd(delivery.subject[:64], rejected)
        return gathered

    def _note_odd(self, subject: str, rejected: list[tuple[Any, str]]) -> None:
        """What of a batch is no point: all are counted, and the first of each reason is told."""
        reasons = {reason: repr(row)[:200] for row, reason in reversed(rejected)}
        for reason, row in reasons.items():
            self._note_rejected(Rejected(subject, row, reason))
        self.num_rejected += len(rejected) - len(reasons)

    async def _write(self, gathered: list[Point], stop: asyncio.Event) -> None:
        """Tries until the database has taken them or it is time to stop."""
        delay = FIRST_RETRY_SECONDS
        while True:
            self._rounds.begin(WRITING, ROUND_SECONDS)
            started = time.perf_counter()
            try:
                rejected = await self._sink.write(gathered) if gathered else []
            except SinkUnavailable as error:
                log.warning("points wait num=%d error=%s", len(gathered), error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), min(error.retry_after or delay, MAX_WAIT_SECONDS))
                if stop.is_set():
                    return
                delay = min(2 * delay, MAX_RETRY_SECONDS)
                continue
            break
        self.write_seconds = time.perf_counter() - started
        self.num_written += len(gathered) - len(rejected)
        for one in rejected:
            self._note_rejected(one)
        held, self._held = self._held, []
        for delivery in held:
            # Unconfirmed: a lost acknowledgement has the batch written again, which changes nothing.
            with contextlib.suppress(nats.errors.Error):
                await delivery.ack(confirm=False)

    def _note_rejected(self, rejected: Rejected) -> None:
        self.num_rejected += 1
        log.warning("point rejected measurement=%s reason=%s", rejected.measurement, rejected.reason)
        if rejected.measurement == points.REJECTED.name:
            return  # no dead letters of dead letters
        now = self._recorder.unique(time.time_ns())
        tags = {"node": self._node, "of": rejected.measurement}
        self._recorder.record(points.REJECTED.point(now, tags, {"line": rejected.line, "reason": rejected.reason}))

    async def _keep_alive(self) -> None:
        """What is held while the database is away is not given to another sidecar, which has the same database."""
        while True:
            await asyncio.sleep(KEEP_ALIVE_SECONDS)
            for delivery in list(self._held):
                with contextlib.suppress(nats.errors.Error):
                    await delivery.in_progress()
