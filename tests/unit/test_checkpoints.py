"""Where a memory that cannot be cut may be taken back to: which checkpoints are made, kept and used."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Sampling
from tests.fakes import FIRST, FakeEngine
from workers.engine.checkpoints import (
    BEFORE_END,
    MAX_PER_SLOT,
    MIN_DISTANCE,
    MIN_STEP,
    Checkpoint,
    Checkpoints,
    stops,
)
from workers.engine.events import Event, Finished, Job
from workers.engine.loop import EngineLoop
from workers.engine.scheduler import Scheduler
from workers.engine.slots import Slots
from workers.kv.cache import OffloadCache

FAR = 10 * MIN_DISTANCE


def checkpoint(num_tokens: int, num_bytes: int = 10, made_at: float = 0.0) -> Checkpoint:
    return Checkpoint(num_tokens, bytes(num_bytes), made_at)


def positions(kept: Checkpoints, slot: int = 0) -> list[int]:
    return [one.num_tokens for one in kept.of(slot)]


# --- Where a prompt's computation pauses ---


def test_a_prompt_pauses_where_it_or_another_conversation_comes_back_to() -> None:
    assert stops((600, 992), 0) == (600, 992)
    assert stops((600, 992), 600) == (992,)
    assert stops((992, 0), 0) == (992,)


def test_what_is_quickly_computed_again_has_no_pause_and_of_two_places_the_earlier_serves_both() -> None:
    assert stops((MIN_STEP - 1,), 0) == ()
    assert stops((1000,), 1000 - MIN_STEP + 1) == ()
    assert stops((1000 + MIN_STEP - 1, 1000), 0) == (1000,)
    assert stops((1000 + MIN_STEP, 1000), 0) == (1000, 1000 + MIN_STEP)


# --- Which are kept ---


def test_the_latest_checkpoint_before_a_position_is_found() -> None:
    kept = Checkpoints(1000)
    for at in (100, 200, 300):
        kept.add(0, checkpoint(at))
    found = kept.best(0, 299)
    assert found is not None
    assert found.num_tokens == 200
    assert kept.best(0, 99) is None
    assert kept.best(1, 299) is None


def test_a_checkpoint_is_not_wanted_near_another_nor_where_it_does_not_fit() -> None:
    kept = Checkpoints(100)
    kept.add(0, checkpoint(200))
    assert not kept.wants(0, 200 + MIN_DISTANCE - 1, 10)
    assert kept.wants(0, 200 + MIN_DISTANCE, 10)
    assert not kept.wants(0, FAR, 101)
    assert not Checkpoints(0).wants(0, FAR, 1)


def test_a_slot_keeps_few_and_of_the_older_ones_those_that_save_most() -> None:
    kept = Checkpoints(10_000)
    made = [2000, *range(2100, 2100 + MAX_PER_SLOT * 50, 50), 2400 + MIN_DISTANCE]
    for at in made:
        kept.add(0, checkpoint(at))
    assert len(positions(kept)) == MAX_PER_SLOT
    assert positions(kept)[0] == 2000
    assert positions(kept)[-2:] == made[-2:]


def test_beyond_the_cap_goes_what_saves_the_fewest_tokens_a_byte() -> None:
    kept = Checkpoints(35)
    kept.add(0, checkpoint(1000))
    kept.add(1, checkpoint(500))
    kept.add(2, checkpoint(800))
    kept.add(3, checkpoint(900))
    assert [positions(kept, slot) for slot in range(4)] == [[1000], [], [800], [900]]
    assert kept.num_bytes == 30


def test_of_equals_the_oldest_goes() -> None:
    kept = Checkpoints(25)
    for slot, made_at in enumerate((2.0, 1.0, 3.0)):
        kept.add(slot, checkpoint(500, made_at=made_at))
    assert [positions(kept, slot) for slot in range(3)] == [[500], [], [500]]


def test_what_slots_share_is_counted_once_and_stays_with_either() -> None:
    kept = Checkpoints(100)
    kept.add(0, checkpoint(100))
    kept.add(0, checkpoint(200))
    kept.share(0, 1, 150)
    assert positions(kept, 1) == [100]
    assert kept.num_bytes == 20
    kept.cut(0, 0)
    assert kept.num_bytes == 10


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 500), st.integers(1, 60)), max_size=60), st.integers(0, 200)
)
def test_neither_the_cap_nor_the_number_is_ever_exceeded(added: list[tuple[int, int, int]], cap: int) -> None:
    kept = Checkpoints(cap)
    for now, (slot, at, num_bytes) in enumerate(added):
        if kept.wants(slot, at, num_bytes):
            kept.add(slot, checkpoint(at, num_bytes, float(now)))
        assert kept.num_bytes <= cap
        assert len(positions(kept, slot)) <= MAX_PER_SLOT
        assert positions(kept, slot) == sorted(set(positions(kept, slot)))


# --- What turns compute ---


class Desk:
    """A loop over an engine whose slots have one state each, which is that of their last token."""

    def __init__(self, *, num_slots: int = 3, checkpoint_bytes: int = 10_000, answer: str = "a" * 100) -> None:
        self.engine = FakeEngine(num_slots=num_slots, can_remove_part=False, answer=answer)
        scheduler = Scheduler(budget=60.0, max_batch_tokens=512, max_batch_outputs=32)
        self.slots = Slots(num_slots, 4096, can_remove_part=False, checkpoint_bytes=checkpoint_bytes)
        ticks = itertools.count()
        cache = OffloadCache(1 << 20, can_remove_part=False)
        self.loop = EngineLoop(self.engine, scheduler, self.slots, cache, clock=lambda: float(next(ticks)))
        self._names = map(str, itertools.count())

    def submit(self, prompt: list[int], client: str = "c", conversation: str = "v", **fields: Any) -> str:
        job = Job(next(self._names), client, conversation, prompt, **({"max_tokens": 41} | fields))
        self.loop.submit(job)
        return job.id

    def turn(self, prompt: list[int], client: str = "c", conversation: str = "v", **fields: Any) -> Finished:
        name = self.submit(prompt, client, conversation, **fields)
        events: list[Event] = []
        while self.loop.has_work:
            self.loop.take_orders()
            events += self.loop.run_round()
        (end,) = (event for event in events if isinstance(event, Finished) and event.job == name)
        return end


def words(seed: int, length: int) -> list[int]:
    return [FIRST + 65 + (seed * 7 + index * index) % 50 for index in range(length)]


def test_the_next_turn_computes_nothing_twice() -> None:
    desk = Desk()
    first = desk.turn(words(1, 200))
    following = desk.turn([*first.tokens, *words(2, 50)])
    assert following.num_cached == len(first.tokens) - 1


def test_an_answer_that_is_asked_for_again_costs_the_prompts_end() -> None:
    desk = Desk()
    desk.turn(words(1, 200))
    assert desk.turn(words(1, 200)).num_cached == 200 - BEFORE_END


def test_an_edited_message_goes_on_from_the_answer_before_it() -> None:
    desk = Desk()
    first = desk.turn(words(1, 200))
    desk.turn([*first.tokens, *words(2, 50)])
    assert desk.turn([*first.tokens, *words(3, 60)]).num_cached == len(first.tokens) - 1


def test_a_prompt_that_two_conversations_share_is_computed_for_the_third_no_more() -> None:
    desk = Desk(num_slots=4)
    shared = words(1, 300)
    desk.turn([*shared, FIRST, *words(2, 50)], conversation="1")
    assert desk.turn([*shared, FIRST + 1, *words(3, 50)], conversation="2").num_cached == 0
    assert desk.turn([*shared, FIRST + 2, *words(4, 50)], conversation="3").num_cached == 300


def test_what_stands_before_the_first_message_is_computed_once() -> None:
    desk = Desk(num_slots=4)
    shared = words(1, 300)
    for number in range(3):
        prompt = [*shared, FIRST + number, *words(2 + number, 50)]
        found = desk.turn(prompt, conversation=str(number), boundaries=(300, len(prompt) - 5))
        assert found.num_cached == (300 if number else 0)


def test_what_a_running_turn_has_of_a_shared_beginning_is_not_computed_beside_it() -> None:
    desk = Desk(num_slots=4)
    shared = words(1, 300)
    desk.submit([*shared, FIRST, *words(2, 50)], conversation="1", boundaries=(300, 346))
    for _ in range(10):
        desk.loop.take_orders()
        desk.loop.run_round()
    assert desk.turn([*shared, FIRST + 1, *words(3, 50)], conversation="2", max_tokens=3).num_cached == 300


def scored(*texts: tuple[list[int], int]) -> dict[str, Any]:
    return {"continuations": tuple((tuple(tokens), begin) for tokens, begin in texts), "max_tokens": 50}


def test_a_scored_prompt_is_computed_once_for_all_of_its_continuations() -> None:
    desk = Desk()
    prompt = words(1, 300)
    texts = [([*prompt, *words(number, 20)], 300) for number in range(2, 6)]
    end = desk.turn(prompt, **scored(*texts))
    assert desk.engine.num_tokens == 299 + 4 * 21
    assert [one.num_tokens for one in end.scores] == [20] * 4
    assert desk.turn(prompt, **scored(*texts)).num_cached == 299


def test_where_a_tokenizer_merges_the_prompts_last_tokens_no_turn_is_given_more_than_is_left_of_it() -> None:
    desk = Desk(num_slots=4)
    prompt = words(1, 300)
    desk.turn(prompt, conversation="before")
    merged = [*prompt[:296], FIRST + 900, *words(3, 40)]
    name = desk.submit(prompt, **scored(([*prompt, *words(2, 40)], 300), (merged, 296), (merged, 296)))
    other = [*prompt, *words(4, 40)]
    desk.submit(other, conversation="other")
    while desk.loop.has_work:
        desk.loop.take_orders()
        for event in desk.loop.run_round():
            assert not (isinstance(event, Finished) and event.job == name) or len(event.scores) == 3
        for active in desk.loop._running.values():
            sequence = active.sequence
            assert desk.engine.cells[sequence.slot] == sequence.tokens[: sequence.num_computed]
            shared = desk.slots[sequence.slot].tokens
            assert sequence.tokens[: len(shared)] == shared


@pytest.mark.parametrize("says", ["a" * 30 + "END", "a" * 22 + "E" * 8 + "END", "E" + "a" * 30 + "END"])
def test_an_answer_that_a_stop_text_ended_is_gone_on_with_from_before_it(says: str) -> None:
    desk = Desk(answer=says)
    end = desk.turn(words(1, 200), sampling=Sampling(stop=("END",)))
    known = list(end.tokens[:-3])
    assert len(known) - MIN_DISTANCE < desk.turn([*known, *words(2, 50)]).num_cached <= len(known)
    assert desk.turn([*known, *words(3, 60)]).num_cached > len(known) - MIN_DISTANCE, "its next message was edited"


@pytest.mark.parametrize("checkpoint_bytes", [0, 99])
def test_without_room_for_checkpoints_only_whole_conversations_are_reused(checkpoint_bytes: int) -> None:
    desk = Desk(checkpoint_bytes=checkpoint_bytes)
    first = desk.turn(words(1, 200))
    assert desk.turn(words(1, 200), conversation="again").num_cached == 0
    assert desk.turn([*first.tokens, 7], conversation="next").num_cached == len(first.tokens) - 1


def test_a_slot_that_was_given_away_has_no_checkpoints_of_before() -> None:
    desk = Desk(num_slots=1)
    desk.turn(words(1, 200))
    desk.turn(words(2, 300), client="other")
    assert positions(desk.slots.checkpoints) == [300 - BEFORE_END]
    assert desk.turn(words(1, 200)).num_cached == 0
