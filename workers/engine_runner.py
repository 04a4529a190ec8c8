"""The engine's thread beside the asyncio loop: started with the worker, its events brought over, stopped at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping

from workers.engine.events import Event
from workers.engine.loop import EngineLoop
from workers.kv.cache import OffloadCache
from workers.kv.engine_port import num_tokens_here
from workers.kv.index import Key
from workers.turns.in_hand import TurnsInHand

log = logging.getLogger(__name__)


class EngineRunner:
    """Runs one engine for the turns in hand. `park_seconds` is how long what is in memory may take to files."""

    def __init__(self, loop: EngineLoop, cache: OffloadCache, in_hand: TurnsInHand, park_seconds: float) -> None:
        self._loop = loop
        self._cache = cache
        self._in_hand = in_hand
        self._park_seconds = park_seconds
        self._stopping = threading.Lock()

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

    def stop(self, is_drained: bool) -> Mapping[Key, int]:
        """Ends the thread. What is in memory goes to files, where there are any and nobody is in a hurry. How many
        tokens there were of each conversation then, in memory or in files. Blocks."""
        with self._stopping:  # who is in a hurry waits for who copies states out of the context
            self._loop.stop()
            if self.lost_reason is not None or not is_drained or not self._cache.has_files:
                return {}
            keys = {*self._loop.snapshot.resident, *self._cache.keys()}
            held = {key: num_tokens_here(self._loop, self._cache, key) for key in keys}
            num_kept = self._cache.flush(self._park_seconds, self._loop.idle_states())
            log.info("kept conversations=%d of=%d", num_kept, len(held))
            return held
