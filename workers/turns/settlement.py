"""How a delivery is settled, once, by its outcome."""

from __future__ import annotations

import contextlib
import logging
from typing import Protocol

import nats.errors

from broker import codec, subjects
from broker.delivery import Delivery
from broker.errors import PublishError, ServerError
from broker.messages import DeadLetter, Done, End, Failed, Turn
from workers.turns.outcomes import Answered, Dead, Faulted, Outcome, Over, Returned, TakenOver
from workers.turns.ports import TurnStore
from workers.turns.recent import RecentTurns
from workers.turns.work import TurnNotes

MAX_FAULTS = 3
"""Deliveries; from the next one on a fault of ours is the turn's end."""
FAULT_SECONDS = 2.0
"""Before a turn is delivered again that a fault of ours was met with."""

log = logging.getLogger(__name__)


class TurnReport(Protocol):
    """Who is told what a turn came to. `Reporter` is one."""

    def turn(self, delivery: Delivery, turn: Turn | None, end: End, notes: TurnNotes) -> None:
        """A turn has its end by this worker; `turn` is None where its bytes were not understood."""
        ...


class Settlement:
    """Settles deliveries for the worker of that name.

    A dead letter is stored before the turn's end, and the end before the acknowledgement: a death between two of them
    costs a redelivery, not an answer.
    """

    def __init__(self, worker: str, store: TurnStore, report: TurnReport, recent: RecentTurns) -> None:
        self._worker = worker
        self._store = store
        self._report = report
        self._recent = recent

    async def settle(
        self, delivery: Delivery, outcome: Outcome, turn: Turn | None = None, notes: TurnNotes | None = None
    ) -> None:
        """Settles a delivery. Raises ServerError, PublishError: then it is not settled, and comes back by itself."""
        match outcome:
            case Answered(end=end):
                await self._end(delivery, end, turn, notes or TurnNotes())
            case Dead(failed=failed, workers=workers):
                await self._bury(delivery, failed, workers)
                await self._end(delivery, failed, turn, notes or TurnNotes())
            case Over():
                await delivery.ack()
            case Returned():
                await delivery.hand_back()
            case TakenOver():
                delivery.forget()
            case Faulted(error=error):
                await self._retry(delivery, error)

    async def _end(self, delivery: Delivery, end: End, turn: Turn | None, notes: TurnNotes) -> None:
        address = subjects.parse_turn(delivery.subject)
        is_ours = await self._store.write_end(address, end)
        await delivery.ack()
        if is_ours:
            self._report.turn(delivery, turn, end, notes)
            if turn is None or turn.kind != "prompt":
                self._recent.ended(end)
        match end:
            case Done(finish_reason=reason, usage=usage):
                log.info("← turn=%s reason=%s tokens=%d", address.turn, reason, usage.completion_tokens)
            case Failed(code=code):
                log.info("! turn=%s code=%s", address.turn, code)

    async def _bury(self, delivery: Delivery, failed: Failed, workers: tuple[str, ...]) -> None:
        letter = DeadLetter(
            delivery.subject,
            f"{failed.code}: {failed.detail}",
            delivery.num_delivered,
            delivery.payload,
            delivery.headers.get(codec.CONTENT_TYPE),
            workers,
        )
        await self._store.bury(letter, subjects.parse_turn(delivery.subject).model, delivery.sequence)

    async def _retry(self, delivery: Delivery, error: Exception) -> None:
        """After a fault of ours, which may pass: once more, but not for ever, as somebody waits for an end."""
        if delivery.num_delivered > MAX_FAULTS:
            detail = f"{type(error).__name__}, {delivery.num_delivered} times over: the worker's log says where"
            failed = Failed("internal_error", detail, True, self._worker)
            with contextlib.suppress(nats.errors.Error, ServerError, PublishError):
                await self.settle(delivery, Dead(failed))
        if not delivery.is_settled:
            await delivery.retry(FAULT_SECONDS)
