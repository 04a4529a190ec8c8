"""Prompts that begin alike and come together are computed once."""

from __future__ import annotations

import pytest

from tests.engine_bench import Bench, Observed, job
from workers.engine.checkpoints import BEFORE_END
from workers.engine.events import Finished, Seated

PROMPT = "".join(chr(97 + index * 7 % 26) for index in range(1200))
"""More than a step takes."""
NAMES = "123"


def seated(bench: Bench, name: str) -> Seated:
    first = bench.of(name)[0]
    assert isinstance(first, Seated)
    return first


@pytest.mark.parametrize(
    ("can_remove_part", "num_left"), [(True, 1), (False, BEFORE_END)], ids=["all can be cut", "a recurrent state"]
)
def test_several_answers_to_one_prompt_cost_one_prompt(can_remove_part: bool, num_left: int) -> None:
    bench = Bench(Observed(num_slots=4, num_ctx=8192, can_remove_part=can_remove_part))
    for name in NAMES:
        bench.loop.submit(job(name, PROMPT, conversation="one"))
    bench.run()
    assert [bench.text(name) for name in NAMES] == ["answer"] * 3
    num_shared = len(PROMPT) - num_left
    assert [seated(bench, name).num_cached for name in NAMES] == [0, num_shared, num_shared]
    assert seated(bench, "3").cached_in == "context"
    assert bench.engine.num_tokens == len(PROMPT) + 2 * num_left + 3 * len("answer")


def test_conversations_that_begin_alike_compute_their_beginning_once() -> None:
    bench = Bench(Observed(num_slots=4, num_ctx=8192))
    for name in NAMES:
        bench.loop.submit(job(name, PROMPT + name * 20, conversation=name))
    bench.run()
    assert [seated(bench, name).num_cached for name in NAMES] == [0, len(PROMPT), len(PROMPT)]


def test_whoever_shares_nothing_or_is_another_client_does_not_wait() -> None:
    bench = Bench(Observed(num_slots=4, num_ctx=8192))
    bench.loop.submit(job("1", PROMPT))
    bench.loop.submit(job("2", PROMPT))
    bench.loop.submit(job("short", "what else"))
    bench.loop.submit(job("other", PROMPT, client="another"))
    bench.round()
    assert {event.job for event in bench.events if isinstance(event, Seated)} == {"1", "short", "other"}
    assert bench.loop.snapshot.num_waiting == 1
    bench.run()
    assert seated(bench, "other").num_cached == 0
    assert seated(bench, "2").num_cached == len(PROMPT) - 1


def test_where_the_first_is_cancelled_the_next_goes_on_from_what_it_has_and_the_others_wait_for_that_one() -> None:
    bench = Bench(Observed(num_slots=4, num_ctx=8192))
    for name in NAMES:
        bench.loop.submit(job(name, PROMPT))
    bench.round()
    bench.loop.cancel("1")
    bench.run()
    end = bench.end("1")
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    assert 0 < seated(bench, "2").num_cached < seated(bench, "3").num_cached == len(PROMPT) - 1
    assert bench.engine.num_tokens == len(PROMPT) + 1 + 2 * len("answer")


def test_one_that_waits_can_be_cancelled() -> None:
    bench = Bench(Observed(num_slots=4, num_ctx=8192))
    bench.loop.submit(job("1", PROMPT))
    bench.loop.submit(job("2", PROMPT))
    bench.round()
    bench.loop.cancel("2")
    bench.run()
    assert bench.of("2") == [Finished("2", "cancelled", len(PROMPT), 0, 0, 0.0, 0.0)]
    assert bench.text("1") == "answer"


def test_a_running_answer_gives_its_prompt_to_one_that_comes_later() -> None:
    bench = Bench(Observed(num_slots=4, num_ctx=8192, answer="a" * 40))
    bench.loop.submit(job("1", PROMPT, max_tokens=40))
    bench.round(20)
    bench.loop.submit(job("2", PROMPT + "then", max_tokens=40))
    bench.run()
    assert seated(bench, "2").num_cached == len(PROMPT)
    assert bench.text("1") == bench.text("2") == "a" * 40


def test_nobody_waits_for_a_prompt_of_a_batch_but_who_is_of_one() -> None:
    bench = Bench(Observed(num_slots=4, num_ctx=8192))
    bench.loop.submit(job("1", PROMPT, is_batch=True))
    bench.round()
    bench.loop.submit(job("2", PROMPT, is_batch=True))
    bench.loop.submit(job("3", PROMPT))
    bench.round()
    assert {event.job for event in bench.events if isinstance(event, Seated)} == {"1", "3"}
    bench.run()
    assert seated(bench, "2").num_cached == len(PROMPT) - 1
