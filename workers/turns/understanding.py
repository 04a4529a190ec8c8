"""Whether a delivery is a turn that has no end yet: understood, not over, not cancelled, not late."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from broker import codec, subjects
from broker.delivery import Delivery
from broker.errors import InvalidMessage, InvalidName
from broker.messages import End, Failed, Turn
from broker.priorities import ASIDE, DEFAULT_PRIORITY, lane_of
from broker.queued_ends import past_deadline, stopped
from broker.subjects import TurnAddress
from workers.prompts.off_loop import MAX_READ, off_loop
from workers.turns.outcomes import Dead, Outcome, Over
from workers.turns.ports import CancelLookup, TurnStore
from workers.turns.work import Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Understood:
    """A delivery that is a turn, and has no end yet as far as is known."""

    address: TurnAddress
    turn: Turn


class Understanding:
    """Of the worker of that name."""

    def __init__(self, worker: str, store: TurnStore, cancels: CancelLookup) -> None:
        self._worker = worker
        self._store = store
        self._cancels = cancels

    async def understand(self, delivery: Delivery) -> Understood | Outcome:
        """The turn that was delivered, or what else its bytes come to. Raises ServerError."""
        try:
            address = subjects.parse_turn(delivery.subject)
        except InvalidName:
            # Nobody to answer: not a subject that a producer may publish to.
            log.warning("! turn dropped subject=%r", delivery.subject[:200])
            return Over()
        if delivery.num_delivered > 1 and await self._store.read_end(address.client, address.turn):
            return Over()
        try:
            payload, headers = delivery.payload, delivery.headers
            turn = await off_loop(len(payload), lambda: codec.decode(payload, Turn, headers), at_most=MAX_READ)
            if turn.id != address.turn:
                raise InvalidMessage("id", f"{turn.id!r} is not the subject's turn {address.turn!r}")
            if address.priority == ASIDE != lane_of(turn.kind, DEFAULT_PRIORITY):
                raise InvalidMessage("kind", f"{turn.kind!r} takes a slot, and was queued among turns that take none")
        except InvalidMessage as error:
            return Dead(Failed("invalid_message", str(error), worker=self._worker))
        return Understood(address, turn)

    async def ended(self, work: Work) -> End | None:
        """The end that a turn comes to without being looked at: it was cancelled, or is late. Raises ServerError."""
        if (cancel := await self._cancels.of(work)) is not None:
            return stopped(cancel, work.queue_wait, self._worker)
        if work.turn.deadline is not None and time.time() >= work.turn.deadline:
            return past_deadline(self._worker)
        return None
