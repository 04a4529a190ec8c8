"""Of every kind of memory: turns compute what is new and little else, and answer as from a cold start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import LOGITS_TOLERANCE, prompt
from tests.model.test_reuse import LONG, WATCHED, assert_same, cold, model, run, watched
from workers.engine.checkpoints import BEFORE_END, MIN_DISTANCE
from workers.engine.protocol import Span
from workers.engine.slots import common_prefix
from workers.llama.context import LlamaModel

Start = Callable[..., Bench]
ANSWER = Sampling(max_tokens=24, ignore_eos=True)
BEHIND = 5
"""Tokens that ChatML puts behind the user's message."""
__all__ = ["model"]


def costs(one: Bench, name: str) -> int:
    """How many tokens a turn computed."""
    end = one.finished(name)
    return len(end.tokens) - 1 - end.num_cached


class Costs:
    """What turns computed, and how many different tokens behind different ones there were."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.computed = self.distinct = 0

    def note(self, one: Bench, name: str) -> None:
        tokens = list(one.finished(name).tokens)[:-1]
        self.computed += costs(one, name)
        self.distinct += len(tokens) - max((common_prefix(tokens, other) for other in self.seen), default=0)
        self.seen.append(tokens)


def bound(model: LlamaModel) -> float:
    return 1.10 if model.is_recurrent or model.sliding_window else 1.02


def test_ten_turns_some_asked_again_some_edited_compute_next_to_nothing_twice(bench: Start, model: LlamaModel) -> None:
    one, spent = bench(model), Costs()
    known = prompt(200)

    def turn(name: str, question: int) -> list[int]:
        tokens = [*known, *prompt(30 + question, question)[1:]]
        another = Sampling(max_tokens=24, ignore_eos=True, temperature=1.0, seed=len(spent.seen))
        answered = run(one, name, tokens, another, conversation="c", boundaries=(200, len(tokens) - BEHIND))
        spent.note(one, name)
        return answered

    for number in range(10):
        answered = turn(f"turn {number}", number)
        if number % 3 == 1:
            answered = turn(f"again {number}", number)
        elif number % 3 == 2:
            answered = turn(f"edited {number}", 20 + number)
        known = answered
        run(one, f"other {number}", prompt(60, 50 + number), ANSWER, conversation=f"o{number}")
    assert spent.computed <= bound(model) * spent.distinct, spent.computed / spent.distinct


def test_an_answer_asked_for_again_and_an_edited_message_cost_a_checkpoints_distance(
    bench: Start, model: LlamaModel
) -> None:
    one = bench(model)
    known = run(one, "first", prompt(800), ANSWER, conversation="c")
    for number in range(4):
        asked = [*known, *prompt(40, number)[1:]]
        edited = [*known, *prompt(50, 30 + number)[1:]]
        for name, tokens in (("asked", asked), ("again", asked), ("edited", edited)):
            answered = run(one, f"{name} {number}", tokens, WATCHED, conversation="c")
            assert costs(one, f"{name} {number}") <= len(answered) - len(known) + MIN_DISTANCE
            if number == 3:
                assert_same(watched(one, f"{name} {number}"), cold(bench, model, tokens))
        assert one.finished(f"again {number}").num_cached >= len(asked) - BEFORE_END - MIN_DISTANCE
        known = run(one, f"last {number}", edited, ANSWER, conversation="c")


def test_thoughts_that_a_template_drops_cost_no_more_than_what_comes_after_them(
    bench: Start, model: LlamaModel
) -> None:
    one = bench(model)
    asked = history = prompt(600)
    for number in range(4):
        before, asked = asked, [*history, *prompt(40, number)[1:]]
        thoughts = run(one, f"turn {number}", asked, Sampling(max_tokens=80, ignore_eos=True), conversation="c")
        if number:
            assert one.finished(f"turn {number}").num_cached >= len(before) - BEFORE_END
        history = [*asked, *thoughts[len(asked) + 60 :]]
    tokens = [*history, *prompt(40, 9)[1:]]
    run(one, "last", tokens, WATCHED, conversation="c")
    assert one.finished("last").num_cached >= len(asked) - BEFORE_END
    assert_same(watched(one, "last"), cold(bench, model, tokens))


def test_a_prompt_that_conversations_share_is_computed_once(bench: Start, model: LlamaModel) -> None:
    one = bench(model)
    shared = prompt(500)
    for number in range(3):
        tokens = [*shared, 300 + number, *prompt(LONG if number == 1 else 60, number)[1:]]
        run(one, f"turn {number}", tokens, conversation=f"c{number}", boundaries=(500, len(tokens) - BEHIND))
        assert one.finished(f"turn {number}").num_cached == (500 if number else 0)
        if number:
            assert_same(watched(one, f"turn {number}"), cold(bench, model, tokens))


def test_a_scored_prompt_is_computed_once_and_each_continuation_scored_as_alone(
    bench: Start, model: LlamaModel
) -> None:
    one, alone = bench(model), bench(model, num_slots=1)
    tokens, lengths = prompt(400), (300, 3, 20)
    texts = [((*tokens, *prompt(length + 1, length)[1:]), 400) for length in lengths]
    one.submit("all", tokens, continuations=tuple(texts), max_tokens=300)
    one.run()
    assert one.num_computed == 399 + sum(length + 1 for length in lengths)
    for score, text in zip(one.finished("all").scores, texts, strict=True):
        alone.submit(f"{len(text[0])}", tokens, continuations=(text,), max_tokens=300, client=f"{len(text[0])}")
        alone.run()
        (expected,) = alone.finished(f"{len(text[0])}").scores
        assert score.logprobs == pytest.approx(expected.logprobs, abs=2 * LOGITS_TOLERANCE)


def test_a_running_turn_is_not_disturbed_by_what_is_copied_of_its_checkpoint(bench: Start, model: LlamaModel) -> None:
    one = bench(model)
    shared = prompt(300)
    run(one, "first", shared, WATCHED, conversation="a")
    run(one, "second", [*shared, *prompt(100, 2)[1:]], WATCHED, conversation="a")
    long = [*shared, *prompt(200, 3)[1:]]
    one.submit("long", long, Sampling(max_tokens=60, ignore_eos=True, logprobs=20), conversation="a")
    for _ in range(6):
        one.step()
    tokens = [*shared, *prompt(40, 4)[1:]]
    one.submit("copy", tokens, WATCHED, conversation="b")
    one.run()
    assert one.finished("copy").num_cached >= len(shared) - BEFORE_END
    assert_same(watched(one, "copy"), cold(bench, model, tokens))
    assert_same(watched(one, "long")[:4], cold(bench, model, long))


def test_an_engine_takes_a_slot_back_and_copies_it_to_where_a_checkpoint_was_made(
    bench: Start, model: LlamaModel
) -> None:
    engine = bench(model, num_slots=3).engine
    start, tail, long = prompt(300), prompt(40, 5)[1:], prompt(700, 9)
    whole = [*start, *tail]

    def last_logits(slot: int, begin: int) -> np.ndarray:
        rows = engine.decode([Span(slot, begin, tuple(whole[begin:]), len(whole) - 1)])
        return engine.logits(rows[0][0]).copy()

    expected = last_logits(1, 0)
    engine.decode([Span(0, 0, tuple(start), len(start))])
    checkpoint = engine.checkpoint(0)
    assert len(checkpoint) == engine.checkpoint_bytes(0)
    engine.decode([Span(0, 300, tuple(long), 2000)])
    assert engine.can_remove_part or not engine.is_whole(0, 300)
    assert engine.copy_rewound(0, 2, 300, checkpoint)
    assert np.abs(last_logits(2, 300) - expected).max() < LOGITS_TOLERANCE
    assert engine.rewind(0, 300, checkpoint)
    assert np.abs(last_logits(0, 300) - expected).max() < LOGITS_TOLERANCE


def test_a_checkpoint_that_is_none_leaves_the_slot_empty(bench: Start, model: LlamaModel) -> None:
    engine = bench(model, num_slots=2).engine
    engine.decode([Span(0, 0, tuple(prompt(300)), 300)])
    assert not engine.rewind(0, 100, bytes(100))
    assert not engine.is_whole(0, 1)
    engine.decode([Span(0, 0, tuple(prompt(300)), 300)])
