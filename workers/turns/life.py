"""A turn from its delivery to its settlement, whatever it is answered with; what goes wrong with one goes wrong for it
alone."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import nats.errors

from broker.delivery import Delivery
from broker.errors import Fenced, PublishError, ServerError
from broker.messages import Failed
from broker.subjects import TurnAddress, is_aside
from workers.turns.in_hand import TurnsInHand
from workers.turns.outcomes import Dead, Faulted, Outcome, TakenOver
from workers.turns.ports import Writer
from workers.turns.recent import RecentTurns
from workers.turns.settlement import Settlement
from workers.turns.understanding import Understood
from workers.turns.work import Work

DEATH_STARTS = 3
"""A turn that was begun so often and never finished is not begun again: it may be what kills workers."""
HAND_BACK_SECONDS = 1.0
"""How long a turn that is handed back waits for its reply to say so."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TurnLife(ABC):
    """Handles any number of turns at once. What they are answered with is said by who derives from it."""

    in_hand: TurnsInHand
    settlement: Settlement
    recent: RecentTurns
    writer: Callable[[TurnAddress], Writer]
    """Makes the writer of a turn's reply."""
    worker: str
    fingerprint: str
    """Of the model file: what another worker may go on with."""

    @abstractmethod
    async def _understand(self, delivery: Delivery) -> Understood | Outcome:
        """The turn that was delivered, or what else its bytes come to. Raises ServerError."""

    @abstractmethod
    async def _answer(self, work: Work) -> Outcome:
        """What a turn comes to. Raises Fenced."""

    @abstractmethod
    def _drop(self, work: Work) -> None:
        """Nothing more is computed of a turn."""

    async def handle(self, delivery: Delivery) -> None:
        """Answers and settles a delivery. Cancelled, it hands the turn back."""
        started = time.perf_counter()
        try:
            await self._serve(delivery)
        except asyncio.CancelledError:
            if not delivery.is_settled:
                await delivery.hand_back()
            raise
        except (nats.errors.Error, ServerError, PublishError) as error:
            log.warning("↻ turn left to redelivery subject=%s error=%s", delivery.subject, error)
        except Exception as error:
            log.exception("! turn failed subject=%s", delivery.subject)
            if not delivery.is_settled:
                await self.settlement.settle(delivery, Faulted(error))
        finally:
            if is_aside(delivery.subject):
                self.recent.took_no_slot()
            else:
                self.recent.took(time.perf_counter() - started)

    async def _serve(self, delivery: Delivery) -> None:
        found = await self._understand(delivery)
        if not isinstance(found, Understood):
            await self.settlement.settle(delivery, found)
            return
        work = self.in_hand.begin(delivery, found.address, found.turn)
        try:
            outcome = await self._answer(work)
        except Fenced:
            log.warning("⊘ turn given up, another worker has it turn=%s", work.turn.id)
            outcome = TakenOver()
        finally:
            self.in_hand.end(work)
            self._drop(work)
        await self.settlement.settle(delivery, outcome, work.turn, work.notes)

    async def _start(
        self, work: Work, writer: Writer, num_prompt_tokens: int, *, grammar: str = "", can_resume: bool = False
    ) -> Dead | None:
        """Says in the reply that the turn is begun; that it is dead, where it was begun too often."""
        started = await writer.start(
            self.fingerprint, grammar=grammar, can_resume=can_resume, num_prompt_tokens=num_prompt_tokens
        )
        work.notes.resumed(len(writer.resumed_tokens))
        if started.num_starts > DEATH_STARTS:
            detail = f"the turn was begun {started.num_starts - 1} times and never finished"
            return Dead(Failed("poison", detail, worker=self.worker), writer.workers)
        log.info(
            "→ turn=%s client=%s prompt_tokens=%d resumed_tokens=%d attempt=%d",
            work.turn.id,
            work.address.client,
            num_prompt_tokens,
            len(writer.resumed_tokens),
            started.attempt,
        )
        return None

    async def _hand_back(self, work: Work, writer: Writer) -> None:
        """Says in the reply that this start was no crash, where the server answers soon."""
        try:
            await asyncio.wait_for(writer.hand_back(), HAND_BACK_SECONDS)
        except Fenced:
            work.delivery.forget()
        except (nats.errors.Error, ServerError, TimeoutError) as error:
            log.warning("not handed back in the reply turn=%s error=%s", work.turn.id, error)
