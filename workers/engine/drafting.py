"""Speculation without a draft model: a decode step's idle rows compute guesses at the tokens that follow. Pure.

A guess is what followed the sequence's latest tokens where they stood before (prompt lookup). Logits of its row are
right if it is the very token that the sampler chooses from the row before, and dropped if not: so the answer is the one
that there would be without.

How many to guess follows from three things that are measured, none of which costs a step: how often a match of that
length was right in this sequence (also noted where nothing was guessed), what steps of so many rows take, and how long
a step may take. Streams share a step, so that what is weighed is the geometric mean of what each of them gains: one
that repeats itself gains nothing at the price of the others.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace

from workers.engine.ngrams import Ngrams, following
from workers.engine.protocol import Engine
from workers.engine.row_costs import RowCosts
from workers.engine.scheduler import Step
from workers.engine.sequence import Sequence

MAX_DRAFT = 15
"""Tokens that are guessed of a sequence at once."""
WORTH = 1.04
"""A step with guesses has to be so many times as good as one without, by what is expected of both."""
LEAST = 0.001
"""A guess that is less likely right is not thought about."""
FADING = 0.95
"""What one guess says of the next ones, compared with a later one."""
PRIORS = ((1, 0.02), (2, 0.25), (4, 0.45), (8, 0.65), (1 << 30, 0.75))
"""How likely a guess is right where a match has at most so many tokens, before the sequence has shown it; the first is
of no match at all, where the last token is guessed to come again."""
PRIOR_WEIGHT = 2.0
"""Guesses that the prior counts as."""


def _kind(num_matched: int) -> int:
    return next(kind for kind, (most, _) in enumerate(PRIORS) if num_matched <= most)


@dataclass
class _Drafter:
    """One sequence's: what it repeats, and how often that was right."""

    ngrams: Ngrams = field(default_factory=Ngrams)
    hits: list[float] = field(default_factory=lambda: [0.0] * len(PRIORS))
    tries: list[float] = field(default_factory=lambda: [0.0] * len(PRIORS))
    guess: tuple[int, ...] = ()
    """At the tokens from `begin` on."""
    begin: int = 0
    num_matched: int = 0

    def look(self, tokens: list[int], num_tokens: int) -> None:
        """Guesses so many tokens."""
        match = self.ngrams.find(tokens)
        self.begin, self.num_matched = len(tokens), match.num_matched if match is not None else 0
        self.guess = following(tokens, match, num_tokens) if match is not None else (tokens[-1],) * num_tokens

    def likelihood(self, index: int) -> float:
        """How likely the guess at that index is right where all before it are: its match has grown by them."""
        kind = _kind(self.num_matched + index)
        return (self.hits[kind] + PRIOR_WEIGHT * PRIORS[kind][1]) / (self.tries[kind] + PRIOR_WEIGHT)

    def learn(self, tokens: list[int], num_drafted: int) -> int:
        """Compares the guess with what has come; how many of the drafted ones were right."""
        num_right = 0
        # What was not computed says what its first token would have been worth.
        for index, guessed in enumerate(self.guess[: max(1, num_drafted)]):
            if self.begin + index >= len(tokens):
                break
            kind, is_right = _kind(self.num_matched + index), tokens[self.begin + index] == guessed
            self.hits[kind] = FADING * self.hits[kind] + is_right
            self.tries[kind] = FADING * self.tries[kind] + 1
            if not is_right:
                break
            num_right += 1
        self.guess = ()
        return min(num_right, num_drafted)


def _gains(drafters: list[_Drafter]) -> list[tuple[float, int]]:
    """What each guess adds to its stream's tokens of this step, as a logarithm, and the stream's place: of one
    stream each adds less than the one before."""
    found = []
    for place, drafter in enumerate(drafters):
        expected, all_right = 1.0, 1.0
        for index in range(len(drafter.guess)):
            all_right *= drafter.likelihood(index)
            if all_right < LEAST:
                break
            found.append((math.log1p(all_right / expected), place))
            expected += all_right
    return found


class Drafting:
    """Lengthens decode steps by guesses, and learns from what came of them. Belongs to the engine's thread."""

    def __init__(self, costs: RowCosts | None, max_rows: int) -> None:
        """At most `max_rows` rows a step. `costs` are the scheduler's, which learns them; without them nothing is
        guessed."""
        self._costs = costs
        self._max_rows = max_rows
        self._drafters: dict[str, _Drafter] = {}
        self.num_drafted = 0
        """Tokens that were guessed and computed, since the start."""
        self.num_accepted = 0
        """Of those, the ones that were right."""

    @property
    def is_on(self) -> bool:
        """Whether anything is guessed."""
        return self._costs is not None

    @classmethod
    def of(cls, engine: Engine, costs: RowCosts, *, is_wanted: bool) -> Drafting:
        """One for the engine, whose steps cost that. It guesses nothing where that is not wanted, or where a wrong
        guess could not be taken back."""
        return cls(costs if is_wanted and engine.can_remove_part else None, engine.max_batch_outputs)

    def fill(self, step: Step, seconds: float) -> Step:
        """The step with as many guesses as pay and as let it take no longer than `seconds`, by what is predicted."""
        if self._costs is None or not step.is_decode:
            return step
        num_rows = len(step.spans)
        most = self._most_rows(self._costs, num_rows, seconds)
        drafters = [self._looked(sequence, most - num_rows) for sequence in step.sequences]
        gains = sorted(_gains(drafters), reverse=True)[: most - num_rows]
        num_chosen, best, gain = 0, math.log(WORTH), 0.0
        seconds_now = self._costs.seconds(num_rows)
        for number, (each, _) in enumerate(gains, 1):
            gain += each
            worth = gain / num_rows - math.log(self._costs.seconds(num_rows + number) / seconds_now)
            if worth > best:
                num_chosen, best = number, worth
        if not num_chosen:
            return step
        lengths = Counter(place for _, place in gains[:num_chosen])
        spans = tuple(
            replace(span, tokens=span.tokens + drafter.guess[: lengths[place]])
            for place, (span, drafter) in enumerate(zip(step.spans, drafters, strict=True))
        )
        return replace(step, spans=spans)

    def _most_rows(self, costs: RowCosts, num_rows: int, seconds: float) -> int:
        most = min(self._max_rows, num_rows * (1 + MAX_DRAFT))
        while most > num_rows and costs.seconds(most) > seconds:
            most -= 1
        return most

    def _looked(self, sequence: Sequence, num_rows: int) -> _Drafter:
        drafter = self._drafters.setdefault(sequence.id, _Drafter())
        # The last token of an answer is chosen, and never computed.
        to_come = sequence.max_tokens - sequence.num_generated - 1
        drafter.look(sequence.tokens, max(0, min(MAX_DRAFT, num_rows, to_come)))
        return drafter

    def note(self, step: Step) -> None:
        """Learns from a step whose tokens are chosen."""
        if not step.is_decode:
            return
        for sequence, span in zip(step.sequences, step.spans, strict=True):
            if (drafter := self._drafters.get(sequence.id)) is not None:
                num_drafted = len(span.tokens) - 1
                num_right = drafter.learn(sequence.tokens, num_drafted)
                sequence.num_drafted += num_drafted
                sequence.num_accepted += num_right
                self.num_drafted += num_drafted
                self.num_accepted += num_right

    def forget(self, sequence: Sequence) -> None:
        """It is over."""
        self._drafters.pop(sequence.id, None)
