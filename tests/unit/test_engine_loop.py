"""The engine loop's rounds, taken by hand: orders, steps and ends; and its thread, which ends with its engine."""

from __future__ import annotations

import pytest

from broker.messages import Sampling
from tests.engine_bench import LONG, Bench, Observed, Told, job, tokens_of
from workers.engine.calibration import Calibration
from workers.engine.events import Computed, Finished, Generated, Lost, Rejected, Seated
from workers.engine.power import Power
from workers.engine.protocol import EngineLost, KvCacheFull
from workers.engine.threads import StepThreads, Threads
from workers.kv.index import Key

SECONDS = 10.0


# --- A round ---


def test_a_round_is_decode_update_outputs_finish() -> None:
    bench = Bench()
    bench.loop.submit(job("1", max_tokens=1))
    bench.round()
    assert bench.engine.noted == ["decode", "update", "outputs", "observe", "finish"]


def test_a_job_is_seated_generates_and_finishes() -> None:
    bench = Bench()
    bench.loop.submit(job("1"))
    bench.run()
    seated, *generated, end = bench.events
    assert seated == Seated("1", 0, None, waited_seconds=2.0)
    assert [event.text for event in generated if isinstance(event, Generated)] == [*"answer"]
    assert isinstance(end, Finished)
    assert (end.reason, end.num_prompt_tokens, end.num_cached, end.num_generated) == ("stop", 5, 0, 6)
    assert end.tokens == (*tokens_of("hello"), *tokens_of("answer"))
    assert bench.engine.num_samplers == 0


def test_each_step_of_a_prompt_is_told_of_to_whom_it_matters() -> None:
    bench = Bench()
    bench.loop.submit(job("1", LONG))
    bench.loop.submit(job("2", LONG * 8, tells_progress=True))
    bench.run()
    assert [event for event in bench.of("1") if isinstance(event, Computed)] == []
    told = [event.num_tokens for event in bench.of("2") if isinstance(event, Computed)]
    assert len(told) > 1
    assert told == sorted(set(told))
    assert told[-1] == len(LONG * 8)
    assert isinstance(bench.of("2")[len(told) + 1], Generated), "they come before the first token"


def test_the_next_turn_of_a_conversation_goes_on_behind_what_is_in_its_slot() -> None:
    bench = Bench()
    bench.loop.submit(job("1", LONG, conversation="v"))
    bench.run()
    assert bench.loop.snapshot.resident == {Key("c", "v"): len(LONG) + len("answer")}
    bench.loop.submit(job("2", LONG + "answer, and then", conversation="v"))
    bench.run()
    assert bench.of("2")[0] == Seated("2", len(LONG) + len("answer"), "context", waited_seconds=2.0)


def test_jobs_are_computed_in_one_step_together() -> None:
    bench = Bench()
    for name in "123":
        bench.loop.submit(job(name, name * 8))
    bench.run()
    assert {name: bench.text(name) for name in "123"} == dict.fromkeys("123", "answer")
    assert len(bench.steps) == 1 + len("answer")
    assert all(len(step.spans) == 3 for step, _ in bench.steps)


def test_what_is_scored_is_told_at_its_end_and_nothing_before() -> None:
    bench = Bench()
    known = tuple(tokens_of("hello you"))
    bench.loop.submit(job("1", continuations=((known, 5), (known[:7], 5))))
    bench.run()
    assert [type(event) for event in bench.events] == [Seated, Finished]
    end = bench.end("1")
    assert isinstance(end, Finished)
    assert [score.num_tokens for score in end.scores] == [4, 2]
    assert end.num_generated == 0


# --- Cancelling ---


def test_a_seated_job_is_cancelled_with_the_text_that_was_held_back() -> None:
    bench = Bench()
    bench.loop.submit(job("1", sampling=Sampling(stop=("answers",))))
    bench.round(3)
    assert bench.text("1") == ""
    bench.loop.cancel("1")
    bench.round()
    end = bench.end("1")
    assert isinstance(end, Finished)
    assert (end.reason, bench.text("1"), end.num_generated) == ("cancelled", "ans", 3)
    assert bench.engine.num_samplers == 0
    assert not bench.loop.has_work


def test_a_waiting_job_is_cancelled_and_the_next_one_gets_the_slot() -> None:
    bench = Bench(Observed(num_slots=1))
    for name in "123":
        bench.loop.submit(job(name))
    bench.round()
    assert (bench.loop.snapshot.num_active, bench.loop.snapshot.num_waiting) == (1, 2)
    bench.loop.cancel("2")
    bench.round()
    assert bench.of("2") == [Finished("2", "cancelled", 5, 0, 0, 0.0, 0.0)]
    bench.run()
    assert (bench.text("1"), bench.text("3")) == ("answer", "answer")


def test_cancelling_what_nobody_knows_changes_nothing() -> None:
    bench = Bench()
    bench.loop.submit(job("1"))
    bench.loop.cancel("another")
    bench.run()
    bench.loop.cancel("1")
    bench.round()
    assert len(bench.of("1")) == 8


