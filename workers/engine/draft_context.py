"""Sequences in the context of a draft model: how much it has of each, and what it proposes to follow them.

It follows the known tokens of those that it is asked about: what came since is computed first, and of what it proposed
the tokens that did not come are cut. Where slots or cells are short, the sequence asked about longest ago goes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.engine.costs import CostModel
from workers.engine.protocol import DraftModel, EngineLost, KvCacheFull, Span
from workers.engine.sequence import Sequence
from workers.engine.slots import common_prefix

LEAST_OBSERVED = 16
"""Tokens that are computed to catch up: fewer say little of what they cost."""
MAX_OBSERVED = 64
"""Tokens of a step that proposes: no more are learnt apart."""

log = logging.getLogger(__name__)


@dataclass
class _Followed:
    slot: int
    num_computed: int = 0
    """Of its known tokens."""
    ahead: list[int] = field(default_factory=list)
    """Computed behind those: they were proposed, and may have come or not."""

    @property
    def num_cells(self) -> int:
        return self.num_computed + len(self.ahead)


@dataclass
class Proposal:
    """What may follow a sequence: tokens, each with the draft model's own probability."""

    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """How many tokens are wanted of a sequence; after each but the last `goes_on` says whether the next still is."""

    sequence: Sequence
    num_tokens: int
    goes_on: Callable[[Proposal], bool]


