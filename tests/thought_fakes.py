"""An engine that thinks without end unless its thought is closed for it."""

from __future__ import annotations

from broker.messages import Sampling
from tests.fakes import END, FIRST, FakeEngine, FakeSampler
from workers.engine.protocol import Foresee, TokenSampler
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText

THOUGHT = "Hm, is it? "


class Grammatical(FakeSampler):
    """Says what its grammar says, from where it begins, and nothing else."""

    def __init__(self, engine: Thinker, grammar: HeldText) -> None:
        super().__init__(engine)
        self._gbnf = grammar.gbnf
        self._num_said = len(grammar.written)
        assert [ord(one) + FIRST for one in self._gbnf[: self._num_said]] == list(grammar.written)

    def sample(self, row: int, index: int) -> int:
        self._num_said += 1
        return ord(self._gbnf[self._num_said - 1]) + FIRST

    @property
    def is_done(self) -> bool:  # type: ignore[override]
        return self._num_said == len(self._gbnf)


class Thinker(FakeEngine):
    """Behind `prompt_end` it says `begin`, thinks up to `end` or for `num_thoughts` tokens, and then says `said`."""

    def __init__(
        self,
        *,
        prompt_end: str = "assistant: ",
        begin: str = "<think>",
        end: str = "</think>",
        said: str = "It is.",
        num_thoughts: int | None = None,
        num_slots: int = 4,
    ) -> None:
        super().__init__(num_slots=num_slots)
        self._prompt_end = prompt_end
        self._thinks = begin, end, said, num_thoughts

    def next_token(self, tokens: list[int], index: int) -> int:
        begin, end, said, num_thoughts = self._thinks
        text = "".join(self.vocabulary.piece(token).decode() for token in tokens).rpartition(self._prompt_end)[2]
        thought, is_closed, answer = text[len(begin) :].partition(end)
        if len(text) < len(begin):
            next_one = begin[len(text)]
        elif is_closed:
            next_one = said[len(answer) :][:1]
        elif num_thoughts is not None and len(thought) >= num_thoughts:
            next_one = end[len(thought) - num_thoughts]
        else:
            next_one = THOUGHT[len(thought) % len(THOUGHT)]
        return ord(next_one) + FIRST if next_one else END

    def sampler(
        self,
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> TokenSampler:
        if not isinstance(grammar, HeldText):
            return super().sampler(sampling, tokens, grammar, foresee, num_answered)
        self.num_samplers += 1
        return Grammatical(self, grammar)
