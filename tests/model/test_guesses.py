"""A real llama.cpp takes guesses back: what is left of a sequence is what it would have been without them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import LOGITS_TOLERANCE
from workers.engine.calibration import MORE_ROWS, measure_rows
from workers.engine.drafting import Drafting
from workers.engine.protocol import Span
from workers.engine.row_costs import RowCosts
from workers.grammars.remote_matcher import RemoteMatcher
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.llama.sampler import LlamaSampler

PROMPT = [1, *(40 + index * 7 % 60 for index in range(90))]


@pytest.mark.parametrize("others", [0, 2], ids=["alone", "beside two streams"])
def test_rows_of_guesses_have_the_logits_of_single_ones_and_leave_no_trace(tiny: LlamaModel, others: int) -> None:
    right, wrong = (41, 42, 43), (90, 91, 92, 93)
    engine = LlamaEngine(tiny, ContextOptions(num_ctx=1024, num_slots=4))
    for slot in range(others + 1):
        engine.decode([Span(slot, 0, tuple(PROMPT), len(PROMPT))])
    besides = [Span(1 + slot, len(PROMPT), (50 + slot,), 0) for slot in range(others)]
    rows, *_ = engine.decode([Span(0, len(PROMPT), (40, *right, *wrong), 0), *besides])
    together = [engine.logits(row).copy() for row in rows]
    assert engine.truncate(0, len(PROMPT) + 4)
    ((after,),) = engine.decode([Span(0, len(PROMPT) + 4, (44,), 0)])
    together.append(engine.logits(after).copy())
    engine.truncate(0, len(PROMPT))
    for position, (token, index) in enumerate(zip((40, *right, 44), (0, 1, 2, 3, -1), strict=True), len(PROMPT)):
        ((row,),) = engine.decode([Span(0, position, (token,), 0)])
        assert np.abs(engine.logits(row) - together[index]).max() < LOGITS_TOLERANCE
    engine.close()


def test_rows_are_measured_and_nothing_is_left_in_the_context(tiny: LlamaModel) -> None:
    engine = LlamaEngine(tiny, ContextOptions(num_ctx=256))
    seconds = measure_rows(engine)
    assert tuple(seconds) == MORE_ROWS
    assert all(each > 0 for each in seconds.values())
    assert engine.state_bytes(0) == LlamaEngine.state_bytes(engine, 1)
    engine.close()


@pytest.mark.parametrize("shape", ["tiny", "sliding"])
def test_only_what_can_forget_tokens_is_guessed_for(
    shape: str, bench: Callable[..., Bench], tiny: LlamaModel, sliding: LlamaModel
) -> None:
    one = bench(tiny if shape == "tiny" else sliding)
    costs = RowCosts({1: 1.0})
    drafting = Drafting.of(one.engine, costs, is_wanted=True)
    assert (drafting.is_on, Drafting.of(one.engine, costs, is_wanted=False).is_on) == (shape == "tiny", False)


def test_what_is_chosen_is_what_would_be_chosen_without_guesses(bench: Callable[..., Bench]) -> None:
    # Whatever steps take, two rows are quicker than one: each step has a guess, most of them wrong.
    drafting = Drafting(RowCosts({1: 1.0, 2: 0.5, 32: 0.5}), 32)
    answer = bench(drafting=drafting).answer(PROMPT, Sampling(max_tokens=60, ignore_eos=True))
    assert drafting.num_drafted > len(answer) / 2
    assert drafting.num_drafted > drafting.num_accepted
    engine = bench().engine
    ((row,),) = engine.decode([Span(0, 0, tuple(PROMPT), len(PROMPT) - 1)])
    for position, token in enumerate(answer, len(PROMPT)):
        logits = engine.logits(row)
        # Of a random model's tokens some are as likely as the likeliest.
        assert logits[token] > logits.max() - 2 * LOGITS_TOLERANCE
        ((row,),) = engine.decode([Span(0, position, (token,), position)])


def settle(one: Bench) -> None:
    """Waits until all that was asked of grammars' processes is told."""
    for active in one.loop._running.values():
        matcher = active.sampler.matcher if isinstance(active.sampler, LlamaSampler) else None
        while matcher is not None and matcher._awaited:
            matcher.num_allowed(())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_the_grammar_forbids_is_not_computed(
    bench: Callable[..., Bench], tiny: LlamaModel, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Digits, a token each, in an order in which they hardly ever follow each other in the prompt.
    digits = "3141592653589793238462643383279502884197169399375105820974944592"
    known, text = tiny.vocabulary.tokenize(digits * 3, template_spans=[], add_bos=True), digits[::-1]
    num_forbidden = []
    for is_told in (True, False):
        if not is_told:
            monkeypatch.setattr(RemoteMatcher, "num_allowed", lambda matcher, guess: len(guess))
        one = bench(drafting=Drafting(RowCosts({1: 1.0, 32: 1.0}), 32))
        one.submit("a", known, Sampling(max_tokens=200, temperature=temperature), gbnf=f'root ::= "{text}"')
        while not one.has_ended("a"):
            one.step()
            if is_told:
                settle(one)
        assert one.text("a") == text
        said = [
            (b"".join(map(tiny.vocabulary.piece, guess)).decode(), text[begin - len(known) :])
            for begin, guess in one.guesses
        ]
        num_forbidden.append(sum(not rest.startswith(guess) for guess, rest in said))
    assert num_forbidden[0] == 0
    assert num_forbidden[1] > 0, "nothing was to be forbidden"
