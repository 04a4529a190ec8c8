"""Whether a draft model is asked what follows, of which streams, and for how many tokens. It decides; `draft_context`
computes.

What it takes is time of the step: its steps, one for each token that is proposed, count like those of the model itself
when it is decided how many tokens pay, and against what is guessed without it. How likely its tokens are right is
learnt for each sequence, beginning with what they came to in others; where that does not pay, it is tried again after
ever more steps. To catch up with a sequence is paid at once, and has to be earned back by what may still come of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence as Listed
from dataclasses import dataclass

from workers.engine.acceptance import PRIOR, Trust
from workers.engine.draft_context import Asked, DraftContext, Proposal
from workers.engine.gains import chosen, gains_of
from workers.engine.row_costs import RowCosts
from workers.engine.sequence import Sequence

FEW = 8
"""Missing tokens that are computed with the first proposal: with more a sequence is caught up with first."""
EXPECTED_TOKENS = 64
"""So much is an answer taken to go on for, at least, or for as long as it did; never over its most tokens."""
EARNED = 2.0
"""So many times what catching up takes has to be saved by what is expected to come."""
BETTER = 0.1
"""So much likelier right than the guess that there is anyway has a proposal to be, which costs something to make."""
SAFETY = 0.9
_USUAL_FADING = 0.99


@dataclass(frozen=True)
class Plan:
    """How many tokens are to be proposed of each stream, and how likely right that has to be to be gone on with."""

    num_tokens: tuple[int, ...]
    least: tuple[float, ...]


class Proposer:
    """Asks a draft model where that pays. Belongs to the engine's thread."""

    def __init__(self, context: DraftContext) -> None:
        self._context = context
        self._usual = Trust(fading=_USUAL_FADING)
        """In its tokens, over all sequences."""
        self._trusts: dict[str, Trust] = {}
        self._asked: set[str] = set()
        """Sequences of the step that is made, with proposals that may come yet."""
        self._wanting: set[str] = set()
        """Those of which a proposal would be likelier right than what is guessed anyway."""

    @property
    def seconds(self) -> float:
        """Spent on it since the start."""
        return self._context.seconds

    def _trust(self, sequence: Sequence) -> Trust:
        return self._trusts.setdefault(sequence.id, Trust())

    def likelihood(self, sequence: Sequence) -> float:
        """That the next token proposed of it is right."""
        return self._trust(sequence).likelihood(self._usual.likelihood(PRIOR))

    def plan(
        self,
        sequences: Listed[Sequence],
        guessed: Listed[Listed[float]],
        most: Listed[int],
        costs: RowCosts,
        num_rows: int,
        seconds: float,
    ) -> Plan:
        """What to ask for, where the step has room for `num_rows` guesses and for so many `seconds`. `guessed` has for
        each stream how likely the guesses are that there are anyway, which cost nothing to make; `most` are its tokens
        at most."""
        likelihoods = [self.likelihood(sequence) for sequence in sequences]
        self._wanting = {
            sequence.id
            for sequence, likelihood, known in zip(sequences, likelihoods, guessed, strict=True)
            if likelihood > (known[0] + BETTER if known else 0.0)
        }
        places = {place for place, sequence in enumerate(sequences) if self._is_ready(sequence, most[place])}
        streams = [
            [likelihoods[place]] * most[place] if place in places else known for place, known in enumerate(guessed)
        ]
        gains = gains_of(streams)[:num_rows]
        number, won = chosen(gains, len(sequences), self._seconds(gains, places, costs, len(sequences)), seconds)
        plain = gains_of(guessed)[:num_rows]
        _, won_anyway = chosen(plain, len(sequences), self._seconds(plain, set(), costs, len(sequences)), seconds)
        counts = Counter(place for _, place in gains[: number if won > won_anyway else 0])
        asked = tuple(counts[place] if place in places else 0 for place in range(len(sequences)))
        self._asked = {sequence.id for sequence, num in zip(sequences, asked, strict=True) if num}
        self._pass_by(sequences)
        return Plan(asked, self._least(asked, likelihoods, costs.seconds(len(sequences))))

    def _is_ready(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether a proposal of so many tokens is wanted, and nothing has to be computed before."""
        return self._is_wanted(sequence, num_tokens) and self._context.num_missing(sequence) <= FEW

    def _is_wanted(self, sequence: Sequence, num_tokens: int) -> bool:
        can_follow = not self._context.is_lost and self._context.can_follow(sequence, num_tokens)
        return can_follow and num_tokens > 0 and sequence.id in self._wanting

    def _seconds(self, gains: Listed[tuple[float, int]], places: set[int], costs: RowCosts, num: int) -> list[float]:
        """Of a step of `num` streams with none of them, with the first one, with two, …, and of the draft's steps:
        each proposes one token more of those streams that still want one."""
        found, drafting = [costs.seconds(num)], 0.0
        each, widths = Counter[int](), Counter[int]()
        for number, (_, place) in enumerate(gains, 1):
            if place in places:
                width = widths[each[place]] = widths[each[place]] + 1
                each[place] += 1
                drafting += self._step_seconds(width) - self._step_seconds(width - 1)
            found.append(costs.seconds(num + number) + drafting)
        return found

    def _step_seconds(self, num_streams: int) -> float:
        return self._context.costs.decode(num_streams)

    def _least(self, asked: Listed[int], likelihoods: Listed[float], seconds: float) -> tuple[float, ...]:
        """What a token's being right has to be as likely as, so that the next one is worth its share of a draft step:
        it is right as often, and then by its own likelihood, and all streams wait for it."""
        num_asked = sum(num > 0 for num in asked)
        share = self._step_seconds(num_asked) / num_asked * len(asked) / seconds if num_asked else 0.0
        return tuple(share / likelihood for likelihood in likelihoods)

    def _pass_by(self, sequences: Listed[Sequence]) -> None:
        for sequence in sequences:
            if sequence.id not in self._asked:
                self._trust(sequence).pass_by()
        if not self._asked:
            self._usual.pass_by()

    def propose(self, asked: list[Asked]) -> list[Proposal]:
        """What may follow each of them."""
        return self._context.propose(asked)

    def note(self, sequence: Sequence, num_right: int, *, is_wrong: bool) -> None:
        """What came of a proposal: so many of its tokens did, and then another one, or none yet."""
        for trust in (self._trust(sequence), self._usual):
            trust.note(num_right, is_wrong=is_wrong)

    def catch_up(self, sequences: Listed[Sequence], most: Listed[int], costs: RowCosts, seconds: float) -> None:
        """Computes in so many seconds what it lacks of one of the streams, or the first part of that, if it is to pay:
        of the one that lacks least."""
        context = self._context
        behind = [
            (context.num_missing(sequence), place)
            for place, sequence in enumerate(sequences)
            if sequence.id not in self._asked and self._is_wanted(sequence, most[place])
        ]
        for num_missing, place in sorted(behind):
            if num_missing > FEW and self._pays(sequences[place], num_missing, costs, len(sequences)):
                begin = len(sequences[place].tokens) - num_missing
                num_tokens = context.costs.num_tokens(SAFETY * seconds - self._step_seconds(1), begin)
                if num_tokens > 0:
                    context.catch_up(sequences[place], min(num_tokens, num_missing - 1))
                return

    def _pays(self, sequence: Sequence, num_missing: int, costs: RowCosts, num_streams: int) -> bool:
        """Whether what is saved by drafts of this stream alone, over what is expected to come, is worth the time."""
        # A sequence that it never followed is no reason to try again: only that nothing was proposed for long is.
        trust = self._trust(sequence) if self._context.follows(sequence) else Trust()
        likelihood = trust.likelihood(self._usual.likelihood(PRIOR))
        gains = gains_of([[likelihood] * FEW])
        seconds = self._seconds(gains, {0}, costs, num_streams)
        _, won = chosen(gains, num_streams, seconds, math.inf)
        to_come = min(sequence.max_tokens - sequence.num_generated, max(EXPECTED_TOKENS, sequence.num_generated))
        saved = to_come * seconds[0] * -math.expm1(-won)
        begin = len(sequence.tokens) - num_missing
        takes = self._step_seconds(1) + self._context.costs.prefill(num_missing, begin)
        return saved > EARNED * takes

    def forget(self, sequence: Sequence) -> None:
        """It is over."""
        self._trusts.pop(sequence.id, None)
        self._context.forget(sequence)
