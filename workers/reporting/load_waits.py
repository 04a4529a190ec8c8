"""Turns that had waited for their worker's model to be loaded: how many, and how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Stored(Protocol):
    """`Delivery`."""

    @property
    def stored_at(self) -> float:
        """Seconds since the epoch."""
        ...

    @property
    def num_delivered(self) -> int:
        """1 for the first time."""
        ...


class LoadWaits:
    """Of one worker. A turn that came before the worker served had waited for it; how it came to another one before, or
    back to this one, is no wait for a load."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` is the wall's: turns are stamped by the server's."""
        self._clock = clock
        self._served_at: float | None = None
        self.num_turns = 0
        self.seconds = 0.0
        """Of all of them together."""

    def serves(self) -> None:
        """From now on turns are taken."""
        self._served_at = self._clock()

    def ended(self, delivery: Stored) -> float | None:
        """A turn has its end: the seconds of its wait, which are counted; None where it did not wait for this load."""
        seconds = 0.0 if self._served_at is None else self._served_at - delivery.stored_at
        if seconds <= 0 or delivery.num_delivered > 1:
            return None
        self.num_turns += 1
        self.seconds += seconds
        return seconds
