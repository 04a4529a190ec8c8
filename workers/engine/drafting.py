"""Speculation: a decode step's idle rows compute guesses at the tokens that follow. Pure, but for a draft model.

A guess is what followed the sequence's latest tokens where they stood before (prompt lookup), or what a draft model
proposes, where there is one and that is likelier right. Logits of its row are right if it is the very token that the
sampler chooses from the row before, and dropped if not: so the answer is the one that there would be without.

How many to guess follows from three things that are measured, none of which costs a step: how often a match of that
length was right in this sequence (also noted where nothing was guessed), what steps of so many rows take, and how long
a step may take (`gains`). What a draft model costs, and whether it is asked at all, is reckoned in `proposing`. What a
turn's grammar is known to forbid is not guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from workers.engine.acceptance import Acceptance
from workers.engine.draft_context import Asked, DraftContext, Proposal
from workers.engine.gains import chosen, gains_of
from workers.engine.ngrams import Ngrams, following
from workers.engine.proposing import Proposer
from workers.engine.protocol import Engine, Span, TokenSampler
from workers.engine.row_costs import RowCosts
from workers.engine.scheduler import Step
from workers.engine.sequence import Sequence

MAX_DRAFT = 15
"""Tokens that are guessed of a sequence at once."""
PRIORS = ((1, 0.02), (2, 0.25), (4, 0.45), (8, 0.65), (1 << 30, 0.75))
"""How likely a guess is right where a match has at most so many tokens, before the sequence has shown it; the first is
of no match at all, where the last token is guessed to come again."""
PROPOSED = ((0.3, 0.15), (0.6, 0.4), (0.85, 0.65), (1.01, 0.85))
"""The same where a draft model gives the token a probability below that."""


def _matched(num_tokens: int) -> int:
    return next(kind for kind, (most, _) in enumerate(PRIORS) if num_tokens <= most)


def _proposed(probability: float) -> int:
    return len(PRIORS) + next(kind for kind, (most, _) in enumerate(PROPOSED) if probability < most)


@dataclass(frozen=True)
class _Guess:
    """At the tokens from `begin` on, each of a kind whose acceptance is known."""

    begin: int = 0
    tokens: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()

    def cut(self, num_tokens: int) -> _Guess:
        return self if num_tokens >= len(self.tokens) else replace(self, tokens=self.tokens[:num_tokens])


@dataclass
class _Drafter:
    """One sequence's: what it repeats, what a draft model proposes, and how often that was right."""

    ngrams: Ngrams = field(default_factory=Ngrams)
    acceptance: Acceptance = field(default_factory=lambda: Acceptance([prior for _, prior in (*PRIORS, *PROPOSED)]))
    repeated: _Guess = _Guess()
    proposed: _Guess | None = None
    whole: _Guess = _Guess()
    """What was proposed, with what is forbidden of it."""
    num_computed: int = 0
    """Of the guess, in the step that runs."""

    @property
    def guess(self) -> _Guess:
        """Which is computed, if any is."""
        return self.repeated if self.proposed is None else self.proposed

    def repeats(self, tokens: list[int], num_tokens: int) -> _Guess:
        """What follows if they go on as they did before."""
        match = self.ngrams.find(tokens)
        num_matched = match.num_matched if match is not None else 0
        found = following(tokens, match, num_tokens) if match is not None else (tokens[-1],) * num_tokens
        # A match has grown by all guesses before, if those are right.
        return _Guess(len(tokens), found, tuple(_matched(num_matched + index) for index in range(num_tokens)))

    def likelihoods(self, guess: _Guess) -> list[float]:
        """How likely each of its tokens is right where all before it are."""
        return [self.acceptance.likelihood(kind) for kind, _ in zip(guess.kinds, guess.tokens, strict=False)]

    def chance(self, proposal: Proposal) -> float:
        """That all of what is proposed is right."""
        return math.prod(self.acceptance.likelihood(_proposed(one)) for one in proposal.probabilities)

    def learn(self, tokens: list[int], num_drafted: int) -> int:
        """Compares the guesses with what has come; how many of the drafted ones were right."""
        num_right = self._compare(self.guess, tokens, num_drafted)
        if self.proposed is not None:
            self._compare(self.repeated, tokens, 0)
        return min(num_right, num_drafted)

    def _compare(self, guess: _Guess, tokens: list[int], num_drafted: int) -> int:
        num_right = 0
        # What was not computed says what its first token would have been worth.
        for index, guessed in enumerate(guess.tokens[: max(1, num_drafted)]):
            if guess.begin + index >= len(tokens):
                break
            is_right = tokens[guess.begin + index] == guessed
            self.acceptance.note(guess.kinds[index], is_right=is_right)
            if not is_right:
                break
            num_right += 1
        return num_right

    def come(self, tokens: list[int]) -> tuple[int, bool]:
        """Of what was proposed: how many tokens came, and whether then another one did."""
        for index, token in enumerate(self.whole.tokens):
            if self.whole.begin + index >= len(tokens):
                return index, False
            if tokens[self.whole.begin + index] != token:
                return index, True
        return len(self.whole.tokens), False

    def clear(self) -> None:
        """Its guesses are done with."""
        self.repeated, self.proposed, self.whole, self.num_computed = _Guess(), None, _Guess(), 0


