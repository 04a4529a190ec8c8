"""Whether a turn is a job for the engine: not over, not cancelled, not late, and with a prompt that it can compute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.errors import TurnRejected
from broker.messages import End, Failed, Turn
from workers.engine.events import Job
from workers.kv.fetcher import Offer
from workers.prompts.history import Prompt
from workers.turns.jobs import JobMaker
from workers.turns.ports import CancelLookup, EnginePort, StateSource, TurnStore
from workers.turns.recent import RecentTurns
from workers.turns.understanding import Understanding
from workers.turns.work import Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admitted:
    """A turn that the engine may begin."""

    job: Job
    prompt: Prompt
    offer: Offer | None
    """What a peer has of its conversation."""


class Admission(Understanding):
    """Checks turns for the worker of that name, the cheap checks first. `interactive_wait` is in how many seconds a
    turn that is queued now would be seated: what is told to one that comes too late here."""

    def __init__(
        self,
        worker: str,
        store: TurnStore,
        cancels: CancelLookup,
        peers: StateSource,
        jobs: JobMaker,
        engine: EnginePort,
        recent: RecentTurns,
        interactive_wait: Callable[[], float],
    ) -> None:
        super().__init__(worker, store, cancels)
        self._peers = peers
        self._jobs = jobs
        self._engine = engine
        self._recent = recent
        self._interactive_wait = interactive_wait

    async def admit(self, work: Work) -> Admitted | End:
        """The turn's job, or the end that it comes to without being begun. Raises ServerError."""
        turn = work.turn
        if (end := await self.ended(work)) is not None:
            return end
        # Before the prompt: what the peer remembers of the conversation decides its tokens.
        offer = await self._peers.find(work.address.client, turn)
        try:
            job, prompt = await self._jobs.make(work)
        except TurnRejected as error:
            return Failed(error.code, error.detail, error.retryable, self._worker)
        late = self._too_late(turn, prompt)
        return late if late is not None else Admitted(job, prompt, offer)

    def _too_late(self, turn: Turn, prompt: Prompt) -> Failed | None:
        """Says at once that the deadline cannot be met, by the measured rates and the length of answers lately."""
        state = self._engine.snapshot
        if turn.deadline is None or not state.prefill_tokens_per_second or not state.decode_tokens_per_second:
            return None
        mean_tokens = self._recent.mean_tokens
        num_tokens = min(turn.sampling.max_tokens, mean_tokens if mean_tokens is not None else 1.0)
        needed = (len(prompt.tokens) - prompt.num_known) / state.prefill_tokens_per_second
        needed += num_tokens / state.decode_tokens_per_second
        left = turn.deadline - time.time()
        if needed <= left:
            return None
        detail = f"the answer would take about {needed:.1f} s, and the deadline is in {max(0.0, left):.1f} s"
        return Failed("overloaded", detail, True, self._worker, retry_after=self._interactive_wait())
