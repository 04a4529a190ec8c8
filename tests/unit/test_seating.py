"""Who gets which slot, what is found there, who goes for it; and what stays when a turn is over."""

from __future__ import annotations

from typing import Any

import pytest

from broker.messages import Sampling
from tests.fakes import FIRST, FakeEngine
from workers.engine.active import ActiveJob, Place
from workers.engine.costs import CostModel
from workers.engine.events import Job
from workers.engine.preemption import batch_reserve, next_up, victim_of
from workers.engine.row_costs import RowCosts
from workers.engine.seating import Seating
from workers.engine.slots import Slots
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.index import Key, KvEntry, packed


def tokens_of(text: str) -> list[int]:
    return [ord(character) + FIRST for character in text]


def waiting(
    name: str, prompt: str = "hello", *, client: str = "c", arrived_at: float = 0.0, **fields: object
) -> ActiveJob:
    conversation = fields.pop("conversation", name)
    job = Job(name, client, conversation, tokens_of(prompt), **({"max_tokens": 10} | fields))  # type: ignore[arg-type]
    return ActiveJob.of(job, arrived_at)


# --- Decisions ---


def test_interactive_goes_first_then_who_was_preempted_then_the_others_in_order() -> None:
    batch, other, quick, late = (waiting(name, is_batch=name in "bo") for name in "boql")
    aside = waiting("aside", is_batch=True)
    assert next_up([batch, other, quick, late], [aside]) is quick
    assert next_up([batch, other], [aside]) is aside
    assert next_up([batch, other], []) is batch
    assert next_up([], []) is None


@pytest.mark.parametrize(("num_slots", "kept"), [(1, 1), (8, 1), (15, 1), (16, 2), (64, 8)])
def test_a_slot_in_eight_and_at_least_one_stays_with_batch(num_slots: int, kept: int) -> None:
    assert batch_reserve(num_slots) == kept
    running = [waiting(str(number), is_batch=True, arrived_at=float(number)) for number in range(kept + 1)]
    assert victim_of(running, num_slots) is running[-1]
    assert victim_of(running[1:], num_slots) is None


def test_only_a_batch_turn_whose_state_can_be_gone_on_with_gives_way() -> None:
    first, second, third = (waiting(name, is_batch=True, arrived_at=float(at)) for at, name in enumerate("abc"))
    scored = waiting("scored", is_batch=True, arrived_at=9.0, continuations=(((1, 2, 3), 2),))
    quick = waiting("quick", arrived_at=10.0)
    second.is_late, third.is_preempted = True, True
    assert victim_of([first, second, third, scored, quick], 8) is first
    assert victim_of([second, scored, quick], 8) is None


# --- Seats ---


class Hall:
    """A seating, and turns that are computed at once: what a test decides is who comes and who leaves."""

    def __init__(self, *, num_slots: int = 2, num_ctx: int = 1000, cache_bytes: int = 1 << 20) -> None:
        self.engine = FakeEngine(num_slots=num_slots, num_ctx=num_ctx)
        self.slots = Slots(num_slots, num_ctx)
        self.cache = OffloadCache(cache_bytes)
        ticks = iter(range(100_000))
        self.seating = Seating(self.engine, self.slots, self.cache, lambda: float(next(ticks)))

    def seat(self, active: ActiveJob) -> Place | None:
        """Seats a turn and computes what is missing."""
        if not active.is_preempted:
            self.seating.add(active)
        place = self.seating.seat(active)
        if place is not None:
            active.take(place)
            sequence = active.sequence
            assert self.engine.cells[place.slot] == sequence.tokens[: place.num_cached], (
                "what is there is not the prompt"
            )
            self.engine.cells[place.slot] += sequence.tokens[place.num_cached :]
            sequence.num_computed = len(sequence.tokens)
        return place

    def serve(self, active: ActiveJob) -> Place:
        """A turn from its seat to its end."""
        place = self.seat(active)
        assert place is not None
        self.seating.release(active)
        assert self.engine.cells[place.slot] == self.slots[place.slot].tokens
        return place


LONG = "once upon a time there was a worker that had more to remember than its context could hold"


def test_the_first_turn_finds_nothing_and_the_next_of_its_conversation_all_of_it() -> None:
    hall = Hall()
    assert hall.serve(waiting("1", LONG, conversation="v")) == Place(0, 0, None)
    assert hall.serve(waiting("2", LONG + "!", conversation="v")) == Place(0, len(LONG), "context")