# --- Preemption ---


def test_a_batch_job_gives_way_to_an_interactive_one_and_its_answer_is_whole() -> None:
    bench = Bench(Observed(num_slots=2, answer="a" * 40))
    for name in ("first", "latest"):
        bench.loop.submit(job(name, name + LONG, max_tokens=40, is_batch=True))
        bench.round(2)
    for number in (1, 2):
        bench.loop.submit(job(f"quick {number}", LONG[::-1], max_tokens=3))
    bench.round()
    assert bench.of("quick 1")
    assert not bench.of("quick 2"), "the other slot is batch's share"
    bench.run()
    ended = [event.job for event in bench.events if isinstance(event, Finished)]
    assert ended == ["quick 1", "quick 2", "first", "latest"]
    for name in ("first", "latest"):
        assert bench.text(name) == "a" * 40
        assert sum(isinstance(event, Seated) for event in bench.of(name)) == 1
    assert bench.engine.num_restored == 1


def test_behind_its_first_tokens_nothing_is_told_of_a_prompt_that_is_computed_once_more() -> None:
    bench = Bench(Observed(num_slots=2, answer="a" * 40), cache_bytes=1)  # nothing has room there
    for name in ("first", "latest"):
        bench.loop.submit(job(name, name + LONG, max_tokens=40, is_batch=True, tells_progress=True))
        bench.round(2)
    bench.loop.submit(job("quick", LONG[::-1], max_tokens=3))
    bench.run()
    assert bench.text("latest") == "a" * 40
    assert sum(span.start == 0 for step, _ in bench.steps for span in step.spans) == 4, "one was computed once more"
    told = [type(event) for event in bench.of("latest")]
    assert Computed not in told[told.index(Generated) :]


def test_a_preempted_job_is_cancelled_like_any_other() -> None:
    bench = Bench(Observed(num_slots=2, answer="a" * 40))
    for name in ("first", "latest"):
        bench.loop.submit(job(name, max_tokens=40, is_batch=True))
        bench.round(2)
    bench.loop.submit(job("quick", max_tokens=30))
    bench.round()
    bench.loop.cancel("latest")
    bench.round()
    end = bench.end("latest")
    assert isinstance(end, Finished)
    assert (end.reason, end.num_generated) == ("cancelled", len(bench.text("latest")))
    bench.run()
    assert bench.text("first") == "a" * 40
    assert bench.engine.num_samplers == 0


# --- What goes wrong ---


def test_a_sampler_that_raises_ends_its_own_job_and_no_other() -> None:
    bench = Bench()
    bench.loop.submit(job("1", gbnf="refused"))
    bench.loop.submit(job("2"))
    bench.run()
    assert bench.end("1") == Rejected("1", "invalid_grammar", "refused")
    assert (bench.text("1"), bench.text("2")) == ("an", "answer")
    assert bench.engine.num_samplers == 0


def test_a_late_grammar_keeps_nobody_waiting() -> None:
    bench = Bench()
    bench.engine.grammars_answer = False
    bench.loop.submit(job("1", gbnf="late", max_tokens=3))
    bench.loop.submit(job("2"))
    while not any(isinstance(event, Finished) for event in bench.events):
        bench.round()
    assert bench.text("1") == "an"
    bench.engine.grammars_answer = True
    bench.run()
    assert bench.text("1") == "an?"


def test_where_the_engine_has_no_cells_an_idle_conversation_goes_and_the_step_is_taken_again() -> None:
    bench = Bench()
    bench.loop.submit(job("idle", LONG))
    bench.run()
    bench.loop.submit(job("1"))
    bench.engine.errors = [KvCacheFull()]
    bench.run()
    assert bench.text("1") == "answer"
    assert Key("c", "idle") not in bench.loop.snapshot.resident
    assert bench.cache.keys() == [Key("c", "idle")]


def test_where_no_conversation_is_idle_the_youngest_job_goes() -> None:
    bench = Bench()
    bench.loop.submit(job("1"))
    bench.loop.submit(job("2"))
    bench.engine.errors = [KvCacheFull()]
    bench.run()
    end = bench.end("2")
    assert isinstance(end, Rejected)
    assert (end.code, end.retryable) == ("overloaded", True)
    assert bench.text("1") == "answer"


# --- An answer that an earlier worker began ---


def test_a_resumed_answer_is_gone_on_with_and_not_told_again() -> None:
    bench = Bench()
    bench.loop.submit(job("1", resumed=tuple(tokens_of("ans"))))
    bench.run()
    assert bench.text("1") == "wer"
    end = bench.end("1")
    assert isinstance(end, Finished)
    assert end.num_generated == 6


