"""A turn of texts in a worker: understood, tokenised, computed among others, and its end with the vectors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from broker.delivery import Delivery
from broker.errors import TurnRejected
from broker.messages import Done, Failed, Timings, Usage
from broker.priorities import BATCH
from broker.queued_ends import stopped
from workers.embedding.loop import EmbeddingLoop
from workers.embedding.packing import EmbedJob
from workers.embedding.protocol import Tokens
from workers.embedding.texts import TextReader, embeddings
from workers.engine.protocol import EngineError
from workers.turns.life import TurnLife
from workers.turns.outcomes import Answered, Outcome, Returned
from workers.turns.understanding import Understanding, Understood
from workers.turns.work import Work

MAX_WAITED_FOR = 8
"""Texts of a turn that somebody waits for, as for a question's vector: more are a list, whatever its priority."""


@dataclass(frozen=True)
class EmbeddingTurns(TurnLife):
    """Of turns whose texts become vectors."""

    understanding: Understanding
    reader: TextReader
    loop: EmbeddingLoop

    async def _understand(self, delivery: Delivery) -> Understood | Outcome:
        return await self.understanding.understand(delivery)

    def _drop(self, work: Work) -> None:
        self.loop.cancel(work.job)

    async def _answer(self, work: Work) -> Outcome:
        if (end := await self.understanding.ended(work)) is not None:
            return Answered(end)
        try:
            texts = await asyncio.to_thread(self.reader.tokens, work.turn)
        except TurnRejected as error:
            return Answered(Failed(error.code, error.detail, error.retryable, self.worker))
        if self.in_hand.lost_reason is not None:
            return Returned()
        writer = self.writer(work.address)
        if (dead := await self._start(work, writer, sum(map(len, texts)))) is not None:
            return dead
        try:
            return await self._compute(work, texts, writer.attempt, writer.num_chunks)
        except asyncio.CancelledError:
            await self._hand_back(work, writer)
            raise

    async def _compute(self, work: Work, texts: tuple[Tokens, ...], attempt: int, num_chunks: int) -> Outcome:
        waited = work.queue_wait
        is_batch = work.address.priority == BATCH or len(texts) > MAX_WAITED_FOR
        job = EmbedJob(work.job, texts, is_batch=is_batch)
        computed = asyncio.wrap_future(self.loop.submit(job))
        try:
            with work.cancelling(lambda: self.loop.cancel(job.id)):
                if work.cancel is not None:
                    self.loop.cancel(job.id)
                async with asyncio.timeout(work.seconds_left):
                    await asyncio.shield(computed)
        except TimeoutError:
            detail = "the deadline passed while the turn was computed"
            return Answered(Failed("deadline", detail, False, self.worker, attempt))
        except EngineError:
            return Returned()
        if not job.is_done:
            if work.cancel is None:
                return Returned()
            return Answered(stopped(work.cancel, waited, self.worker))
        return Answered(await asyncio.to_thread(self._done, work, job, waited, attempt, num_chunks))

    def _done(self, work: Work, job: EmbedJob, waited: float, attempt: int, num_chunks: int) -> Done:
        dimension = work.turn.dimensions or self.loop.embedder.dimension
        return Done(
            finish_reason="stop",
            text="",
            tokens=(),
            usage=Usage(job.num_tokens, 0, 0),
            timings=Timings(waited, job.seconds, 0.0),
            worker=self.worker,
            attempt=attempt,
            num_chunks=num_chunks,
            embeddings=embeddings(job.vectors, dimension),
        )
