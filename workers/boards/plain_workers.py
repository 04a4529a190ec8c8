"""Workers that no board has started, as boards see them: each is a board of one model that it keeps. So a model that is
served already is not loaded once more for its turns."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import discovery
from broker.discovery import OF_BOARD, WorkerInfo
from broker.messages.boards import ALWAYS, SERVING, BoardState, ModelOnBoard

LOOK_SECONDS = 5.0
FIRST_SECONDS = 0.25
"""For answers to the first look, before which nothing is loaded; …"""
ANSWER_SECONDS = 1.0
"""… to later ones: a worker on a busy node answers late."""
KEPT_SECONDS = 12.0
"""One that has not answered for so long is not there."""

log = logging.getLogger(__name__)


class PlainWorkers:
    """Found by discovery, again and again."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._seen: dict[str, tuple[WorkerInfo, float]] = {}
        """By name, and when it answered last, by the monotonic clock."""
        self.has_looked = False
        """Whether what is found is what there is."""

    async def run(self) -> None:
        """Looks until it is cancelled."""
        seconds = FIRST_SECONDS
        async with discovery.departures(self._nc, self._forget):
            while True:
                try:
                    self._note(await discovery.find_workers(self._nc, seconds))
                except nats.errors.Error as error:
                    log.debug("workers not looked for error=%s", error)
                self.has_looked, seconds = True, ANSWER_SECONDS
                await asyncio.sleep(LOOK_SECONDS)

    @property
    def boards(self) -> tuple[BoardState, ...]:
        """One for each that takes turns, or is about to. They have no memory for anything else, and no board's name."""
        now = time.monotonic()
        return tuple(
            BoardState(f"worker {name}", 0, 0, (_kept(worker),))
            for name, (worker, at) in self._seen.items()
            if now - at < KEPT_SECONDS
        )

    def _note(self, answers: Iterable[WorkerInfo]) -> None:
        now = time.monotonic()
        for one in answers:
            if one.load.state == discovery.DRAINING:
                self._forget(one.worker)
            elif OF_BOARD not in one.facts:
                self._seen[one.worker] = one, now
        self._seen = {name: found for name, found in self._seen.items() if now - found[1] < KEPT_SECONDS}

    def _forget(self, worker: str) -> None:
        self._seen.pop(worker, None)


def _kept(worker: WorkerInfo) -> ModelOnBoard:
    """Its model: never to go, never to be loaded, and no measure for those that load it."""
    load = worker.load
    return ModelOnBoard(
        worker.model, SERVING, 0, math.inf, num_slots=load.num_slots, turn_seconds=load.turn_seconds, pin=ALWAYS
    )
