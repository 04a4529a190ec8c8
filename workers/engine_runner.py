"""The engine's thread beside the asyncio loop: started with the worker, its events brought over, stopped at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from workers.engine.events import Event
from workers.engine.loop import EngineLoop
from workers.kv.cache import OffloadCache
from workers.turns.in_hand import TurnsInHand

log = logging.getLogger(__name__)


class EngineRunner:
    """Runs one engine for the turns in hand. `park_seconds` is how long what is in memory may take to disk."""

    def __init__(self, loop: EngineLoop, cache: OffloadCache, in_hand: TurnsInHand, park_seconds: float) -> None:
        self._loop = loop
        self._cache = cache
        self._in_hand = in_hand
        self._park_seconds = park_seconds

    @property
    def num_slots(self) -> int:
        """How many turns it computes at once."""
        return self._loop.engine.num_slots

    @property
    def lost_reason(self) -> str | None:
        """Why the engine is gone; None while it is there."""
        return self._in_hand.lost_reason

    def start(self, stop: asyncio.Event) -> None:
        """Starts the thread. Its events are for the turns in hand; `stop` is set where the engine is lost."""
        loop = asyncio.get_running_loop()

        def hear(events: list[Event]) -> None:
            self._in_hand.route(events)
            if self.lost_reason is not None:
                stop.set()

        def deliver(events: list[Event]) -> None:
            self.on_round(events)
            with contextlib.suppress(RuntimeError):  # the asyncio loop is closed: nobody is left to tell
                loop.call_soon_threadsafe(hear, events)

        self._loop.start(deliver)

    def on_round(self, events: list[Event]) -> None:
        """Called in the engine's thread with what a round told. For whoever measures by a class of his own."""

    def stop(self, is_drained: bool) -> None:
        """Ends the thread. What is in memory goes to disk, where there is one and nobody is in a hurry. Blocks."""
        self._loop.stop()
        if self.lost_reason is None and is_drained and self._cache.has_disk:
            self._loop.offload_all()
            if num_kept := self._cache.flush(self._park_seconds):
                log.info("on disk conversations=%d", num_kept)
