"""A turn from its delivery to its settlement: admitted, begun, prefetched, computed and streamed, settled."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from broker.delivery import Delivery
from workers.engine.events import Job
from workers.turns.admission import Admission, Admitted
from workers.turns.life import TurnLife
from workers.turns.outcomes import Answered, Outcome, Returned
from workers.turns.ports import EnginePort, Writer
from workers.turns.prefetch import Prefetch
from workers.turns.prompt_questions import PromptQuestions
from workers.turns.streaming import Streaming
from workers.turns.understanding import Understood
from workers.turns.work import Work


@dataclass(frozen=True)
class TurnHandler(TurnLife):
    """Of turns that are answered with text."""

    admission: Admission
    prefetch: Prefetch
    streaming: Streaming
    questions: PromptQuestions
    engine: EnginePort

    async def _understand(self, delivery: Delivery) -> Understood | Outcome:
        return await self.admission.understand(delivery)

    def _drop(self, work: Work) -> None:
        self.engine.cancel(work.job)

    async def _answer(self, work: Work) -> Outcome:
        if work.turn.kind == "prompt":
            return Answered(await self.admission.ended(work) or await self.questions.answer(work))
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

    async def _begin(self, work: Work, job: Job, writer: Writer) -> Job | Outcome:
        """Says in the reply that the turn is begun; the job goes on behind what an earlier worker has sent."""
        can_resume = work.turn.kind == "generate"
        dead = await self._start(work, writer, len(job.prompt), grammar=job.grammar_fingerprint, can_resume=can_resume)
        return dead or dataclasses.replace(job, resumed=writer.resumed_tokens)
