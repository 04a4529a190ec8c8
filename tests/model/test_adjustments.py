"""Biases and penalties, with a real llama.cpp's vocabulary and logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import prompt
from workers.engine.drafting import Drafting
from workers.engine.protocol import Span
from workers.engine.row_costs import RowCosts
from workers.llama.adjustments import Adjustments
from workers.llama.context import LlamaModel

Start = Callable[..., Bench]


def changed(model: LlamaModel, sampling: Sampling, tokens: list[int], num_answered: int = 0) -> dict[int, float]:
    """By how much each logit is moved that is."""
    logits = np.linspace(-1, 1, model.vocabulary.num_tokens, dtype=np.float32)
    found = Adjustments(model.vocabulary, sampling, tokens, num_answered).applied(logits) - logits
    return {int(token): round(float(found[token]), 4) for token in found.nonzero()[0]}


def test_without_any_the_logits_are_the_very_same(tiny: LlamaModel) -> None:
    logits = np.zeros(tiny.vocabulary.num_tokens, dtype=np.float32)
    assert Adjustments(tiny.vocabulary, Sampling(), [1, 2], 1).applied(logits) is logits


def test_presence_counts_once_and_frequency_each_time_and_of_the_answer_alone(tiny: LlamaModel) -> None:
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    tokens = [400, 400, 400, 500, 500, 600]
    assert changed(tiny, sampling, tokens, 3) == {500: -1.0, 600: -0.75}
    assert changed(tiny, sampling, tokens) == {}


def test_what_is_chosen_later_counts_as_what_was_known(tiny: LlamaModel) -> None:
    logits = np.zeros(tiny.vocabulary.num_tokens, dtype=np.float32)
    sampling, tokens = Sampling(presence_penalty=0.3, frequency_penalty=0.1, repeat_penalty=1.2), [400]
    grown = Adjustments(tiny.vocabulary, sampling, tokens, 0)
    for token in (500, 600, 500, 700):
        grown.applied(logits)
        tokens.append(token)
    at_once = Adjustments(tiny.vocabulary, sampling, tokens, 4)
    assert grown.applied(logits).tolist() == at_once.applied(logits).tolist()


def test_a_text_biases_each_token_that_it_is_made_of_and_biases_add_up(tiny: LlamaModel) -> None:
    tokens = Counter(tiny.vocabulary.tokenize("hello you", template_spans=[], add_bos=False))
    assert len(tokens) > 1
    found = changed(tiny, Sampling(logit_bias=(("hello you", 2.0), (700, -3.0), (700, 1.0))), [])
    assert found == {token: 2.0 * number for token, number in tokens.items()} | {700: -2.0}


def test_a_bias_of_a_billion_forbids_whatever_else_is_added(bench: Start) -> None:
    one = bench(deterministic=True)
    plain = one.answer(prompt(40), Sampling(max_tokens=20, ignore_eos=True))
    forbidden = tuple((token, -1e9) for token in set(plain))
    for sampling in (Sampling(temperature=0), Sampling(temperature=5.0, top_k=50)):
        logit_bias = (*forbidden, (plain[0], 1e6))
        found = one.answer(
            prompt(40),
            Sampling(max_tokens=20, ignore_eos=True, temperature=sampling.temperature, logit_bias=logit_bias),
        )
        assert len(found) == 20
        assert not set(found) & set(plain)


def test_a_bias_of_an_end_token_ends_the_answer_unless_ends_are_ignored(bench: Start) -> None:
    one = bench(deterministic=True)
    end = min(one.model.vocabulary.end_tokens)
    assert one.answer(prompt(40), Sampling(max_tokens=5, logit_bias=((end, 1000.0),))) == []
    ignoring = Sampling(max_tokens=5, ignore_eos=True, logit_bias=((end, 1000.0),))
    assert len(one.answer(prompt(40), ignoring)) == 5


def test_what_a_grammar_wants_and_a_bias_forbids_is_refused(bench: Start) -> None:
    one = bench()
    vocabulary = one.model.vocabulary
    biases = tuple((token, -1e9) for token in range(vocabulary.num_tokens) if vocabulary.piece(token).isdigit())
    one.submit("digits", prompt(40), Sampling(logit_bias=biases), gbnf="root ::= [0-9]")
    one.run()
    assert one.rejected("digits").code == "invalid_grammar"
    assert "no token of the model can go on" in one.rejected("digits").detail


def test_a_bias_chooses_among_what_a_grammar_allows(bench: Start) -> None:
    one = bench()
    one.submit("lean", prompt(40), Sampling(logit_bias=(("b", 100.0), ("z", 1000.0))), gbnf="root ::= [abc]{6}")
    one.run()
    assert one.text("lean") == "bbbbbb"


def test_log_probabilities_are_told_before_biases_and_penalties(bench: Start) -> None:
    one = bench(deterministic=True)
    start = prompt(40)
    one.submit("plain", start, Sampling(max_tokens=1, ignore_eos=True, logprobs=3))
    one.run()
    one.submit("biased", start, Sampling(max_tokens=1, ignore_eos=True, logprobs=3, logit_bias=((700, 1000.0),)))
    one.run()
    (plain,), (biased,) = (one.generated(name)[0].logprobs for name in ("plain", "biased"))
    assert biased.token == 700
    assert biased.top == plain.top
    row = one.engine.decode([Span(0, 0, tuple(start), 39)])[0][-1] if one.engine.truncate(0, 0) else 0
    assert biased.logprob == pytest.approx(one.engine.logprob(row, 700, 0).logprob, abs=0.3)


def test_a_frequency_penalty_keeps_a_greedy_answer_from_repeating(bench: Start) -> None:
    one = bench(deterministic=True)
    answered = one.answer(prompt(40), Sampling(max_tokens=30, frequency_penalty=100.0, ignore_eos=True))
    assert len(set(answered)) == 30


def test_guesses_change_nothing_in_what_penalties_and_biases_choose(bench: Start) -> None:
    # Biases so strong that no near tie is left, which rows of guesses may decide otherwise.
    cycle = tuple((token, 200.0 - 7 * index) for index, token in enumerate(range(400, 406)))
    sampling = Sampling(max_tokens=40, ignore_eos=True, logit_bias=cycle, frequency_penalty=15.0, presence_penalty=10.0)
    drafting = Drafting(RowCosts({1: 1.0, 2: 0.5, 32: 0.5}), 32)
    start = [1, *[400, 401, 402, 403, 404, 405] * 8]
    guessed = bench(drafting=drafting).answer(start, sampling)
    assert drafting.num_drafted > 5
    assert guessed == bench().answer(start, sampling)
    assert len(set(guessed)) > 5


def test_a_token_that_there_is_not_is_refused_by_name(bench: Start) -> None:
    one = bench()
    number = one.model.vocabulary.num_tokens
    one.submit("none", prompt(10), Sampling(logit_bias=((number, 1.0),)))
    one.run()
    assert one.rejected("none").code == "invalid_message"
    assert f"sampling.logit_bias: {number} is no token" in one.rejected("none").detail