def test_another_conversation_of_the_client_shares_a_running_turns_prefix_and_another_client_does_not() -> None:
    hall = Hall(num_slots=3)
    hall.serve(waiting("1", LONG))
    assert hall.seat(waiting("2", LONG + " at all")) == Place(1, len(LONG), "context")
    assert hall.seat(waiting("3", LONG + " at all", client="stranger")) == Place(2, 0, None)


def test_a_conversation_that_came_back_longer_leaves_no_older_slot_behind() -> None:
    hall = Hall(num_slots=3)
    hall.serve(waiting("1", LONG, conversation="v"))
    hall.serve(waiting("2", LONG, conversation="w", client="stranger"))
    tokens = waiting("3", LONG * 2).sequence.tokens
    state = b"fake    " + packed(tokens)
    hall.cache.offload(KvEntry(Key("c", "v"), packed(tokens), len(state)), state, "peer")
    assert hall.serve(waiting("4", LONG * 2 + "!", conversation="v")) == Place(2, len(LONG) * 2, "peer")
    assert [len(hall.engine.cells[index]) for index in range(3)] == [0, len(LONG), len(LONG) * 2 + 1]


def test_a_turn_waits_where_every_slot_is_taken_and_is_seated_once_one_is_free() -> None:
    hall = Hall(num_slots=1)
    first, second = waiting("1"), waiting("2")
    hall.seat(first)
    assert hall.seat(second) is None
    assert hall.seating.next_up() is second
    assert hall.seating.num_waiting == 1
    hall.seating.release(first)
    assert hall.seating.seat(second) is not None
    assert hall.seating.num_waiting == 0


def test_a_turn_that_is_withdrawn_waits_no_more() -> None:
    hall = Hall()
    one, other = waiting("1"), waiting("2")
    hall.seating.add(one)
    hall.seating.add(other)
    assert hall.seating.withdraw("1") is one
    assert hall.seating.withdraw("1") is None
    assert hall.seating.next_up() is other


def test_what_is_evicted_for_a_turn_is_offloaded_and_restored_for_its_conversations_next() -> None:
    hall = Hall(num_slots=1)
    hall.serve(waiting("1", LONG, conversation="v"))
    assert hall.serve(waiting("2", LONG[::-1], conversation="w")).num_cached == 0
    assert hall.cache.keys() == [Key("c", "v")]
    assert hall.serve(waiting("3", LONG + "!", conversation="v")) == Place(0, len(LONG), "ram")
    assert hall.engine.num_restored == 1
    assert hall.cache.keys() == [Key("c", "w")], "a conversation's own state is in one place"
    assert hall.seating.copy_seconds > 0


def test_where_cells_are_short_the_conversation_that_was_unused_longest_goes() -> None:
    hall = Hall(num_slots=3, num_ctx=2 * len(LONG) + 60, cache_bytes=0)
    for name in ("old", "new"):
        hall.serve(waiting(name, name + LONG))
    hall.serve(waiting("old again", "old" + LONG, conversation="old"))
    hall.serve(waiting("third", LONG[::-1]))
    resident = hall.seating.snapshot(0, CostModel()).resident
    assert {key.conversation for key in resident} == {"old", "third"}


def test_a_state_that_the_engine_does_not_take_back_is_computed_again() -> None:
    hall = Hall(num_slots=1)
    hall.serve(waiting("1", LONG, conversation="v"))
    hall.serve(waiting("2", LONG[::-1], conversation="w"))
    hall.engine.restore = lambda slot, state: False  # type: ignore[method-assign]
    assert hall.serve(waiting("3", LONG + "!", conversation="v")) == Place(0, 0, None)


def test_without_a_cache_nothing_is_offloaded() -> None:
    hall = Hall(num_slots=1, cache_bytes=0)
    hall.serve(waiting("1", LONG, conversation="v"))
    hall.serve(waiting("2", LONG[::-1], conversation="w"))
    assert hall.serve(waiting("3", LONG, conversation="v")) == Place(0, 0, None)
    assert hall.engine.num_saved == 0


