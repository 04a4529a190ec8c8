"""A turn from its delivery to its settlement: admitted, begun, prefetched, computed and streamed, settled."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import nats.errors

from broker.delivery import Delivery
from broker.errors import Fenced, PublishError, ServerError
from broker.messages import Failed
from broker.subjects import TurnAddress
from workers.engine.events import Job
from workers.turns.admission import Admission, Admitted, Understood
from workers.turns.in_hand import TurnsInHand
from workers.turns.outcomes import Answered, Dead, Faulted, Outcome, Returned, TakenOver
from workers.turns.ports import EnginePort, Writer
from workers.turns.prefetch import Prefetch
from workers.turns.prompt_questions import PromptQuestions
from workers.turns.recent import RecentTurns
from workers.turns.settlement import Settlement
from workers.turns.streaming import Streaming
from workers.turns.work import Work

DEATH_STARTS = 3
"""A turn that was begun so often and never finished is not begun again: it may be what kills workers."""
HAND_BACK_SECONDS = 1.0
"""How long a turn that is handed back waits for its reply to say so."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TurnHandler:
    """Handles any number of turns at once; what goes wrong with one goes wrong for that one alone."""

    in_hand: TurnsInHand
    admission: Admission
    prefetch: Prefetch
    streaming: Streaming
    questions: PromptQuestions
    settlement: Settlement
    engine: EnginePort
    recent: RecentTurns
    writer: Callable[[TurnAddress], Writer]
    """Makes the writer of a turn's reply."""
    worker: str
    fingerprint: str
    """Of the model file: what another worker may go on with."""

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
            self.recent.took(time.perf_counter() - started)

    async def _serve(self, delivery: Delivery) -> None:
        found = await self.admission.understand(delivery)
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
            self.engine.cancel(work.job)
        await self.settlement.settle(delivery, outcome, work.turn, work.notes)

    async def _answer(self, work: Work) -> Outcome:
        if work.turn.kind == "prompt":
            return Answered(await self.admission.over(work) or await self.questions.answer(work))
        admitted = await self.admission.admit(work)
        if not isinstance(admitted, Admitted):
            return Answered(admitted)
        writer = self.writer(work.address)
        begun = await self._begin(work, admitted.job, writer)
        if not isinstance(begun, Job):
            return begun
        try:
            return await self._compute(work, begun, admitted, writer)
        except asyncio.CancelledError:
            await self._hand_back(work, writer)
            raise

    async def _compute(self, work: Work, job: Job, admitted: Admitted, writer: Writer) -> Outcome:
        await self.prefetch.bring(work, job, admitted.offer)
        self.engine.submit(job)
        if work.cancel is not None:
            # It came before the engine knew the turn.
            self.engine.cancel(work.job)
        if self.in_hand.lost_reason is not None:
            return Returned()
        is_held = job.calls is not None
        return await self.streaming.stream(work, admitted.prompt, writer, admitted.offer, is_held=is_held)

    async def _hand_back(self, work: Work, writer: Writer) -> None:
        """Says in the reply that this start was no crash, where the server answers soon."""
        try:
            await asyncio.wait_for(writer.hand_back(), HAND_BACK_SECONDS)
        except Fenced:
            work.delivery.forget()
        except (nats.errors.Error, ServerError, TimeoutError) as error:
            log.warning("not handed back in the reply turn=%s error=%s", work.turn.id, error)

    async def _begin(self, work: Work, job: Job, writer: Writer) -> Job | Outcome:
        """Says in the reply that the turn is begun; the job goes on behind what an earlier worker has sent."""
        turn = work.turn
        can_resume = turn.kind == "generate"
        started = await writer.start(
            self.fingerprint,
            grammar=job.grammar_fingerprint,
            can_resume=can_resume,
            num_prompt_tokens=len(job.prompt),
        )
        work.notes.resumed(len(writer.resumed_tokens))
        if started.num_starts > DEATH_STARTS:
            detail = f"the turn was begun {started.num_starts - 1} times and never finished"
            return Dead(Failed("poison", detail, worker=self.worker), writer.workers)
        log.info(
            "→ turn=%s client=%s prompt_tokens=%d resumed_tokens=%d attempt=%d",
            turn.id,
            work.address.client,
            len(job.prompt),
            len(writer.resumed_tokens),
            started.attempt,
        )
        return dataclasses.replace(job, resumed=writer.resumed_tokens)
