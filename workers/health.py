"""What a worker lives by, and whether it lives: its engine's thread, its connection, its loops."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Protocol

from nats.aio.client import Client as NatsConnection

from broker import connection
from broker.errors import ServerError
from broker.health import Rounds

STUCK_SECONDS = 300.0
"""A round of the engine takes a quarter of a second, and on the slowest board with the largest model some ten."""
ENDING_SECONDS = 30.0
"""For what is in hand to be handed back once the engine is gone."""
ROUND_SECONDS = 120.0
"""For a loop that comes round every second, or every third of ack_wait."""
LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class WorkerLost(ServerError):
    """The engine died under the worker."""


class EngineThread(Protocol):
    """The thread that computes. `EngineLoop` has one."""

    @property
    def stuck_seconds(self) -> float:
        """How long the round that runs just now has taken; 0 while there is nothing to do."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether the thread was started and is no more."""
        ...


class Watch:
    """Looks at them when a probe asks, and once a second by itself."""

    def __init__(self, nc: NatsConnection, engine: EngineThread) -> None:
        self._nc = nc
        self._engine = engine
        self._ended_at: float | None = None
        self._is_over = False
        self.rounds = Rounds()
        """Where the worker's loops say that they come round."""

    def end(self) -> None:
        """The worker winds up: from now on its loops and its engine are meant to end."""
        self._is_over = True

    def trouble(self) -> str | None:
        """Why the process should be started anew: its engine has not come back from a step for minutes or is gone, its
        connection is closed for good, a loop does not come round. A worker that is merely busy, or cut off from its
        server, has no trouble."""
        if (seconds := self._engine.stuck_seconds) > STUCK_SECONDS:
            return f"a step has taken {seconds:.0f} s"
        if self._is_over:
            return None
        if self._engine.has_ended:
            return "the engine's thread has ended"
        return connection.trouble(self._nc) or self.rounds.trouble()

    async def run(self) -> None:
        """Raises WorkerLost where the engine has ended and nobody winds up, ConnectionLost."""
        async with asyncio.TaskGroup() as group:
            group.create_task(connection.watch(self._nc))
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                if self._is_over or not self._engine.has_ended:
                    continue
                self._ended_at = self._ended_at or time.monotonic()
                if time.monotonic() - self._ended_at > ENDING_SECONDS:
                    raise WorkerLost("the engine's thread has ended")


async def guarded(what: str, work: Awaitable[None]) -> None:
    """Awaits what is done for others: a fault of its own ends it, and not the worker beside it."""
    try:
        await work
    except Exception:
        log.exception("%s failed", what)