def test_of_a_scored_turn_that_alone_is_reused_whose_logits_nobody_wants() -> None:
    hall = Hall()
    hall.serve(waiting("1", LONG, conversation="v"))
    known = (*tokens_of(LONG), *tokens_of(" yes"))
    scored = waiting("2", LONG, conversation="v", continuations=((known, len(LONG) - 10),))
    assert hall.seat(scored) == Place(0, len(LONG) - 11, "context")


def test_a_state_of_fewer_tokens_than_it_says_is_not_gone_on_from() -> None:
    hall = Hall(num_slots=1)
    hall.serve(waiting("1", LONG, conversation="v"))
    hall.serve(waiting("2", LONG[::-1], conversation="w"))
    restore = hall.engine.restore
    hall.engine.restore = lambda slot, state: restore(slot, state[:40])  # type: ignore[method-assign]
    assert hall.serve(waiting("3", LONG + "!", conversation="v")) == Place(0, 0, None)


# --- What each step costs ---


class Counted(list[int]):
    """Tokens that count how many of them are read."""

    num_read = 0

    def __getitem__(self, wanted: Any) -> Any:
        found = super().__getitem__(wanted)
        self.num_read += len(found) if isinstance(wanted, slice) else 1
        return found


def counted(active: ActiveJob) -> Counted:
    active.sequence.tokens = tokens = Counted(active.sequence.tokens)
    return tokens


def test_who_waits_for_what_another_computes_is_compared_with_it_once() -> None:
    hall = Hall(num_slots=4, num_ctx=100_000)
    leader, follower = waiting("leader", LONG * 100), waiting("follower", LONG * 100)
    read = counted(leader), counted(follower)
    hall.seat(leader)
    hall.seating.add(follower)
    leader.sequence.num_computed = 100
    assert hall.seating.next_up([leader]) is None
    before = [tokens.num_read for tokens in read]
    assert before[1] >= len(LONG) * 100
    for num_computed in range(101, 151):
        leader.sequence.num_computed = num_computed
        assert hall.seating.next_up([leader]) is None
    assert [tokens.num_read for tokens in read] == [before[0] + 2 * 50, before[1]]
    leader.sequence.num_computed = len(LONG) * 100
    assert hall.seating.next_up([leader]) is follower


def test_no_tokens_are_looked_at_for_who_could_have_no_slot_anyway() -> None:
    hall = Hall(num_slots=1, num_ctx=100_000)
    first, second = waiting("1", LONG * 100), waiting("2", LONG * 100)
    hall.seat(first)
    hall.seating.add(second)
    tokens = counted(second)
    assert not hall.seating.has_place([first])
    assert hall.seating.seat(second) is None
    assert tokens.num_read == 0


def test_a_place_is_where_a_batch_turn_may_give_way() -> None:
    hall = Hall()
    running = [waiting(name, is_batch=True, arrived_at=at) for at, name in enumerate("ab")]
    for one in running:
        hall.seat(one)
    hall.seating.add(waiting("batch", is_batch=True))
    assert not hall.seating.has_place(running)
    hall.seating.add(waiting("quick"))
    assert hall.seating.has_place(running)
    assert not hall.seating.has_place(running[:1]), "the last one is batch's share"


# --- Preemption ---


def test_a_batch_turn_gives_its_slot_to_an_interactive_one_and_finds_its_state_when_it_goes_on() -> None:
    hall = Hall()
    running = [waiting(name, name + LONG, is_batch=True, arrived_at=at) for at, name in enumerate("ab")]
    for one in running:
        hall.seat(one)
    quick = waiting("quick", LONG[::-1])
    assert hall.seat(quick) is None
    assert hall.seating.preempt_for(quick, running) is running[1]
    assert running[1].is_preempted
    running[1].sequence.tokens += tokens_of("!")  # chosen in the step before, and not computed yet
    assert hall.seating.seat(quick) == Place(1, 0, None)
    assert hall.seating.next_up() is running[1]
    assert hall.seating.preempt_for(waiting("another"), running) is None, "the last one is batch's share"
    quick.take(Place(1, 0))
    hall.engine.cells[1] += quick.sequence.tokens
    quick.sequence.num_computed = len(quick.sequence.tokens)
    hall.seating.release(quick)
    place = hall.seat(running[1])
    assert place == Place(1, len(running[1].sequence.tokens) - 1, "ram")
    assert not running[1].is_preempted
    assert running[1].sequence.first_output == place.num_cached, "of what was computed before no logits are wanted"
    assert hall.seating.next_up() is None


