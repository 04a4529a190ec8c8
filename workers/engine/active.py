"""A job in the engine loop's hands, from its submission to its end. No I/O, no model."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.messages import CachedIn, FinishReason, Score
from workers.engine.checkpoints import BEFORE_END
from workers.engine.detokenizer import Detokenizer
from workers.engine.events import Computed, Finished, Job, Seated
from workers.engine.protocol import TokenSampler, Vocabulary
from workers.engine.sequence import Sequence
from workers.engine.slots import common_prefix
from workers.engine.thoughts import Thought
from workers.prompts.spoken import as_spoken


@dataclass(frozen=True)
class Place:
    """Where a job is computed, and what of it is there already."""

    slot: int
    num_cached: int
    cached_in: CachedIn | None = None
    """None where nothing is."""


@dataclass(eq=False)
class ActiveJob:
    """A job, its sequence, what chooses its tokens, and what it has cost so far. Seconds by the loop's clock."""

    job: Job
    sequence: Sequence
    detokenizer: Detokenizer
    sampler: TokenSampler | None = None
    """None before the job was seated, and of one that is scored."""
    thought: Thought | None = None
    """Of a job that has `thinking`, once its resumed tokens were read."""
    cached_in: CachedIn | None = None
    prefill_seconds: float = 0.0
    joules: float | None = None
    seated_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    scores: list[Score] = field(default_factory=list)
    """Of the continuations that are done with."""
    logprobs: list[float] = field(default_factory=list)
    """Of the continuation at hand; `is_greedy` so far too."""
    is_greedy: bool = True
    is_preempted: bool = False
    """It gave its slot to an interactive job, and goes on when there is one again."""
    may_end_at: int = -1
    """So many tokens come before what may turn out to be its stop text, of which the first token was just chosen."""
    is_late: bool = False
    """Its grammar has not said yet which token may follow: the others go on without it."""

    @classmethod
    def of(cls, job: Job, arrived_at: float) -> ActiveJob:
        """A job that was just submitted: nothing is computed, and it has no slot."""
        tokens = [*job.prompt, *job.resumed]
        num_prompt_tokens, first_output = len(job.prompt), len(tokens) - 1
        if job.continuations:
            known, begin = job.continuations[0]
            tokens, num_prompt_tokens, first_output = list(known), len(known), begin - 1
        sequence = Sequence(
            id=job.id,
            tokens=tokens,
            num_prompt_tokens=num_prompt_tokens,
            max_tokens=job.max_tokens,
            arrived_at=arrived_at,
            first_output=first_output,
            num_to_come=job.num_to_score(1),
        )
        return cls(job, sequence, Detokenizer(job.sampling.stop))

    @property
    def id(self) -> str:
        """The job's."""
        return self.job.id

    @property
    def tells_progress(self) -> bool:
        """Whether it is told how far its prompt is: before the answer's first token, and not when the prompt is
        computed once more, by this worker or another, behind what was told of the answer."""
        return self.job.tells_progress and not self.sequence.num_generated

    @property
    def num_cells(self) -> int:
        """The KV cells that it may come to need."""
        return len(self.job.prompt) + self.job.max_tokens

    @property
    def reusable_tokens(self) -> list[int]:
        """The tokens that need not be computed where they are in a cache; the last one is computed anyway. Of a scored
        continuation the logits are wanted, which no cache has."""
        if self.job.continuations:
            return self.sequence.tokens[: self.sequence.first_output + 1]
        return self.sequence.tokens

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Positions in its tokens that it, or another conversation, comes back to, in order: of one that is scored
        where its continuations part, else the prompt's, of which one is its end's."""
        if self.job.continuations:
            return (min(self._num_shared_with(index) for index in range(len(self.job.continuations))),)
        return self.job.boundaries or (len(self.job.prompt) - BEFORE_END,)

    def _num_shared_with(self, index: int) -> int:
        """How many tokens the first continuation and that one begin with that are not scored of it."""
        known, begin = self.job.continuations[index]
        return min(begin - 1, common_prefix(list(self.job.continuations[0][0]), list(known)))

    def take(self, place: Place) -> None:
        """Goes on from there: for the first time, or after it was preempted."""
        sequence = self.sequence
        sequence.slot, sequence.num_computed = place.slot, place.num_cached
        if self.is_preempted:
            self.is_preempted = False
            sequence.first_output = len(sequence.tokens) - 1
        else:
            sequence.num_cached, self.cached_in = place.num_cached, place.cached_in

    def seated(self, now: float, place: Place) -> Seated:
        """It is begun."""
        self.seated_at = now
        return Seated(self.id, place.num_cached, place.cached_in, now - self.sequence.arrived_at)

    def charge(self, seconds: float, watts: float | None, *, is_prefill: bool) -> None:
        """Adds its share of a step: `seconds` of it, at what the node drew meanwhile."""
        if is_prefill:
            self.prefill_seconds += seconds
        if watts is not None:
            self.joules = (self.joules or 0.0) + watts * seconds

    def computed(self, num_tokens: int, now: float) -> Computed:
        """How far its prompt is computed, with so many tokens."""
        return Computed(self.id, min(num_tokens, len(self.job.prompt)), now - self.seated_at)

    def finished(self, reason: FinishReason) -> Finished:
        """What it came to, when it ends now."""
        sequence, num_prompt = self.sequence, len(self.job.prompt)
        return Finished(
            job=self.job.id,
            reason=reason,
            num_prompt_tokens=num_prompt,
            num_cached=min(sequence.num_cached, num_prompt),
            num_generated=0 if self.job.continuations else sequence.num_generated,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.last_token_at - self.first_token_at,
            tokens=tuple(sequence.tokens),
            scores=tuple(self.scores),
            joules=self.joules,
            cached_in=self.cached_in if sequence.num_cached else None,
            num_drafted=sequence.num_drafted,
            num_accepted=sequence.num_accepted,
            stop=self.detokenizer.stop,
        )

    def num_before_stop(self, vocabulary: Vocabulary) -> int:
        """How many of its computed tokens come before the stop text that ended it: the conversation's next prompt has
        none of that text."""
        sequence = self.sequence
        answer = sequence.tokens[sequence.num_prompt_tokens :]
        detokenizer, text = Detokenizer(self.job.sampling.stop), ""
        for piece in map(vocabulary.piece, answer):
            text += detokenizer.add(piece)
            if detokenizer.stopped:
                break
        shared = common_prefix(as_spoken(vocabulary, answer, text), answer)
        return min(sequence.num_computed, sequence.num_prompt_tokens + shared)
