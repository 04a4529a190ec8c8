"""What a worker tells telemetry: a point for each second of its engine, for each turn, for its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import connection
from broker.delivery import Delivery
from broker.health import Rounds
from broker.messages import End, Point, Turn
from broker.recorder import Recorder
from workers.health import ROUND_SECONDS
from workers.reporting.load_waits import LoadWaits
from workers.reporting.node import NodeListener
from workers.turns.work import TurnNotes
from workers.worker_options import WorkerOptions

MAX_POINTS = 5_000
"""What a worker keeps while nobody takes its points: over an hour of seconds, in a few megabytes."""
LAST_POINTS_SECONDS = 1.0
"""How long a worker that stops waits for a server that does not take its last points."""


class Metrics(Protocol):
    """What a worker counts. `WorkerMetrics` is one."""

    def turn(
        self,
        now: int,
        delivery: Delivery,
        turn: Turn | None,
        end: End,
        notes: TurnNotes,
        load_wait: float | None = None,
    ) -> Point | None:
        """A turn's point at `now`, nanoseconds since the epoch."""
        ...

    def event(self, now: int, kind: str, text: str) -> Point | None:
        """For an annotation."""
        ...


class Reporter:
    """Makes a worker's points and sends them once a second. `second` makes the point of its engine since the last one,
    and is told how many points were dropped."""

    def __init__(
        self,
        nc: NatsConnection,
        options: WorkerOptions,
        metrics: Metrics,
        node: NodeListener,
        rounds: Rounds,
        second: Callable[[int], Point | None],
    ) -> None:
        self._nc = nc
        self._options = options
        self._metrics = metrics
        self._node = node
        self._rounds = rounds
        self._second = second
        self._recorder = Recorder(nc, options.node, max_buffered=MAX_POINTS)
        self.load_waits = LoadWaits()
        """What turns waited for the model to be loaded."""

    async def run(self) -> None:
        """Until it is cancelled. Raises ConnectionLost."""
        while True:
            connection.check(self._nc)
            self._rounds.begin("the loop that tells of each second", ROUND_SECONDS)
            await asyncio.sleep(1)
            self._node.forget_old()
            self._recorder.record(self._second(self._recorder.num_dropped))
            await self._recorder.flush()

    def event(self, kind: str) -> None:
        """Something that happened to the worker, for an annotation."""
        options = self._options
        text = f"{options.name} with {options.model_name or options.model} on {options.node}"
        self._recorder.record(self._metrics.event(self._recorder.unique(time.time_ns()), kind, text))

    def turn(self, delivery: Delivery, turn: Turn | None, end: End, notes: TurnNotes) -> None:
        """A turn has its end by this worker; `turn` is None where its bytes were not understood."""
        now = self._recorder.unique(time.time_ns())
        self._recorder.record(self._metrics.turn(now, delivery, turn, end, notes, self.load_waits.ended(delivery)))

    async def close(self) -> None:
        """Sends what there is, to a server that takes it soon."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await asyncio.wait_for(self._recorder.flush(), LAST_POINTS_SECONDS)