def _without(name: str) -> TokenSampler | None:
    return None


def _never(token: int) -> bool:
    return False


class Drafting:
    """Lengthens decode steps by guesses, and learns from what came of them. Belongs to the engine's thread."""

    def __init__(
        self,
        costs: RowCosts | None,
        max_rows: int,
        proposer: Proposer | None = None,
        is_end: Callable[[int], bool] = _never,
    ) -> None:
        """At most `max_rows` rows a step. `costs` are the scheduler's, which learns them; without them nothing is
        guessed. `is_end`: whether a token ends an answer, which no row needs to be computed for."""
        self._costs = costs
        self._max_rows = max_rows
        self._proposer = proposer
        self._is_end = is_end
        self._drafters: dict[str, _Drafter] = {}
        self.num_drafted = 0
        """Tokens that were guessed and computed, since the start."""
        self.num_accepted = 0
        """Of those, the ones that were right."""
        self.proposing_seconds = 0.0
        """That the draft model took of the last step."""

    @property
    def is_on(self) -> bool:
        """Whether anything is guessed."""
        return self._costs is not None

    @classmethod
    def of(cls, engine: Engine, costs: RowCosts, *, is_wanted: bool, draft: DraftContext | None = None) -> Drafting:
        """One for the engine, whose steps cost that. It guesses nothing where that is not wanted, or where a wrong
        guess could not be taken back."""
        is_on = is_wanted and engine.can_remove_part
        proposer = Proposer(draft) if draft is not None else None
        return cls(costs if is_on else None, engine.max_batch_outputs, proposer, engine.vocabulary.is_end)

    # --- A step ---

    def fill(self, step: Step, seconds: float, sampler_of: Callable[[str], TokenSampler | None] = _without) -> Step:
        """The step with as many guesses as pay and as let it take no longer than `seconds`, by what is predicted.
        `sampler_of` a sequence says what its grammar forbids."""
        self.proposing_seconds = 0.0
        if self._costs is None or not step.is_decode:
            return step
        num_rows = len(step.spans)
        most = self._most_rows(self._costs, num_rows, seconds)
        rooms = [self._room(sequence) for sequence in step.sequences]
        drafters = [
            self._looked(sequence, min(most - num_rows, room), sampler_of)
            for sequence, room in zip(step.sequences, rooms, strict=True)
        ]
        proposer, costs = self._proposer, self._costs
        before = proposer.seconds if proposer is not None else 0.0
        if proposer is not None:
            self._propose(proposer, step.sequences, rooms, drafters, most - num_rows, seconds, sampler_of)
            self.proposing_seconds = proposer.seconds - before
        gains = gains_of([drafter.likelihoods(drafter.guess) for drafter in drafters])[: most - num_rows]
        taken = [costs.seconds(num_rows + number) + self.proposing_seconds for number in range(len(gains) + 1)]
        num_chosen, _ = chosen(gains, num_rows, taken, seconds)
        if proposer is not None:
            proposer.catch_up(step.sequences, rooms, costs, seconds - taken[num_chosen])
            self.proposing_seconds = proposer.seconds - before
        return self._with_guesses(step, drafters, Counter(place for _, place in gains[:num_chosen]))

    def _with_guesses(self, step: Step, drafters: list[_Drafter], lengths: Counter[int]) -> Step:
        if not lengths:
            return step
        spans: list[Span] = []
        for place, (span, drafter) in enumerate(zip(step.spans, drafters, strict=True)):
            drafter.num_computed = lengths[place]
            spans.append(replace(span, tokens=span.tokens + drafter.guess.tokens[: lengths[place]]))
        return replace(step, spans=tuple(spans))

    def _most_rows(self, costs: RowCosts, num_rows: int, seconds: float) -> int:
        most = min(self._max_rows, num_rows * (1 + MAX_DRAFT))
        while most > num_rows and costs.seconds(most) > seconds:
            most -= 1
        return most

    def _room(self, sequence: Sequence, num_more: int = 0) -> int:
        """How many tokens may be guessed of it, or of what it will be with some more: the last token of an answer is
        chosen, and never computed."""
        return max(0, min(MAX_DRAFT, sequence.max_tokens - sequence.num_generated - num_more - 1))

    def _looked(
        self, sequence: Sequence, num_tokens: int, sampler_of: Callable[[str], TokenSampler | None]
    ) -> _Drafter:
        drafter = self._drafters.setdefault(sequence.id, _Drafter())
        drafter.clear()
        guess = drafter.repeats(sequence.tokens, num_tokens)
        drafter.repeated = guess.cut(self._num_allowed(guess.tokens, sampler_of(sequence.id)))
        return drafter

    def _num_allowed(self, guess: tuple[int, ...], sampler: TokenSampler | None) -> int:
        """How many of the tokens may be guessed: up to the answer's end, and to what the grammar forbids."""
        num = next((index for index, token in enumerate(guess) if self._is_end(token)), len(guess))
        return num if sampler is None else sampler.num_allowed(guess[:num])

    def foresee(self, sequence: Sequence, token: int) -> tuple[int, ...]:
        """What will be guessed to follow the sequence, if that token is its next; nothing where the token is one that
        was guessed and computed: then the one behind it is asked about next."""
        if not self.is_on:
            return ()
        drafter = self._drafters.setdefault(sequence.id, _Drafter())
        index = len(sequence.tokens) - drafter.guess.begin
        if 0 <= index < drafter.num_computed and drafter.guess.tokens[index] == token:
            return ()
        guess = drafter.repeats([*sequence.tokens, token], self._room(sequence, 1)).tokens
        return guess[: self._num_allowed(guess, None)]

    # --- With a draft model ---

    def _propose(
        self,
        proposer: Proposer,
        sequences: tuple[Sequence, ...],
        rooms: list[int],
        drafters: list[_Drafter],
        num_rows: int,
        seconds: float,
        sampler_of: Callable[[str], TokenSampler | None],
    ) -> None:
        """Has a draft model guess for those streams where that pays."""
        assert self._costs is not None
        guessed = [drafter.likelihoods(drafter.repeated) for drafter in drafters]
        plan = proposer.plan(sequences, guessed, rooms, self._costs, num_rows, seconds)
        asked, places = [], []
        for place, num_tokens in enumerate(plan.num_tokens):
            if num_tokens:
                sampler = sampler_of(sequences[place].id)
                goes_on = self._goes_on(drafters[place], plan.least[place], sampler)
                asked.append(Asked(sequences[place], num_tokens, goes_on))
                places.append(place)
        if asked:
            for place, proposal in zip(places, proposer.propose(asked), strict=True):
                self._take(drafters[place], proposal, len(sequences[place].tokens), sampler_of(sequences[place].id))

    def _goes_on(self, drafter: _Drafter, least: float, sampler: TokenSampler | None) -> Callable[[Proposal], bool]:
        def goes_on(proposal: Proposal) -> bool:
            if drafter.chance(proposal) < least:
                return False
            if sampler is not None:
                # Answered while the draft model computes the next token.
                sampler.foretell(tuple(proposal.tokens))
            return self._num_allowed(tuple(proposal.tokens), sampler) == len(proposal.tokens)

        return goes_on

    def _take(self, drafter: _Drafter, proposal: Proposal, begin: int, sampler: TokenSampler | None) -> None:
        if proposal.tokens:
            guess = _Guess(begin, tuple(proposal.tokens), tuple(map(_proposed, proposal.probabilities)))
            drafter.whole = guess
            drafter.proposed = guess.cut(self._num_allowed(guess.tokens, sampler))

    # --- What came of it ---

    def note(self, step: Step) -> None:
        """Learns from a step whose tokens are chosen."""
        if not step.is_decode:
            return
        for sequence, span in zip(step.sequences, step.spans, strict=True):
            if (drafter := self._drafters.get(sequence.id)) is not None:
                num_drafted = len(span.tokens) - 1
                num_right = drafter.learn(sequence.tokens, num_drafted)
                if self._proposer is not None and drafter.proposed is not None:
                    num_come, is_wrong = drafter.come(sequence.tokens)
                    self._proposer.note(sequence, num_come, is_wrong=is_wrong)
                drafter.clear()
                sequence.num_drafted += num_drafted
                sequence.num_accepted += num_right
                self.num_drafted += num_drafted
                self.num_accepted += num_right

    def forget(self, sequence: Sequence) -> None:
        """It is over."""
        self._drafters.pop(sequence.id, None)
        if self._proposer is not None:
            self._proposer.forget(sequence)