def test_a_turn_that_ends_while_it_is_preempted_leaves_nothing_behind() -> None:
    hall = Hall()
    running = [waiting(name, is_batch=True) for name in "ab"]
    for one in running:
        hall.seat(one)
    victim = hall.seating.preempt_for(waiting("quick"), running)
    assert victim is not None
    hall.seating.release(victim)
    assert hall.seating.next_up() is None


def test_nobody_gives_way_to_batch_nor_where_nothing_could_be_kept() -> None:
    for hall, quick in ((Hall(), waiting("batch", is_batch=True)), (Hall(cache_bytes=0), waiting("quick"))):
        running = [waiting(name, is_batch=True) for name in "ab"]
        for one in running:
            hall.seat(one)
        assert hall.seating.preempt_for(quick, running) is None


# --- What stays ---


def stopped(prompt: str, answer: str, stop: str) -> ActiveJob:
    active = waiting("1", prompt, sampling=Sampling(stop=(stop,)), conversation="v")
    active.sequence.tokens = tokens_of(prompt + answer)
    for token in tokens_of(answer):
        active.detokenizer.add(chr(token - FIRST).encode())
    assert active.detokenizer.stopped
    return active


def test_a_stop_text_does_not_stay_in_the_slot() -> None:
    hall = Hall()
    hall.serve(stopped("question ", "answer###", "###"))
    assert hall.slots[0].tokens == tokens_of("question answer")


def test_a_stop_text_stays_where_part_of_a_state_cannot_be_removed() -> None:
    hall = Hall()
    hall.engine.is_whole = lambda slot, num_tokens: num_tokens == len(hall.engine.cells[slot])  # type: ignore[method-assign]
    hall.serve(stopped("question ", "answer###", "###"))
    assert hall.slots[0].tokens == tokens_of("question answer###")


def test_the_oldest_idle_conversation_goes_where_the_engine_is_short_of_cells() -> None:
    hall = Hall(num_slots=3)
    hall.serve(waiting("1", LONG))
    hall.serve(waiting("2", LONG[::-1]))
    hall.seat(waiting("3"))
    assert hall.seating.evict_oldest()
    assert hall.engine.cells[0] == []
    assert hall.cache.entry_of(Key("c", "1")) is not None
    assert hall.seating.evict_oldest()
    assert not hall.seating.evict_oldest(), "who is seated is not idle"


def test_an_idle_conversation_is_exported_whole_and_a_running_or_short_one_not_at_all() -> None:
    hall = Hall(num_slots=3)
    hall.serve(waiting("1", LONG))
    hall.serve(waiting("2", "x" * (MIN_OFFLOADED_TOKENS - 1)))
    hall.seat(waiting("3", LONG[::-1]))
    exported = hall.seating.export(Key("c", "1"))
    assert exported is not None
    entry, state = exported
    assert (entry.key, entry.num_tokens, entry.num_bytes) == (Key("c", "1"), len(LONG), len(state))
    assert [hall.seating.export(Key("c", name)) for name in ("2", "3", "4")] == [None] * 3


def test_an_answered_turn_can_get_another_conversations_name() -> None:
    hall = Hall()
    hall.serve(waiting("1", LONG, conversation="v"))
    hall.seating.rename(Key("c", "v"), "w", tokens_of(LONG))
    assert [*hall.seating.snapshot(0, CostModel()).resident] == [Key("c", "w")]


def test_all_that_lies_idle_is_offloaded_at_the_end() -> None:
    hall = Hall()
    hall.serve(waiting("1", LONG))
    hall.serve(waiting("2", LONG[::-1]))
    for copied in reversed([*hall.seating.idle_states()]):
        hall.cache.offload(*copied)
    assert hall.cache.keys() == [Key("c", "1"), Key("c", "2")]


def test_a_snapshot_counts_what_is_there() -> None:
    hall = Hall(num_slots=1)
    hall.seat(waiting("1", "hello"))
    hall.seat(waiting("2"))
    found = hall.seating.snapshot(1, CostModel(0.01, RowCosts({1: 0.05})))
    assert (found.num_active, found.num_waiting, found.num_cells_used, found.resident) == (1, 1, 15, {})
    assert (found.prefill_tokens_per_second, found.decode_tokens_per_second) == (100.0, 20.0)
