"""A turn in the worker's hands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.delivery import Delivery
from broker.messages import Cancel, Turn
from broker.subjects import TurnAddress
from workers.engine.events import Event
from workers.metrics import TurnNotes


@dataclass
class Work:
    """A turn in the worker's hands."""

    delivery: Delivery
    address: TurnAddress
    turn: Turn
    job: str
    """What the engine knows it by: a turn can come back here while its first delivery is still being given up."""
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    """Bounded by the turn's max_tokens."""
    cancel: Cancel | None = None
    cancelled_at: float = 0.0
    """By the monotonic clock."""
    notes: TurnNotes = field(default_factory=TurnNotes)
    on_cancel: Callable[[], object] | None = None
    """Stops what is under way for the turn before the engine hears of it."""

    def cancelled_by(self, cancel: Cancel) -> None:
        if self.cancel is None:
            self.cancel, self.cancelled_at = cancel, time.perf_counter()
            if self.on_cancel is not None:
                self.on_cancel()
