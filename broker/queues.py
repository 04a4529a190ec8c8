"""The queues of models that boards may serve: made as boards announce them, or for all of a lock file, so that a turn
can wait for a model that no worker has yet. That is an operator's right; `turnpike broker` does it, and so does
`turnpike broker ensure`, with `--follow` for what is announced later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import jetstream, model_status, placing, subjects, topology
from broker.catalogue import read_lock
from broker.connection import Address, check
from broker.errors import NoRoom, ServerError
from broker.keeping import kept
from broker.priorities import LANES
from broker.settings import MIN_QUEUED_BYTES
from broker.topology import Limits
from broker.waiting import unless

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

    @property
    def refused(self) -> list[str]:
        """The models whose queues could not be made, the last time."""
        return sorted(self._tried_at.keys() - self._known)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Raises ConnectionLost."""
        async with placing.Watch(self._nc) as watch:
            read_at = time.monotonic()
            while not stop.is_set():
                check(self._nc)
                await self.look(watch.placement())
                await unless(stop, watch.changed(LOOK_SECONDS))
                if time.monotonic() - read_at >= LOOK_SECONDS:
                    read_at = time.monotonic()
                    with contextlib.suppress(ServerError, nats.errors.Error):
                        await watch.refresh()

    async def look(self, placement: placing.Placement) -> None:
        """Makes what is missing of what boards may serve now."""
        models = model_status.statuses(placement.boards)
        self._tried_at = {model: at for model, at in self._tried_at.items() if model in models}
        await self.make(models)

    async def make(self, models: Iterable[str]) -> list[str]:
        """Makes what is missing of these models' queues; a line for each that was made. What cannot be made is logged,
        and tried again in AGAIN_SECONDS at the earliest."""
        lines: list[str] = []
        for model in models:
            if model in self._known or time.monotonic() - self._tried_at.get(model, -AGAIN_SECONDS) < AGAIN_SECONDS:
                continue
            if len(self._known) >= MAX_QUEUES:
                self._refuse(model, f"there are {MAX_QUEUES} already")
                continue
            try:
                lines += await self._ensure(model)
                self._known.add(model)
            except (ServerError, nats.errors.Error) as error:
                self._refuse(model, str(error))
        return lines

    async def _ensure(self, model: str) -> list[str]:
        """With as many bytes as the server has left for it, where that is less. Raises ServerError."""
        stream = subjects.turns_stream(model)
        if None not in [await jetstream.consumer(self._nc, stream, lane) for lane in LANES]:
            return []
        limits = replace(self._limits, max_queued_bytes=self._limits.max_announced_bytes)
        while True:
            try:
                lines = await topology.ensure_queue(self._nc, model, limits)
            except NoRoom:
                limits = replace(limits, max_queued_bytes=limits.max_queued_bytes // 2)
                if limits.max_queued_bytes < MIN_QUEUED_BYTES:
                    raise
                continue
            for line in lines:
                log.info("%s", line)
            if limits.max_queued_bytes < self._limits.max_announced_bytes:
                log.warning("a small queue, for want of room model=%s bytes=%d", model, limits.max_queued_bytes)
            return lines

    def _refuse(self, model: str, reason: str) -> None:
        self._tried_at[model] = time.monotonic()
        log.warning("no queue for what a board may serve model=%s reason=%s", model, reason)


def locked_models(lock_file: str | None) -> list[str]:
    """The models of a lock file; none without one. Raises CatalogueError."""
    if lock_file is None:
        return []
    return [name for name, locked in read_lock(Path(lock_file).expanduser()).items() if locked.kind == "model"]


async def keep_queues(address: Address, limits: Limits, stop: asyncio.Event) -> None:
    """On a connection of its own, an operator's, until `stop`; begun anew where that is lost."""
    await kept(address, NAME, lambda nc: Queues(nc, limits).run(stop), stop)