def test_an_answer_that_was_sent_whole_ends_though_no_slot_is_free() -> None:
    bench = Bench(Observed(num_slots=1))
    bench.loop.submit(job("1"))
    bench.round()
    bench.loop.submit(job("2", max_tokens=3, resumed=tuple(tokens_of("ans"))))
    bench.round()
    (end,) = bench.of("2")
    assert isinstance(end, Finished)
    assert (end.reason, end.num_generated) == ("length", 3)


# --- What is told beside events ---


def test_states_are_exported_one_a_round_between_steps() -> None:
    bench = Bench()
    for name in "12":
        bench.loop.submit(job(name, name + LONG))
    bench.run()
    exports = [bench.loop.export(Key("c", name)) for name in ("1", "2", "none")]
    done = []
    for _ in exports:
        bench.round()
        done.append(sum(one.done() for one in exports))
    assert done == [1, 2, 3]
    found = [one.result() for one in exports]
    assert [None if one is None else one[0].key for one in found] == [Key("c", "1"), Key("c", "2"), None]


def test_an_export_that_nobody_waits_for_any_more_costs_no_turn() -> None:
    bench = Bench()
    bench.loop.submit(job("1", "1" + LONG))
    bench.run()
    exports = [bench.loop.export(Key("c", "1")) for _ in range(2)]
    assert exports[0].cancel()
    bench.round()
    assert exports[1].result(SECONDS) is not None


def test_a_conversation_is_found_under_its_new_name() -> None:
    bench = Bench()
    bench.loop.submit(job("1", LONG, conversation="v"))
    bench.run()
    bench.loop.rename(Key("c", "v"), "w", [*tokens_of(LONG + "answer")])
    bench.round()
    assert [*bench.loop.snapshot.resident] == [Key("c", "w")]


def test_each_job_is_charged_for_its_tokens_and_choosing_them_is_part_of_the_step() -> None:
    bench = Bench(power=Power(watts=8.0))
    bench.loop.submit(job("1", "x" * 30, max_tokens=1))
    bench.loop.submit(job("2", "y" * 10, max_tokens=1))
    bench.run()
    ((_, seconds),) = bench.steps
    assert seconds == 3.0  # by this clock: two tokens are chosen between its beginning and its end
    first, second = bench.end("1"), bench.end("2")
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert [first.prefill_seconds, second.prefill_seconds] == pytest.approx([2.25, 0.75])
    assert [first.joules, second.joules] == pytest.approx([18.0, 6.0])


def test_the_threads_of_a_step_are_chosen_by_what_the_last_ones_took() -> None:
    class Fewer(Threads):
        def update(self, kind: int, cost: float, now: float) -> int:
            self.current -= 1
            return self.current

    bench = Bench(threads=StepThreads(Fewer(4), Fewer(8)))
    for name in "12":
        bench.loop.submit(job(name, name * 30))
        bench.round(3)
    first = [("prefill", 8), ("decode", 4), ("decode", 3)]
    assert bench.num_threads == [*first, ("prefill", 7), ("decode", 2), ("decode", 1)]


def test_rates_are_unknown_until_they_were_measured() -> None:
    assert Bench().loop.snapshot.prefill_tokens_per_second is None
    measured = Bench(calibration=Calibration(0.001, 0.05, 8, 4)).loop
    assert measured.snapshot.prefill_tokens_per_second == 1000.0


# --- The thread ---


def test_the_thread_takes_what_is_submitted_and_ends_when_it_is_told_to() -> None:
    bench, told = Bench(), Told()
    bench.loop.start(told)
    bench.loop.submit(job("1"))
    assert told.has_ended.wait(SECONDS)
    assert isinstance(told.events[-1], Finished)
    assert not bench.loop.has_ended
    bench.loop.stop()
    assert bench.loop.has_ended
    assert bench.loop.export(Key("c", "1")).result(SECONDS) is None
    assert [*bench.loop.idle_states()] == [], "without a cache nothing is kept"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(EngineLost(-3), "llama_decode returned -3"), (ValueError("a fault"), "ValueError: a fault")],
)
def test_with_its_engine_everything_ends_and_nobody_waits_for_ever(error: Exception, reason: str) -> None:
    bench, told = Bench(), Told()
    bench.engine.errors = [error]
    exports = [bench.loop.export(Key("c", name)) for name in "12"]
    bench.loop.submit(job("1"))
    bench.loop.start(told)
    assert told.has_ended.wait(SECONDS)
    assert told.events == [Seated("1", 0, None, waited_seconds=2.0), Lost(reason)]
    assert [one.result(SECONDS) for one in exports] == [None, None]
    bench.loop.stop()
    assert bench.loop.has_ended


def test_a_step_that_does_not_come_back_is_seen_from_outside() -> None:
    bench, told = Bench(), Told()
    assert bench.loop.stuck_seconds == 0.0
    bench.engine.gate.clear()
    bench.loop.start(told)
    bench.loop.submit(job("1"))
    assert bench.engine.entered.wait(SECONDS)
    assert bench.loop.stuck_seconds > 0
    bench.engine.gate.set()
    assert told.has_ended.wait(SECONDS)
    bench.loop.stop()
