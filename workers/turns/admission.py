"""Whether a delivery is a turn to compute: understood, not over, not cancelled, not late, and a job for the engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from broker import codec, subjects
from broker.delivery import Delivery
from broker.errors import InvalidMessage, InvalidName, TurnRejected
from broker.messages import End, Failed, Turn
from broker.queued_ends import past_deadline, stopped
from broker.subjects import TurnAddress
from workers.engine.events import Job
from workers.kv.fetcher import Offer
from workers.prompts.history import Prompt
from workers.turns.jobs import JobMaker
from workers.turns.outcomes import Dead, Outcome, Over
from workers.turns.ports import CancelLookup, EnginePort, StateSource, TurnStore
from workers.turns.recent import RecentTurns
from workers.turns.work import Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Understood:
    """A delivery that is a turn, and has no end yet as far as is known."""

    address: TurnAddress
    turn: Turn


@dataclass(frozen=True)
class Admitted:
    """A turn that the engine may begin."""

    job: Job
    prompt: Prompt
    offer: Offer | None
    """What a peer has of its conversation."""


class Admission:
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
        self._worker = worker
        self._store = store
        self._cancels = cancels
        self._peers = peers
        self._jobs = jobs
        self._engine = engine
        self._recent = recent
        self._interactive_wait = interactive_wait

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
            turn = codec.decode(delivery.payload, Turn, delivery.headers)
            if turn.id != address.turn:
                raise InvalidMessage("id", f"{turn.id!r} is not the subject's turn {address.turn!r}")
        except InvalidMessage as error:
            return Dead(Failed("invalid_message", str(error), worker=self._worker))
        return Understood(address, turn)

    async def over(self, work: Work) -> End | None:
        """The end of a turn that was cancelled, or is late; None for one that is neither. Raises ServerError."""
        if (cancel := await self._cancels.of(work)) is not None:
            return stopped(cancel, work.queue_wait, self._worker)
        deadline = work.turn.deadline
        return past_deadline(self._worker) if deadline is not None and time.time() >= deadline else None

    async def admit(self, work: Work) -> Admitted | End:
        """The turn's job, or the end that it comes to without being begun. Raises ServerError."""
        turn = work.turn
        if (over := await self.over(work)) is not None:
            return over
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
