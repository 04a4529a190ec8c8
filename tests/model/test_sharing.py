"""A real llama.cpp: several answers to one prompt begin with a copy of it as soon as it is computed, in models that
keep all tokens and in those with windows or one state a sequence."""

from __future__ import annotations

from collections.abc import Callable

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import prompt
from tests.model.test_reuse import WATCHED, assert_same, cold, model, watched
from workers.engine.checkpoints import BEFORE_END
from workers.llama.context import LlamaModel

Start = Callable[..., Bench]
__all__ = ["model"]


def test_several_answers_are_those_that_each_would_have_alone_and_cost_one_prompt(
    bench: Start, model: LlamaModel
) -> None:
    one, start = bench(model, num_slots=4, budget=1e-6), prompt(300)
    one.submit("first", start, Sampling(max_tokens=40, ignore_eos=True), conversation="c")
    for name in ("second", "third"):
        one.submit(name, start, WATCHED, conversation="c")
    one.run()
    expected = cold(bench, model, start)
    for name in ("second", "third"):
        assert one.finished(name).num_cached >= len(start) - BEFORE_END
        assert_same(watched(one, name), expected)
    assert one.num_computed <= len(start) + 2 * BEFORE_END + 40 + 2 * 4


def test_conversations_that_are_begun_together_compute_their_system_message_once(
    bench: Start, model: LlamaModel
) -> None:
    one, system = bench(model, num_slots=4, budget=1e-6), prompt(200)
    prompts = [[*system, *prompt(40, 5 + number)[1:]] for number in range(3)]
    for number, tokens in enumerate(prompts):
        one.submit(f"{number}", tokens, WATCHED, boundaries=(200,))
    one.run()
    for number, tokens in enumerate(prompts):
        assert one.finished(f"{number}").num_cached == (200 if number else 0)
        assert_same(watched(one, f"{number}"), cold(bench, model, tokens))
