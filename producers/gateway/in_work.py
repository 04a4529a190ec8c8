"""The turns that were posted to this gateway and have no end yet, also those that nobody reads any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import nats.errors

from broker.answer import Answer
from broker.client import Client
from broker.errors import TurnpikeError

LOOK_SECONDS = 1.0
"""Between two looks at how many tokens there are."""
NUM_LOOKS = 5
"""That a rate is of."""
MAX_LEFT = 1000
"""Turns whose readers have left and that are followed to their ends."""

Read = Callable[[Answer], Awaitable[object]]
"""Reads an answer to its end, and does what is to be done then."""

log = logging.getLogger(__name__)


@dataclass
class Entry:
    """A turn in work."""

    client: Client
    answer: Answer
    model: str | None = None
    """Where the answer itself does not know it."""
    begun_at: float = field(default_factory=time.perf_counter)
    looks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=NUM_LOOKS))

    @property
    def is_told(self) -> bool:
        """Whether anything of the answer has arrived."""
        return self.answer.started is not None or self.answer.num_tokens > 0

    @property
    def goes_on(self) -> bool:
        """Whether the turn has no end that is known here: one that is read by its id was published elsewhere."""
        return self.answer.may_run or (self.model is not None and self.answer.end is None)

    def look(self, now: float) -> None:
        """Takes note of how many tokens there are."""
        if self.is_told:
            self.looks.append((now, self.answer.num_tokens))

    def tokens_per_second(self) -> float | None:
        """Lately; None before there is anything to reckon with."""
        if len(self.looks) < 2:
            return None
        (before, first), (now, last) = self.looks[0], self.looks[-1]
        return max(0, last - first) / (now - before) if now > before else None

    async def told(self) -> dict[str, Any]:
        """What its own client is told of it."""
        answer, started = self.answer, self.answer.started
        found: dict[str, Any] = {
            "turn": answer.turn.id,
            "model": self.model or answer.model,
            "state": "working" if self.is_told else "waiting",
            "seconds": time.perf_counter() - self.begun_at,
            "tokens": answer.num_tokens,
            "tokens_per_second": self.tokens_per_second(),
            "worker": started.worker if started is not None else None,
        }
        # No place is no reason not to tell of the turn.
        with contextlib.suppress(TurnpikeError, nats.errors.Error):
            if not self.is_told and (place := await answer.place()) is not None:
                found |= {"turns_ahead": place.turns_ahead, "seconds_ahead": place.seconds}
        return found


class InWork:
    """Noted when they are published, forgotten once they have ended: a turn that goes on without its reader is followed
    to its end."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._group: asyncio.TaskGroup | None = None
        self._num_left = 0

    async def run(self) -> None:
        """Looks at them, and follows those that were left, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                while True:
                    now = time.perf_counter()
                    for entry in self._entries.values():
                        entry.look(now)
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                self._group = None

    def of(self, client: Client) -> list[Entry]:
        """That client's, each turn once, the oldest first."""
        found = {one.answer.turn.id: one for one in self._running() if one.client.name == client.name}
        return list(found.values())

    def num_others(self, client: Client) -> int:
        """How many are of other clients."""
        return sum(one.client.name != client.name for one in self._running())

    def _running(self) -> list[Entry]:
        return [one for one in self._entries.values() if one.answer.end is None]

    def knows(self, client: Client, turn: str) -> bool:
        """Whether it is noted."""
        return any(one.answer.turn.id == turn for one in self.of(client))

    def begin(self, client: Client, *answers: Answer, model: str | None = None) -> None:
        """Somebody reads them; `model` where they do not know their own."""
        for answer in answers:
            self._entries[id(answer)] = Entry(client, answer, model)

    def leave(self, *answers: Answer, read: Read | None = None) -> None:
        """Their reader is done with them; those that go on are followed, and with `read`, by it, also those that have
        ended."""
        for answer in answers:
            self._leave(answer, read or _read)

    def _leave(self, answer: Answer, read: Read) -> None:
        entry = self._entries.pop(id(answer), None)
        is_wanted = entry is not None and (entry.goes_on or (read is not _read and answer.end is not None))
        if entry is None or not is_wanted or self._group is None or self._num_left >= MAX_LEFT:
            return
        if read is _read and self.knows(entry.client, answer.turn.id):
            return
        reading = entry.client.follow(answer.turn.id)
        followed = Entry(entry.client, reading, entry.model or answer.model, entry.begun_at)
        self._entries[id(reading)] = followed
        self._num_left += 1
        self._group.create_task(self._follow(followed, read))

    async def _follow(self, entry: Entry, read: Read) -> None:
        reading = entry.answer
        try:
            await read(reading)
        except (TurnpikeError, nats.errors.Error) as error:
            log.info("turn not followed turn=%s error=%s", reading.turn.id, error)
        except Exception:
            log.exception("! turn not followed turn=%s", reading.turn.id)
        finally:
            self._num_left -= 1
            self._entries.pop(id(reading), None)
            await reading.close()


async def _read(answer: Answer) -> None:
    async for _ in answer:
        pass
