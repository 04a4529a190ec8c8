"""The turns in the worker's hands, and which of them an event of the engine is for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from broker.delivery import Delivery
from broker.messages import Turn
from broker.queued_ends import concerns
from broker.subjects import CancelAddress, TurnAddress
from workers.engine.events import Event, Lost
from workers.turns.work import Work


class TurnsInHand:
    """From `begin` to `end` a turn is here, and hears its engine's events. Belongs to the asyncio loop."""

    def __init__(self) -> None:
        self._work: dict[str, Work] = {}
        self._numbers = itertools.count()
        self.lost_reason: str | None = None
        """Why the engine is gone; None while it is there."""

    def __len__(self) -> int:
        return len(self._work)

    def __iter__(self) -> Iterator[Work]:
        """Those of this moment: others may come and go meanwhile."""
        return iter(list(self._work.values()))

    def begin(self, delivery: Delivery, address: TurnAddress, turn: Turn) -> Work:
        """Takes a turn in hand."""
        # Not the turn's id alone: a worker that was frozen finds its turn delivered anew, to itself among others,
        # before the fence tells it that it has lost it.
        work = Work(delivery, address, turn, job=f"{turn.id}/{next(self._numbers)}")
        self._work[work.job] = work
        return work

    def end(self, work: Work) -> None:
        """Lets go of a turn: what the engine still tells of it is for nobody."""
        del self._work[work.job]

    def holds(self, client: str, turn: str) -> bool:
        """Whether a client's turn of that id is in hand."""
        return any((work.address.client, work.turn.id) == (client, turn) for work in self._work.values())

    def concerned(self, address: CancelAddress) -> list[Work]:
        """The turns that a cancel of that subject means."""
        return [work for work in self._work.values() if concerns(address, work.address.client, work.turn)]

    def route(self, events: Iterable[Event]) -> None:
        """Gives each event to its turn; that the engine is lost, to all."""
        for event in events:
            if isinstance(event, Lost):
                self.lost_reason = event.reason
                for work in self._work.values():
                    work.events.put_nowait(event)
            elif (concerned := self._work.get(event.job)) is not None:
                concerned.events.put_nowait(event)
