"""What a step's logits come to: the next token of a turn that answers, the log-probabilities of one that is scored.

It tells what was generated, and says of a turn that it is finished or rejected; it never takes one's slot.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from broker.errors import TurnRejected
from broker.messages import FinishReason, Score, TokenLogprob
from workers.engine.active import ActiveJob
from workers.engine.events import Event, Generated, Rejected
from workers.engine.protocol import PENDING, Engine, EngineLost, Span, TokenSampler
from workers.engine.sequence import Sequence
from workers.engine.slots import common_prefix
from workers.engine.thoughts import Thought
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText

log = logging.getLogger(__name__)

Ending = FinishReason | Rejected
"""Why a turn is over."""


def _nothing(sequence: Sequence, token: int) -> tuple[int, ...]:
    return ()


class Outputs:
    """Samples and scores. Belongs to the engine's thread; `emit` is given what was generated, and `take_back` leaves a
    job's slot with so many of its tokens at most, and tells with how many.

    Whatever goes wrong with a turn's sampler rejects that turn and nobody else's; only EngineLost is raised.
    """

    def __init__(
        self,
        engine: Engine,
        emit: Callable[[Event], None],
        take_back: Callable[[ActiveJob, int], int],
        canonical_chunk: int,
        clock: Callable[[], float],
        foresee: Callable[[Sequence, int], tuple[int, ...]] = _nothing,
    ) -> None:
        """`foresee` says what will be guessed to follow a sequence, if that token is its next."""
        self._engine = engine
        self._foresee = foresee
        self._take_back = take_back
        self._deliver = emit
        self._canonical_chunk = canonical_chunk
        self._clock = clock

    def replay(self, active: ActiveJob) -> FinishReason | None:
        """Brings the detokenizer to where the worker's was that began the answer; the reason why nothing is left to
        choose, where only the end was not written."""
        job, detokenizer = active.job, active.detokenizer
        if job.thinking is not None:
            has_grammar = job.gbnf is not None
            goes_on = has_grammar or (job.calls is not None and job.calls.is_forced)
            active.thought = Thought(
                job.thinking, self._engine.vocabulary, job.shown, has_grammar=has_grammar, goes_on=goes_on
            )
        for token in job.resumed:
            text = detokenizer.add(self._spelled(active, token))
            if active.thought is not None:
                active.thought.lets_begin(token)
                active.thought.take(token, text, is_cut=detokenizer.is_cut)
            if detokenizer.stopped:
                return "stop"
        return "length" if job.resumed and len(job.resumed) >= job.max_tokens else None

    def _spelled(self, active: ActiveJob, token: int) -> bytes:
        """What the token adds to the answer's text."""
        return self._engine.vocabulary.piece(token) or active.job.shown.get(token, b"")

    def open(self, active: ActiveJob) -> Ending | None:
        """Makes the sampler of a turn that has got its first slot."""
        return None if active.job.continuations else self._guarded(active, self._make_sampler)

    def take(self, active: ActiveJob, span: Span, rows: list[int]) -> Ending | None:
        """Makes of a turn's part of a step what there is to make of it: nothing within a prompt."""
        if active.job.continuations:
            return self._guarded(active, self._score, span, rows)
        if span.end < len(active.sequence.tokens):
            return None
        if len(rows) == 1:
            return self._guarded(active, self._choose, rows[-1])
        ending = self._guarded(active, self._verify, span, rows)
        self._drop_wrong_guesses(active, span)
        return ending

    def take_late(self, active: ActiveJob) -> Ending | None:
        """The token of a turn whose grammar was late, if it has come."""
        return self._guarded(active, self._choose, -1)

    def flush(self, active: ActiveJob) -> None:
        """Tells the text of a cancelled turn that was held back."""
        self._emit(active, active.detokenizer.finish(), (), ())

    def _guarded[*Ts](
        self, active: ActiveJob, work: Callable[[ActiveJob, *Ts], Ending | None], *arguments: *Ts
    ) -> Ending | None:
        try:
            return work(active, *arguments)
        except TurnRejected as error:
            return Rejected(active.id, error.code, error.detail, error.retryable)
        except EngineLost:
            raise
        except Exception as error:
            log.exception("turn failed in the engine turn=%s", active.id)
            return Rejected(active.id, "internal_error", type(error).__name__, retryable=True)

    # --- Choosing ---

    def _make_sampler(self, active: ActiveJob) -> None:
        job = active.job
        if active.sampler is not None:
            active.sampler.close()
        tokens, thought = active.sequence.tokens, active.thought
        answer = tokens[active.sequence.num_prompt_tokens :]
        grammar: HeldText | CallFollower | None = None
        if job.calls is not None:
            grammar = job.calls.follow(self._engine.vocabulary.piece)
            grammar.replay([*job.begun, *answer])
        elif job.gbnf is not None and not (thought is not None and thought.awaits_grammar):
            grammar = HeldText(
                job.gbnf, [*job.begun, *answer[thought.num_before_grammar if thought is not None else 0 :]]
            )
        foresee = functools.partial(self._foresee, active.sequence)
        active.sampler = self._engine.sampler(job.sampling, tokens, grammar, foresee, len(answer))

    def _next(self, active: ActiveJob, row: int) -> int:
        """The token that comes next: forced, or as it is sampled; PENDING where that is not known yet."""
        thought, index = active.thought, active.sequence.num_generated
        if thought is not None and thought.forced is not None:
            return thought.forced
        if thought is not None and thought.turned():
            self._make_sampler(active)
        assert active.sampler is not None
        token = active.sampler.sample(row, index)
        if thought is not None and not thought.lets_begin(token):
            self._make_sampler(active)
            token = active.sampler.sample(row, index)
        if thought is not None and self._is_end(token) and not thought.may_end():
            assert thought.forced is not None
            return thought.forced
        return token

    def _is_end(self, token: int) -> bool:
        return token != PENDING and (token < 0 or self._engine.vocabulary.is_end(token))

    def _choose(self, active: ActiveJob, row: int) -> FinishReason | None:
        """Samples the next token; the reason to finish, if there is one."""
        sequence, detokenizer = active.sequence, active.detokenizer
        assert active.sampler is not None
        vocabulary, num_top = self._engine.vocabulary, active.job.sampling.logprobs
        was_late = active.is_late
        token = active.sampler.poll() if was_late else self._next(active, row)
        sampler = active.sampler
        active.is_late = token == PENDING
        if active.is_late:
            return None
        if token < 0 or vocabulary.is_end(token):
            self._emit(active, detokenizer.finish(), (), ())
            return "stop"
        logprobs: tuple[TokenLogprob, ...] = ()
        if num_top is not None:
            logprobs = (self._logprob(sampler if was_late else None, row, token, num_top),)
        sequence.tokens.append(token)
        active.last_token_at = self._clock()
        active.first_token_at = active.first_token_at or active.last_token_at
        was_holding = detokenizer.is_holding
        text = detokenizer.add(self._spelled(active, token))
        if detokenizer.is_holding and (text or not was_holding):
            active.may_end_at = len(sequence.tokens) - 1
        if active.thought is not None:
            active.thought.take(token, text, is_cut=detokenizer.is_cut)
        is_last = sequence.num_generated >= active.job.max_tokens
        if is_last and not detokenizer.stopped:
            text += detokenizer.finish()
        self._emit(active, text, (token,), logprobs)
        if detokenizer.stopped:
            return "stop"
        if sampler.is_done:
            self._emit(active, detokenizer.finish(), (), ())
            return "stop"
        return "length" if is_last else None

    def _logprob(self, late: TokenSampler | None, row: int, token: int, num_top: int) -> TokenLogprob:
        """A late turn's logits are gone: its sampler has kept them."""
        found = late.logprob(token, num_top) if late is not None else self._engine.logprob(row, token, num_top)
        piece = self._engine.vocabulary.piece
        return TokenLogprob(
            found.token, found.logprob, found.top, piece(token), tuple(piece(top) for top, _ in found.top)
        )

    def _emit(self, active: ActiveJob, text: str, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]) -> None:
        if text or tokens:
            self._deliver(Generated(active.id, text, tokens, logprobs))

    # --- Guesses ---

    def _verify(self, active: ActiveJob, span: Span, rows: list[int]) -> FinishReason | None:
        """Chooses the next token, and goes on choosing as long as each is what was guessed and computed."""
        known = active.sequence.tokens
        num_known = len(known)
        for index, row in enumerate(rows):
            # One whose grammar is late has a token less than rows: the rest has to wait for it.
            if index and known[num_known:] != list(span.tokens[1 : index + 1]):
                break
            if (reason := self._choose(active, row)) is not None:
                return reason
        return None

    def _drop_wrong_guesses(self, active: ActiveJob, span: Span) -> None:
        """Leaves the slot with what is known, whatever became of the turn."""
        sequence = active.sequence
        num_right = common_prefix(list(span.tokens), sequence.tokens[span.start : span.end])
        sequence.num_computed = span.start + num_right
        if num_right < len(span.tokens):
            sequence.num_computed = self._take_back(active, sequence.num_computed)

    # --- Scoring ---

    def _score(self, active: ActiveJob, span: Span, rows: list[int]) -> FinishReason | None:
        """Notes what a continuation's tokens are worth; after its last one, its score."""
        tokens = active.sequence.tokens
        for position, row in enumerate(rows, max(span.first_output, span.start)):
            if position + 1 < len(tokens):
                following = tokens[position + 1]
                active.logprobs.append(self._engine.logprob(row, following, 0).logprob)
                active.is_greedy = active.is_greedy and self._engine.is_likeliest(row, following)
        return self._next_continuation(active) if span.end == len(tokens) else None

    def _next_continuation(self, active: ActiveJob) -> FinishReason | None:
        """Notes a continuation's score and goes back to where the next one leaves the prompt."""
        sequence, job = active.sequence, active.job
        known, begin = job.continuations[len(active.scores)]
        logprobs, active.logprobs = tuple(active.logprobs), []
        active.scores.append(Score(sum(logprobs), len(logprobs), active.is_greedy, begin, known[begin:], logprobs))
        active.is_greedy = True
        if len(active.scores) == len(job.continuations):
            return "stop"
        known, begin = job.continuations[len(active.scores)]
        keep = min(begin - 1, common_prefix(sequence.tokens, list(known)))
        if self._canonical_chunk:
            keep -= keep % self._canonical_chunk
        sequence.num_computed = self._take_back(active, keep)
        sequence.tokens = list(known)
        sequence.num_prompt_tokens = len(known)
        sequence.first_output = begin - 1
        sequence.num_to_come = job.num_to_score(len(active.scores) + 1)
        return None
