"""Where a memory that cannot be cut may be taken back to: which checkpoints are made, kept and used."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FIRST, FakeEngine
from workers.engine.checkpoints import (
    BEFORE_END,
    MAX_PER_SLOT,
    MIN_DISTANCE,
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


def test_a_prompt_pauses_before_its_end_and_where_it_parts_from_another() -> None:
    assert stops(1000, 0, 0) == (1000 - BEFORE_END,)
    assert stops(1000, 0, 600) == (600, 1000 - BEFORE_END)
    assert stops(1000, 600, 600) == (1000 - BEFORE_END,)


def test_what_is_quickly_computed_again_has_no_checkpoint() -> None:
    assert stops(BEFORE_END + MIN_DISTANCE - 1, 0, 0) == ()
    assert stops(1000, 1000 - BEFORE_END - MIN_DISTANCE + 1, 0) == ()
    assert stops(1000, 0, 1000 - BEFORE_END - 1) == (1000 - BEFORE_END,)
    assert stops(1000, 0, 999) == (1000 - BEFORE_END,)


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
    made = [2000, *range(2100, 2100 + MAX_PER_SLOT * 50, 50)]
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

    def __init__(self, *, num_slots: int = 3, checkpoint_bytes: int = 10_000) -> None:
        self.engine = FakeEngine(num_slots=num_slots, can_remove_part=False, answer="a" * 100)
        scheduler = Scheduler(budget=60.0, max_batch_tokens=512, max_batch_outputs=32)
        self.slots = Slots(num_slots, 4096, can_remove_part=False, checkpoint_bytes=checkpoint_bytes)
        ticks = itertools.count()
        cache = OffloadCache(1 << 20, can_remove_part=False)
        self.loop = EngineLoop(self.engine, scheduler, self.slots, cache, clock=lambda: float(next(ticks)))
        self._names = map(str, itertools.count())

    def turn(self, prompt: list[int], client: str = "c", conversation: str = "v") -> Finished:
        job = Job(next(self._names), client, conversation, prompt, max_tokens=41)
        self.loop.submit(job)
        events: list[Event] = []
        while self.loop.has_work:
            self.loop.take_orders()
            events += self.loop.run_round()
        assert isinstance(events[-1], Finished), events[-1]
        return events[-1]


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
