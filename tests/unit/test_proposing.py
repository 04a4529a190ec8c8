"""A draft model's proposals: when it is asked, what it has of each sequence, that it costs no more than it gains."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draft_fakes import FakeDraft, Rule
from tests.fakes import FakeEngine, FakeSampler
from tests.unit.test_drafting import Writer, never_repeating, repeating
from workers.engine.costs import CostModel
from workers.engine.draft_context import DraftContext
from workers.engine.proposing import EXPECTED_TOKENS, FEW, Proposer
from workers.engine.protocol import EngineLost, KvCacheFull
from workers.engine.row_costs import RowCosts

ROWS = {1: 0.010, 2: 0.012, 4: 0.014, 8: 0.02, 16: 0.03, 32: 0.06}
CHEAP, DEAR = 0.001, 0.010
"""Seconds of a draft's step beside those."""


class Drawn(Writer):
    """Sequences of texts that never repeat, beside a draft model that is right with that probability."""

    def __init__(
        self, right: float = 1.0, *, step_seconds: float = CHEAP, num_ctx: int = 1 << 16, **more: object
    ) -> None:
        self.right = right
        self.chance = random.Random(5)
        self.model = FakeDraft(self._say, num_ctx=num_ctx, step_seconds=step_seconds, token_seconds=step_seconds / 100)
        costs = CostModel(step_seconds / 100 + step_seconds / 64, RowCosts({1: step_seconds}), step_seconds / 100)
        self.context = DraftContext(self.model, costs, self.model.clock)
        super().__init__(ROWS, proposer=Proposer(self.context), **more)  # type: ignore[arg-type]
        self.seconds = 0.0

    def _say(self, tokens: list[int]) -> tuple[int, float]:
        (text,) = [text for text in self.texts if text[: len(tokens)] == tokens] or [[0] * (len(tokens) + 1)]
        if self.chance.random() < self.right:
            return text[len(tokens)], 0.9
        return 100_000 + self.chance.randrange(1000), 0.5

    def take(self, num_steps: int, seconds: float = 1.0) -> list[int]:
        """Guesses of each step, and what all of them took."""
        found = []
        for _ in range(num_steps):
            before = self.model.clock()
            num = sum(self.step(seconds))
            took = RowCosts(ROWS).seconds(len(self.sequences) + num)
            spent = self.model.clock() - before
            assert spent == pytest.approx(self.drafting.proposing_seconds)
            assert took + spent <= seconds * 1.0001
            self.seconds += took + spent
            found.append(num)
        return found

    @property
    def num_said(self) -> int:
        return sum(len(one.tokens) - self.num_prompt - 1 for one in self.sequences)


def test_a_draft_that_is_right_is_asked_for_many_tokens() -> None:
    one = Drawn()
    one.add(never_repeating(4000))
    guessed = one.take(100)
    assert max(guessed) > 6
    assert one.seconds < 0.5 * one.num_said * ROWS[1]
    assert one.drafting.num_accepted > 0.95 * one.drafting.num_drafted > 0


@pytest.mark.parametrize("num_streams", [1, 3])
def test_a_draft_that_is_wrong_is_left_alone_and_tried_again_now_and_then(num_streams: int) -> None:
    one = Drawn(right=0.0)
    for seed in range(num_streams):
        one.add(never_repeating(40_000, seed))
    guessed = one.take(1000)
    assert sum(guessed[200:]) < 0.02 * 800
    assert one.seconds < 1.02 * 1000 * RowCosts(ROWS).seconds(num_streams)
    one.right = 1.0
    one.take(1500)
    assert max(one.take(100)) > 3, "it was never tried again"


@pytest.mark.parametrize("right", [0.3, 0.6, 0.9])
def test_whatever_a_draft_is_worth_steps_do_not_become_slower(right: float) -> None:
    one = Drawn(right)
    one.add(never_repeating(8000))
    one.take(600)
    assert one.seconds < 1.02 * one.num_said * ROWS[1]
    if right > 0.5:
        assert one.seconds < 0.9 * one.num_said * ROWS[1]


def test_a_draft_that_costs_what_the_model_costs_is_never_asked() -> None:
    one = Drawn(step_seconds=DEAR)
    one.add(never_repeating(400))
    assert one.take(100) == [0] * 100
    assert one.model.num_steps == 0


def test_what_repeats_is_not_asked_for() -> None:
    one = Drawn(num_prompt=45)
    one.add(repeating(4000))
    one.take(60)
    num_before = one.model.num_steps
    one.take(60)
    assert one.model.num_steps - num_before < 6
    assert one.seconds < 0.3 * one.num_said * ROWS[1]


def test_of_two_streams_only_the_one_that_gains_by_it_is_drafted_for() -> None:
    one = Drawn()
    one.add(never_repeating(4000, 1))
    one.add(never_repeating(4000, 2))
    theirs = one.texts[1]
    rule = one.model._rule
    one.model._rule = lambda tokens: (7, 0.9) if tokens == theirs[: len(tokens)] else rule(tokens)
    for _ in range(40):
        one.step()
    guessed = [one.step() for _ in range(40)]
    assert sum(mine for mine, _ in guessed) > 60
    assert sum(other for _, other in guessed) < 5


def test_a_step_takes_no_longer_than_it_may_with_the_draft_counted() -> None:
    one = Drawn()
    one.add(never_repeating(4000))
    assert max(one.take(60)) > 4
    assert 0 < max(one.take(30, seconds=0.025)) < 5
    assert max(one.take(30, seconds=0.0125)) == 0


# --- Following ---


