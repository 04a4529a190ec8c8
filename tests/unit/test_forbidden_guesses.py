"""What a turn's grammar forbids is not guessed, where it is known in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from broker.messages import Sampling
from tests.engine_bench import Observed, job, tokens_of
from tests.fakes import END, FakeEngine, FakeSampler
from tests.unit.test_drafting import TEXT, Stepping, drafted, guessing, told
from workers.engine.drafting import Drafting
from workers.engine.protocol import Foresee, TokenSampler
from workers.engine.slots import common_prefix
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText

PROMPT = f"say: {TEXT[10:]}!"


class Knowing(FakeSampler):
    """Its grammar allows the answer, and is heard at once."""

    def __init__(self, engine: FakeEngine, foresee: Foresee | None, text: str) -> None:
        super().__init__(engine)
        self._foresee = foresee
        self._tokens = tokens_of(text)
        self._num_taken = 0
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def sample(self, row: int, index: int) -> int:
        token = super().sample(row, index)
        if token != END:
            assert self._foresee is not None
            self.asked.append((index, tuple(self._foresee(token))))
            self._num_taken = index + 1
        return token

    def num_allowed(self, guess: Sequence[int]) -> int:
        return common_prefix(list(guess), self._tokens[self._num_taken :])


class Held(Observed):
    """All of its answers are held."""

    samplers: list[Knowing]

    def sampler(
        self,
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> TokenSampler:
        self.num_samplers += 1
        self.samplers = [Knowing(self, foresee, TEXT)]
        return self.samplers[0]


@pytest.mark.parametrize("make", [guessing, drafted])
def test_what_the_grammar_is_known_to_forbid_is_not_computed(make: Callable[[], Drafting]) -> None:
    bench = Stepping(Held(answer=TEXT), drafting=make())
    bench.loop.submit(job("1", PROMPT, max_tokens=200))
    bench.run()
    assert bench.text("1") == TEXT
    end = told(bench, "1")[3]
    assert end.num_drafted == end.num_accepted > 10


def test_with_a_token_goes_what_is_guessed_next_if_it_is_chosen() -> None:
    bench = Stepping(Held(answer=TEXT), drafting=guessing())
    bench.loop.submit(job("1", PROMPT, max_tokens=200))
    guessed: dict[int, tuple[int, ...]] = {}
    while bench.loop.has_work:
        bench.round()
        if bench.steps and bench.steps[-1][0].is_decode:
            (span,) = bench.steps[-1][0].spans
            guessed[span.start - len(PROMPT)] = span.tokens[1:]
    (sampler,) = bench.engine.samplers  # type: ignore[attr-defined]
    foreseen = dict(sampler.asked)
    assert len(foreseen) == len(TEXT)
    for index, guess in guessed.items():
        assert foreseen[index][: len(guess)] == guess
        # Those that were computed, and right, are followed by the next row's question.
        assert not any(foreseen[index + at] for at in range(1, len(guess) + 1))