class DraftContext:
    """Follows sequences. Belongs to the engine's thread. `costs` are the draft model's own steps, and are learnt."""

    def __init__(self, model: DraftModel, costs: CostModel, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self.costs = costs
        self._clock = clock
        self._followed: dict[str, _Followed] = {}
        """The one that was asked about longest ago first."""
        self._free = list(range(model.num_slots))
        self.seconds = 0.0
        """Spent here since the start."""
        self._strange: set[str] = set()
        """Sequences with tokens that the draft model does not know."""
        self.is_lost = False
        """llama.cpp could not compute with it: nothing is proposed any more."""

    @property
    def num_followed(self) -> int:
        """Sequences that it has something of."""
        return len(self._followed)

    @property
    def num_cells(self) -> int:
        """Of all of them."""
        return sum(followed.num_cells for followed in self._followed.values())

    def follows(self, sequence: Sequence) -> bool:
        """Whether it has anything of it."""
        return sequence.id in self._followed

    def can_follow(self, sequence: Sequence, num_more: int) -> bool:
        """Whether the sequence, and so many tokens more, are within its context and its vocabulary."""
        is_short = len(sequence.tokens) + num_more <= min(self._model.max_sequence_tokens, self._model.num_ctx)
        return is_short and sequence.id not in self._strange

    def num_missing(self, sequence: Sequence) -> int:
        """How many of its tokens are to be computed before any can be proposed: the last one always is."""
        return len(sequence.tokens) - self._settled(sequence)

    def _settled(self, sequence: Sequence) -> int:
        """How many of its known tokens are computed, once what did not come is cut."""
        followed = self._followed.get(sequence.id)
        if followed is None:
            return 0
        begin, ahead = followed.num_computed, followed.ahead
        num_come = common_prefix(ahead, sequence.tokens[begin : begin + len(ahead)])
        num_computed = min(begin + num_come, len(sequence.tokens) - 1)
        if num_computed < followed.num_cells:
            self._model.truncate(followed.slot, num_computed)
        followed.num_computed, followed.ahead = num_computed, []
        return num_computed

    def catch_up(self, sequence: Sequence, num_tokens: int) -> None:
        """Computes so many of its missing tokens, the last one not among them."""
        began = self._clock()
        begin = self._settled(sequence)
        tokens = tuple(sequence.tokens[begin : begin + min(num_tokens, self._model.max_batch_tokens)])
        assert begin + len(tokens) < len(sequence.tokens)
        followed = self._seated(sequence, len(tokens), {sequence.id})
        if followed is not None and self._knows(sequence, tokens):
            span = Span(followed.slot, begin, tokens, begin + len(tokens))
            if self._decode([span]) is not None:
                followed.num_computed = span.end
                if len(tokens) >= LEAST_OBSERVED:
                    self.costs.observe_prefill(len(tokens), begin + len(tokens) / 2, 0, self._clock() - began)
        self.seconds += self._clock() - began

    def propose(self, asked: list[Asked]) -> list[Proposal]:
        """What may follow each of them: as many tokens as are wanted, or fewer. A step for all of them computes the
        next token of each."""
        began = self._clock()
        found = [Proposal() for _ in asked]
        names = {one.sequence.id for one in asked}
        spans: dict[int, Span] = {}
        num_more = 0
        for index, one in enumerate(asked):
            begin = self._settled(one.sequence)
            tokens = tuple(one.sequence.tokens[begin:])
            num_cells = len(tokens) + one.num_tokens - 1
            followed = self._seated(one.sequence, num_more + num_cells, names)
            if followed is not None and self._knows(one.sequence, tokens):
                spans[index] = Span(followed.slot, begin, tokens, begin + len(tokens) - 1)
                num_more += num_cells
        while spans:
            spans = self._round(asked, found, spans)
        self.seconds += self._clock() - began
        return found

    def _round(self, asked: list[Asked], found: list[Proposal], spans: dict[int, Span]) -> dict[int, Span]:
        """Proposes one token more of each of those, by their places; the spans of the next round."""
        began = self._clock()
        rows = self._decode(list(spans.values()))
        if rows is None:
            return {}
        following = {}
        for (index, span), (row,) in zip(spans.items(), rows, strict=True):
            one, proposal = asked[index], found[index]
            followed = self._followed[one.sequence.id]
            if proposal.tokens:
                followed.ahead += span.tokens
            else:
                followed.num_computed = span.end
            token, probability = self._model.likeliest(row)
            proposal.tokens.append(token)
            proposal.probabilities.append(probability)
            if len(proposal.tokens) < one.num_tokens and one.goes_on(proposal):
                following[index] = Span(span.slot, span.end, (token,), span.end)
        if (num_tokens := sum(len(span.tokens) for span in spans.values())) <= MAX_OBSERVED:
            self.costs.rows.observe(num_tokens, max(self._clock() - began, 1e-6))
        return following

    def _knows(self, sequence: Sequence, tokens: tuple[int, ...]) -> bool:
        if max(tokens) >= self._model.num_tokens:
            self._strange.add(sequence.id)
        return sequence.id not in self._strange

    def forget(self, sequence: Sequence) -> None:
        """It is over."""
        self._strange.discard(sequence.id)
        self._drop(sequence.id)

    def _drop(self, name: str) -> None:
        if (followed := self._followed.pop(name, None)) is not None:
            self._model.truncate(followed.slot, 0)
            self._free.append(followed.slot)

    def _seated(self, sequence: Sequence, num_more: int, keep: set[str]) -> _Followed | None:
        """Its place, with so many cells to come; None where those to keep leave no room for them."""
        followed = self._followed.pop(sequence.id, None)
        if followed is not None:
            self._followed[sequence.id] = followed  # asked about last
        while self.num_cells + num_more > self._model.num_ctx or (followed is None and not self._free):
            oldest = next((name for name in self._followed if name not in keep), None)
            if oldest is None:
                return None
            self._drop(oldest)
        if followed is None:
            followed = self._followed[sequence.id] = _Followed(self._free.pop())
        return followed

    def _decode(self, spans: list[Span]) -> list[list[int]] | None:
        """None where nothing was computed: cells were short although they were counted, or all is lost."""
        try:
            return self._model.decode(spans)
        except KvCacheFull:
            for name in [*self._followed]:
                self._drop(name)
        except EngineLost as error:
            log.error("draft model lost, nothing is proposed any more reason=%s", error)
            self.is_lost = True
        return None