def rule_of(seed: int) -> Rule:
    return lambda tokens: (random.Random(seed + sum(tokens[-3:])).randrange(4), 0.8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=120), st.integers(0, 1000))
def test_the_draft_has_what_is_known_and_nothing_else(happens: list[tuple[int, int]], seed: int) -> None:
    # Texts of few words, so that much is guessed, and of that much wrong; six sequences in three slots and 200 cells.
    rng = random.Random(seed)
    model = FakeDraft(rule_of(seed), num_slots=3, num_ctx=200)
    context = DraftContext(model, CostModel(1e-6, RowCosts({1: 1e-6})), model.clock)
    one = Writer({1: 1.0, 32: 1.0}, num_prompt=9, proposer=Proposer(context))
    everyone = []
    for index in range(6):
        one.add([rng.randrange(4) for _ in range(300)])
        one.sequences[0].id = f"{index}"
        everyone.append((one.sequences.pop(), one.texts.pop()))
    for who, what in happens:
        if what == 0:
            one.drafting.forget(everyone[who][0])
            assert not context.follows(everyone[who][0])
        else:
            seated = [everyone[(who + index) % 6] for index in range(what)]
            one.sequences, one.texts = [list(each) for each in zip(*seated, strict=True)]
            if max(len(sequence.tokens) for sequence in one.sequences) < 250:
                one.step()
        assert context.num_cells == model.num_cells <= model.num_ctx
    for sequence, _ in everyone:
        one.drafting.forget(sequence)
    assert (context.num_followed, model.num_cells) == (0, 0)


def test_what_is_too_long_or_strange_to_the_draft_is_not_followed() -> None:
    one = Drawn(num_ctx=40)
    one.add(never_repeating(400))
    one.take(60)
    assert 0 < one.model.num_cells <= 40
    assert one.take(20) == [0] * 20
    other = Drawn()
    other.model.num_tokens = 50
    other.add([10, 11, 60, 12, 13, *never_repeating(400)])
    other.take(20)
    assert other.model.num_steps == 0


def test_the_one_that_was_asked_about_longest_ago_goes_where_slots_are_short() -> None:
    one = Drawn()
    for seed in range(5):
        one.add(never_repeating(400, seed))
    everyone = one.sequences, one.texts
    for index in (0, 1, 2, 3, 0, 4):
        one.sequences, one.texts = [everyone[0][index]], [everyone[1][index]]
        one.model._rule = lambda tokens, text=one.texts[0]: (text[len(tokens)], 0.9)  # type: ignore[misc]
        one.take(3)
    assert [one.context.follows(sequence) for sequence in everyone[0]] == [True, False, True, True, True]


def test_cells_that_are_not_there_after_all_are_no_more_than_a_draft_less() -> None:
    one = Drawn()
    one.add(never_repeating(400))
    one.take(3)
    one.model.errors = [KvCacheFull()]
    assert one.take(1) == [0]
    assert one.model.num_cells == 0
    assert max(one.take(20)) > 3


def test_a_draft_that_is_lost_is_not_asked_again() -> None:
    one = Drawn()
    one.add(never_repeating(400))
    one.take(3)
    one.model.errors = [EngineLost(-3)]
    assert one.take(30) == [0] * 30
    assert one.context.is_lost


# --- Catching up ---


def test_a_long_prompt_is_caught_up_with_in_parts_that_the_bound_has_time_for() -> None:
    one = Drawn(num_prompt=300)
    one.add(never_repeating(4000))
    guessed = one.take(60, seconds=0.0125)
    assert guessed[0] == 0
    assert 1 < one.model.largest < 300
    assert max(one.take(20)) > 3


def test_a_prompt_that_costs_more_than_there_is_to_gain_is_not_caught_up_with() -> None:
    one = Drawn(num_prompt=3000, max_tokens=EXPECTED_TOKENS // 4)
    one.add(never_repeating(4000))
    one.take(10)
    assert one.model.num_steps == 0
    short = Drawn(num_prompt=FEW - 1, max_tokens=EXPECTED_TOKENS // 4)
    short.add(never_repeating(400))
    assert max(short.take(6)) > 0


def test_after_drafts_that_were_wrong_no_new_prompt_is_caught_up_with() -> None:
    one = Drawn(right=0.0)
    for seed in range(6):
        one.add(never_repeating(400, seed))
        one.take(4)
        one.drafting.forget(one.sequences.pop())
        one.texts.pop()
    one.num_prompt = 200
    one.add(never_repeating(900, seed=9))
    num_before = one.model.num_steps
    one.take(12)
    assert one.model.num_steps == num_before


# --- Grammars ---


class Held(FakeSampler):
    """Allows the first so many of what is guessed."""

    def __init__(self, num: int) -> None:
        super().__init__(FakeEngine())
        self.num = num
        self.foretold: list[tuple[int, ...]] = []

    def foretell(self, guess: object) -> None:
        assert isinstance(guess, tuple)
        self.foretold.append(guess)

    def num_allowed(self, guess: object) -> int:
        assert isinstance(guess, tuple)
        return min(self.num, len(guess))


@pytest.mark.parametrize("num_allowed", [0, 2])
def test_what_a_grammar_forbids_is_neither_computed_nor_proposed_further(num_allowed: int) -> None:
    one, held = Drawn(), Held(num_allowed)
    one.add(never_repeating(400))
    guessed = [one.step(sampler=held)[0] for _ in range(30)]
    assert max(guessed) == num_allowed
    assert max(map(len, held.foretold)) == num_allowed + 1, "each is asked about while the next is computed"
