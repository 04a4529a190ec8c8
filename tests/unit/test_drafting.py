"""Guesses at what follows: where they come from, how many pay, and that an answer is the same with them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages import Sampling
from tests.draft_fakes import FakeDraft
from tests.engine_bench import Bench, Observed, job, tokens_of
from tests.fakes import FIRST
from workers.engine.costs import CostModel
from workers.engine.draft_context import DraftContext
from workers.engine.drafting import MAX_DRAFT, Drafting
from workers.engine.events import Finished, Generated
from workers.engine.ngrams import MAX_CHAIN, MAX_MATCH, Match, Ngrams, following
from workers.engine.proposing import Proposer
from workers.engine.protocol import KvCacheFull, Span, TokenSampler
from workers.engine.row_costs import RowCosts
from workers.engine.scheduler import Step
from workers.engine.sequence import Sequence

FREE = {1: 1.0, 32: 1.0}
"""Seconds of a step by rows where more of them cost nothing."""
IN_FOURS = {1: 0.01, 2: 0.02, 3: 0.03, 4: 0.015, 8: 0.03, 12: 0.045, 16: 0.06}
TEXT = "the worker that went on with the turn of the worker that was lost"


# --- Where the tokens stood before ---


def longest_match(tokens: list[int]) -> Match | None:
    """What a search through everything finds."""
    last, found = len(tokens) - 1, Match(-1, 1)
    for place in range(last):
        num = 0
        while num < MAX_MATCH and num <= place and tokens[place - num] == tokens[last - num]:
            num += 1
        if num > 1 and num >= found.num_matched:
            found = Match(place, num)
    return found if found.num_matched > 1 else None


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=120), st.integers(1, 9))
def test_the_longest_match_is_found_and_of_equals_the_latest(tokens: list[int], step: int) -> None:
    ngrams = Ngrams()
    for end in range(1, len(tokens) + 1, step):
        known = tokens[:end]
        found, best = ngrams.find(known), longest_match(known)
        num_places = sum(known[at : at + 2] == known[-2:] for at in range(len(known) - 1))
        if num_places <= MAX_CHAIN:
            assert (found and found.num_matched) == (best and best.num_matched)
        if found is not None:
            assert found.position < end - 1
            assert found.num_matched >= 2
            assert known[found.position + 1 - found.num_matched : found.position + 1] == known[-found.num_matched :]


def test_a_match_is_followed_though_many_places_have_come_behind_it() -> None:
    begin = [*range(100, 130)]
    tokens = [*begin, *[1, 110, 111] * (2 * MAX_CHAIN), 2]
    ngrams = Ngrams()
    for token in begin:
        tokens.append(token)
        found = ngrams.find(tokens)
    assert found == Match(len(begin) - 1, MAX_MATCH)


def test_what_runs_beyond_the_known_tokens_repeats_itself() -> None:
    tokens = [9, 1, 2, 3, 1, 2, 3, 1, 2]
    match = Ngrams().find(tokens)
    assert match == Match(5, 5)
    assert following(tokens, match, 7) == (3, 1, 2, 3, 1, 2, 3)


# --- How many pay ---


class Writer:
    """Sequences whose next tokens a test knows, and steps as the engine loop would take them."""

    def __init__(
        self,
        costs: dict[int, float],
        *,
        num_prompt: int = 12,
        max_tokens: int = 1 << 20,
        max_rows: int = 32,
        proposer: Proposer | None = None,
    ) -> None:
        self.drafting = Drafting(RowCosts(costs), max_rows, proposer)
        self.num_prompt = num_prompt
        self.max_tokens = max_tokens
        self.sequences: list[Sequence] = []
        self.texts: list[list[int]] = []

    def add(self, text: list[int]) -> None:
        name = f"{len(self.sequences)}"
        known = text[: self.num_prompt + 1]
        self.sequences.append(
            Sequence(name, known, self.num_prompt, self.max_tokens, 0.0, num_computed=self.num_prompt)
        )
        self.texts.append(text)

    def step(self, seconds: float = 1.0, sampler: TokenSampler | None = None) -> list[int]:
        """How many tokens are guessed of each; `sampler` is what all of them are held by."""
        spans = tuple(
            Span(slot, one.num_computed, tuple(one.tokens[one.num_computed :]), one.first_output)
            for slot, one in enumerate(self.sequences)
        )
        plain = Step(tuple(self.sequences), spans, len(spans))
        step = self.drafting.fill(plain, seconds, lambda name: sampler)
        for one, span, text in zip(step.sequences, step.spans, self.texts, strict=True):
            right = 0
            while right < len(span.tokens) and span.tokens[right] == text[span.start + right]:
                right += 1
            one.tokens += text[span.start + 1 : span.start + right + 1]
            one.num_computed = len(one.tokens) - 1
        self.drafting.note(step)
        return [len(span.tokens) - 1 for span in step.spans]


def never_repeating(num_tokens: int, seed: int = 1) -> list[int]:
    return random.Random(seed).sample(range(100_000), num_tokens)


def repeating(num_tokens: int, period: int = 40, seed: int = 1) -> list[int]:
    part = never_repeating(period, seed)
    return (part * (num_tokens // period + 1))[:num_tokens]


def chat(num_tokens: int, seed: int = 1) -> list[int]:
    """Few words, so that pairs come again all the time, and say nothing of what follows."""
    rng = random.Random(seed)
    return [rng.randrange(12) for _ in range(num_tokens)]


def test_text_that_repeats_is_guessed_up_to_the_most() -> None:
    writer = Writer(FREE, num_prompt=45)
    writer.add(repeating(2000))
    guessed = [writer.step()[0] for _ in range(100)]
    assert max(guessed) == MAX_DRAFT
    assert len(writer.sequences[0].tokens) > 1400
    (one,) = writer.sequences
    assert (one.num_drafted, one.num_accepted) == (writer.drafting.num_drafted, writer.drafting.num_accepted)
    assert one.num_drafted == sum(guessed)
    assert one.num_accepted == len(one.tokens) - writer.num_prompt - 1 - 100


def test_text_that_never_repeats_costs_no_row_where_rows_cost_something() -> None:
    writer = Writer({1: 0.01, 2: 0.012, 4: 0.015}, num_prompt=500)
    writer.add(never_repeating(900))
    assert sum(writer.step()[0] for _ in range(390)) == 0


@pytest.mark.parametrize("seed", range(4))
def test_where_matches_say_nothing_guessing_ends(seed: int) -> None:
    writer = Writer(IN_FOURS, num_prompt=500)
    writer.add(chat(3000, seed))
    num_rows = [1 + writer.step()[0] for _ in range(1000)]
    assert sum(IN_FOURS[rows] for rows in num_rows[100:]) <= 1.02 * IN_FOURS[1] * len(num_rows[100:])


def test_guessing_begins_again_where_the_text_begins_to_repeat() -> None:
    noise, part = chat(800), never_repeating(200)
    writer = Writer(IN_FOURS, num_prompt=20)
    writer.add([*part, *noise, *part, *part])
    while len(writer.sequences[0].tokens) < 1000:
        writer.step()
    num_steps = 0
    while len(writer.sequences[0].tokens) < 1380:
        writer.step()
        num_steps += 1
    assert num_steps < 380 / 2


def test_where_a_row_costs_a_step_nothing_is_guessed() -> None:
    writer = Writer({1: 0.01, 32: 0.32}, num_prompt=45)
    writer.add(repeating(400))
    assert sum(writer.step()[0] for _ in range(100)) == 0


def test_three_rows_are_filled_up_to_four_where_four_take_less() -> None:
    writer = Writer(IN_FOURS)
    for seed in range(3):
        writer.add(never_repeating(400, seed))
    assert [sum(writer.step()) for _ in range(200)] == [1] * 200


def test_a_step_takes_no_longer_than_it_may() -> None:
    writer = Writer({1: 0.01, 4: 0.011, 8: 0.012, 16: 0.02}, num_prompt=45)
    writer.add(repeating(4000))
    for _ in range(20):
        writer.step()
    assert 1 + writer.step(seconds=0.02)[0] > 8
    assert 1 + writer.step(seconds=0.013)[0] == 8
    assert writer.step(seconds=0.005) == [0]


def test_no_more_is_guessed_than_may_be_said() -> None:
    writer = Writer(FREE, num_prompt=45, max_tokens=30)
    writer.add(repeating(400))
    (one,) = writer.sequences
    while one.num_generated < 30:
        num_before = one.num_generated
        assert writer.step()[0] <= 30 - num_before - 1
    assert one.num_generated == 30


def test_all_guesses_of_a_step_have_their_rows_in_it() -> None:
    writer = Writer(FREE, num_prompt=45, max_rows=10)
    for seed in range(4):
        writer.add(repeating(1000, seed=seed))
    assert max(sum(writer.step()) for _ in range(40)) == 6


def test_one_stream_gains_nothing_at_the_price_of_the_others() -> None:
    # Alone the one gains four times what its step costs; with three others all of them would wait for it.
    costs = {1: 0.010, 4: 0.011, 8: 0.022, 16: 0.030, 32: 0.06}
    alone = Writer(costs, num_prompt=45)
    alone.add(repeating(2000))
    beside = Writer(costs, num_prompt=45)
    beside.add(repeating(2000))
    for seed in range(3):
        beside.add(never_repeating(2000, seed))
    assert max(alone.step()[0] for _ in range(30)) > 3
    assert max(sum(beside.step()) for _ in range(30)) == 0


def test_a_step_of_other_tokens_than_streams_is_left_alone() -> None:
    drafting = Drafting(RowCosts(FREE), 32)
    sequence = Sequence("1", [1, 2, 1, 2, 1, 2], 6, 9, 0.0)
    prefill = Step((sequence,), (Span(0, 0, (1, 2, 1, 2, 1, 2), 5),))
    assert drafting.fill(prefill, 1.0) is prefill
    drafting.note(prefill)
    assert (sequence.num_drafted, drafting.num_drafted) == (0, 0)


# --- What rows cost ---


def test_rows_that_were_not_measured_cost_what_more_do_or_their_share_of_fewer() -> None:
    costs = RowCosts({1: 0.01, 4: 0.024, 8: 0.03})
    assert [round(costs.seconds(rows), 4) for rows in (1, 2, 3, 4, 5, 8, 16)] == [
        0.01, 0.02, 0.024, 0.024, 0.03, 0.03, 0.06,
    ]  # fmt: skip


def test_a_step_tells_of_all_others_and_most_of_its_like() -> None:
    costs = RowCosts({1: 0.01, 4: 0.02})
    for _ in range(50):
        costs.observe(1, 0.02)  # the context has grown
    assert costs.seconds(1) == pytest.approx(0.02, rel=0.01)
    assert 0.03 < costs.seconds(4) < 0.04
    for _ in range(50):
        costs.observe(4, 0.021)
        costs.observe(1, 0.02)
    assert costs.seconds(4) == pytest.approx(0.021, rel=0.05)
    assert costs.seconds(1) == pytest.approx(0.02, rel=0.05)


# --- In the engine's loop ---


def guessing(costs: dict[int, float] = FREE) -> Drafting:
    return Drafting(RowCosts(costs), 32)


class Stepping(Bench):
    """A second passes with each step, however many rows it has."""

    def _clock(self) -> float:
        return float(self.engine.num_steps)


def told(bench: Bench, name: str) -> tuple[str, tuple[int, ...], list[object], Finished]:
    generated = [event for event in bench.of(name) if isinstance(event, Generated)]
    end = bench.end(name)
    assert isinstance(end, Finished)
    tokens = tuple(token for event in generated for token in event.tokens)
    return bench.text(name), tokens, [one for event in generated for one in event.logprobs], end


WAYS: dict[str, dict[str, object]] = {
    "to its end": {},
    "to its length": {"max_tokens": 33},
    "to a stop text": {"sampling": Sampling(stop=("was lost",))},
    "with logprobs": {"sampling": Sampling(logprobs=2)},
    "resumed": {"resumed": tuple(tokens_of(TEXT[:7]))},
}


def drafted() -> Drafting:
    """By a draft model that is right three times in four."""

    def rule(tokens: list[int]) -> tuple[int, float]:
        said = "".join(chr(token - FIRST) for token in tokens).rpartition("!")[2]
        is_right = len(tokens) % 4 and len(said) < len(TEXT)
        return (ord(TEXT[len(said)]) + FIRST, 0.9) if is_right else (ord("?") + FIRST, 0.4)

    context = DraftContext(FakeDraft(rule), CostModel(1e-6, RowCosts({1: 1e-6})), lambda: 0.0)
    return Drafting(RowCosts(FREE), 32, Proposer(context))


@pytest.mark.parametrize("make", [guessing, drafted])
@pytest.mark.parametrize("way", WAYS)
def test_the_answer_is_the_same_in_fewer_steps(way: str, make: Callable[[], Drafting]) -> None:
    more: dict[str, object] = {"max_tokens": 200} | WAYS[way]
    plain, quick = Stepping(Observed(answer=TEXT)), Stepping(Observed(answer=TEXT), drafting=make())
    for bench in (plain, quick):
        bench.loop.submit(job("1", f"say: {TEXT[10:]}!", **more))  # type: ignore[arg-type]
        bench.run()
        bench.loop.submit(job("2", f"say: {TEXT[10:]}!{TEXT} and", conversation="1", max_tokens=9))
        bench.run()
    for name in "12":
        *without, end = told(plain, name)
        *same, quick_end = told(quick, name)
        assert same == without
        assert (quick_end.reason, quick_end.num_generated, quick_end.num_cached, quick_end.tokens) == (
            end.reason, end.num_generated, end.num_cached, end.tokens,
        )  # fmt: skip
    assert len(quick.steps) < len(plain.steps) / 2
    end = told(quick, "1")[3]
    assert end.num_drafted > end.num_accepted > 0
    assert (told(plain, "1")[3].num_drafted, told(plain, "1")[3].num_accepted) == (0, 0)
    decodes = [step for step, _ in quick.steps if step.is_decode and step.sequences[0].id == "1"]
    # The first token comes of the prompt, and the last step may bring an end instead of a token.
    assert len(told(quick, "1")[1]) - end.num_accepted - len(decodes) in (0, 1)
    snapshot = quick.loop.snapshot
    assert snapshot.num_drafted == sum(told(quick, name)[3].num_drafted for name in "12")
    assert snapshot.num_accepted == sum(told(quick, name)[3].num_accepted for name in "12")


def test_guesses_that_find_no_cells_are_done_without() -> None:
    bench = Stepping(Observed(answer=TEXT), drafting=guessing())
    bench.loop.submit(job("1", TEXT, max_tokens=100))
    bench.round(4)
    bench.engine.errors = [KvCacheFull()]
    bench.run()
    assert bench.text("1") == TEXT


def test_a_step_that_has_guesses_takes_no_longer_than_its_bound() -> None:
    bench = Stepping(Observed(answer=TEXT), drafting=guessing({1: 1.0, 4: 1.1, 8: 1.2, 16: 2.5}))
    bench.scheduler.budget = 1.3
    bench.scheduler.costs.rows = RowCosts({1: 0.5})
    bench.loop.submit(job("1", TEXT, max_tokens=100))
    bench.run()
    assert max(step.num_tokens for step, _ in bench.steps if step.is_decode) == 8


def test_guesses_are_no_tokens_of_a_prompt() -> None:
    sequence = Sequence("1", [1, 2, 3, 4], 2, 9, 0.0)
    step = Step((sequence, sequence), (Span(0, 3, (4, 5, 6), 1), Span(1, 0, (1, 2), 1)), 1)
    assert (step.num_prefill_tokens, step.num_tokens, step.is_decode) == (2, 5, False)
