"""A turn in the worker's hands, and what is noted of it on its way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from broker.delivery import Delivery
from broker.messages import Cancel, Turn
from broker.subjects import TurnAddress
from workers.engine.events import Event


@dataclass
class TurnNotes:
    """What is noted of a turn on its way: `first_token_at` by the wall clock, seconds since the epoch."""

    first_token_at: float | None = None
    num_resumed_tokens: int = 0
    num_dropped: int = 0
    """Messages that were left out of the prompt."""
    joules: float | None = None
    fetch_seconds: float | None = None
    """For the state to come from another worker; None where none came."""
    broken_calls: Mapping[str, int] = field(default_factory=dict)
    """How many calls of tools came as text, by why."""

    def dropped(self, num_messages: int) -> None:
        """So many messages more were left out of the prompt."""
        self.num_dropped += num_messages

    def resumed(self, num_tokens: int) -> None:
        """So many tokens of the answer were sent by an earlier worker."""
        self.num_resumed_tokens = num_tokens

    def fetched(self, seconds: float | None) -> None:
        """The state came from another worker after so long; None where none came."""
        self.fetch_seconds = seconds

    def token_sent(self) -> None:
        """A token is sent just now: the first one is noted."""
        if self.first_token_at is None:
            self.first_token_at = time.time()

    def broke(self, calls: Mapping[str, int]) -> None:
        """So many calls of tools came as text, by why."""
        self.broken_calls = calls

    def drew(self, joules: float | None) -> None:
        """The turn's share of what the node drew."""
        self.joules = joules


@dataclass
class Work:
    """A turn from its delivery to its settlement."""

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
    _on_cancel: Callable[[], object] | None = None

    def cancelled_by(self, cancel: Cancel) -> None:
        """Notes the first cancel that concerns the turn; further ones change nothing."""
        if self.cancel is None:
            self.cancel, self.cancelled_at = cancel, time.perf_counter()
            if self._on_cancel is not None:
                self._on_cancel()

    @contextlib.contextmanager
    def cancelling(self, stop: Callable[[], object]) -> Iterator[None]:
        """While it is entered a cancel calls `stop` too, which ends what is under way before the engine hears of the
        turn."""
        self._on_cancel = stop
        try:
            yield
        finally:
            self._on_cancel = None

    @property
    def queue_wait(self) -> float:
        """Seconds since the turn was stored in the queue, by the server's clock and ours."""
        return max(0.0, time.time() - self.delivery.stored_at)

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline, 0 behind it; None for a turn without one."""
        return None if self.turn.deadline is None else max(0.0, self.turn.deadline - time.time())
