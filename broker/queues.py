"""The queues of models that boards may serve: made as boards announce them, so that a turn can wait for a model that no
worker has yet. That is an operator's right; `turnpike broker` does it, and `turnpike broker ensure --follow`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import jetstream, model_status, placing, subjects, topology
from broker.connection import Address, check
from broker.errors import ServerError
from broker.keeping import kept
from broker.priorities import PRIORITIES
from broker.topology import Limits

NAME = "queues"
LOOK_SECONDS = 5.0
"""Between two readings of what boards say, beside what is heard of it."""
AGAIN_SECONDS = 30.0
"""Until a queue that could not be made is tried again."""
MAX_QUEUES = 256
"""That are made so: each is a stream, whose bytes the server sets aside."""

log = logging.getLogger(__name__)


class Queues:
    """Makes the queues that are missing, with these limits; one that is there stays as it is."""

    def __init__(self, nc: NatsConnection, limits: Limits) -> None:
        self._nc = nc
        self._limits = limits
        self._known: set[str] = set()
        self._tried_at: dict[str, float] = {}
        """By the monotonic clock, of those that could not be made."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Raises ConnectionLost."""
        async with placing.Watch(self._nc) as watch:
            read_at = time.monotonic()
            while not stop.is_set():
                check(self._nc)
                await self.look(watch.placement())
                await _change(watch, stop)
                if time.monotonic() - read_at >= LOOK_SECONDS:
                    read_at = time.monotonic()
                    with contextlib.suppress(ServerError, nats.errors.Error):
                        await watch.refresh()

    async def look(self, placement: placing.Placement) -> None:
        """Makes what is missing of what boards may serve now."""
        models = model_status.statuses(placement.boards)
        self._tried_at = {model: at for model, at in self._tried_at.items() if model in models}
        for model in models:
            if model in self._known or time.monotonic() - self._tried_at.get(model, -AGAIN_SECONDS) < AGAIN_SECONDS:
                continue
            if len(self._known) >= MAX_QUEUES:
                self._refuse(model, f"there are {MAX_QUEUES} already")
                continue
            try:
                await self._ensure(model)
                self._known.add(model)
            except (ServerError, nats.errors.Error) as error:
                self._refuse(model, str(error))

    async def _ensure(self, model: str) -> None:
        stream = subjects.turns_stream(model)
        if None in [await jetstream.consumer(self._nc, stream, priority) for priority in PRIORITIES]:
            for line in await topology.ensure_queue(self._nc, model, self._limits):
                log.info("%s", line)

    def _refuse(self, model: str, reason: str) -> None:
        self._tried_at[model] = time.monotonic()
        log.warning("no queue for what a board may serve model=%s reason=%s", model, reason)


async def _change(watch: placing.Watch, stop: asyncio.Event) -> None:
    """Until something is written, or `stop`, and at the latest until it is time to read again."""
    changing, stopping = asyncio.ensure_future(watch.changed(LOOK_SECONDS)), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({changing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (changing, stopping):
            task.cancel()
        await asyncio.gather(changing, stopping, return_exceptions=True)


async def keep_queues(address: Address, limits: Limits, stop: asyncio.Event) -> None:
    """On a connection of its own, an operator's, until `stop`; begun anew where that is lost."""
    await kept(address, NAME, lambda nc: Queues(nc, limits).run(stop), stop)
