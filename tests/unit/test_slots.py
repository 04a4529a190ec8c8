from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.slots import MIN_COPY_TOKENS, Slots, common_prefix

tokens = st.lists(st.integers(0, 1), max_size=60)
alike = st.tuples(tokens, tokens, tokens).map(lambda parts: (parts[0] + parts[1], parts[0] + parts[2]))


@given(alike)
def test_the_common_prefix_is_the_longest_one(both: tuple[list[int], list[int]]) -> None:
    a, b = both
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def run(
    slots: Slots,
    prompt: list[int],
    client: str,
    conversation: str,
    now: float,
    num_new: int = 4,
    only_grows: bool = False,
) -> int | None:
    """Seats, answers and releases a turn; the tokens that it found computed, or None where there was no seat."""

    def is_whole(slot: int, num_tokens: int) -> bool:
        return num_tokens == len(slots[slot].tokens) or not only_grows

    seat = slots.seat(prompt, len(prompt) + num_new, client, conversation, is_whole)
    if seat is None:
        return None
    slots.take(seat, prompt, len(prompt) + num_new, client, conversation)
    slots.release(seat.slot, prompt + [9] * (num_new - 1), 0, now)
    return seat.num_reused


def test_a_conversations_next_turn_finds_its_tokens() -> None:
    slots = Slots(4, 1000)
    first = list(range(100))
    run(slots, first, "alice", "c", 1.0)
    assert run(slots, [*first, 9, 9, 9, 5, 6], "alice", "c", 2.0) == 103


def test_a_prefix_is_shared_within_a_client_and_not_across() -> None:
    system = list(range(50))
    slots = Slots(4, 1000)
    run(slots, [*system, 100, 101], "alice", "a", 1.0)
    seat = slots.seat([*system, 200], 60, "alice", "b")
    assert seat is not None
    assert (seat.source, seat.num_reused) == (0, 50)
    seat = slots.seat([*system, 200], 60, "bob", "b")
    assert seat is not None
    assert (seat.source, seat.num_reused) == (None, 0)


def test_a_running_turns_prefix_is_copied_too() -> None:
    system = list(range(50))
    slots = Slots(4, 1000)
    seat = slots.seat([*system, 1], 60, "alice", "a")
    assert seat is not None
    slots.take(seat, [*system, 1], 60, "alice", "a")
    slots[seat.slot].tokens = [*system, 1]
    second = slots.seat([*system, 2], 60, "alice", "b")
    assert second is not None
    assert second.source == seat.slot
    assert second.num_reused == 50
    assert second.slot != seat.slot


def test_the_last_token_is_always_computed() -> None:
    slots = Slots(2, 1000)
    prompt = list(range(40))
    run(slots, prompt, "alice", "c", 1.0)
    assert run(slots, prompt, "alice", "c", 2.0) == 39


def test_short_prefixes_are_not_worth_a_copy() -> None:
    slots = Slots(4, 1000)
    run(slots, list(range(MIN_COPY_TOKENS - 1)), "alice", "a", 1.0)
    seat = slots.seat([*range(MIN_COPY_TOKENS - 1), 99], 30, "alice", "b")
    assert seat is not None
    assert seat.source is None


def test_the_longest_unused_conversation_is_evicted_first() -> None:
    slots = Slots(2, 1000)
    run(slots, [1] * 50, "alice", "old", 1.0)
    run(slots, [2] * 50, "alice", "new", 2.0)
    seat = slots.seat([3] * 50, 60, "alice", "third")
    assert seat is not None
    assert seat.slot == 0


def test_nothing_is_seated_beyond_the_cells() -> None:
    slots = Slots(4, 100)
    seat = slots.seat([1] * 50, 60, "a", "a")
    assert seat is not None
    slots.take(seat, [1] * 50, 60, "a", "a")
    assert slots.seat([2] * 40, 50, "b", "b") is None
    assert slots.seat([2] * 30, 40, "b", "b") is not None


def test_a_memory_that_only_grows_reuses_whole_slots_only() -> None:
    slots = Slots(2, 1000, can_remove_part=False)  # and no bytes for checkpoints
    run(slots, list(range(50)), "alice", "c", 1.0, only_grows=True)
    assert run(slots, [*range(50), 9, 9, 9, 1, 2], "alice", "c", 2.0, only_grows=True) == 53
    assert run(slots, list(range(40)), "alice", "c", 3.0, only_grows=True) == 0


def test_the_deterministic_mode_reuses_only_what_a_cold_start_would_compute_alike() -> None:
    slots = Slots(1, 1000, canonical_chunk=16)
    prompt = list(range(40))
    seat = slots.seat(prompt, 50, "a", "c")
    assert seat is not None
    slots.take(seat, prompt, 50, "a", "c")
    slots.release(seat.slot, [*prompt, 9, 9], 32, 1.0)
    seat = slots.seat([*prompt, 9, 9, 9], 60, "a", "c")
    assert seat is not None
    assert seat.num_reused == 32


actions = st.lists(
    st.tuples(
        st.sampled_from(["seat", "release"]), st.integers(0, 5), st.lists(st.integers(0, 1), min_size=1, max_size=40)
    ),
    max_size=60,
)


@settings(deadline=None)
@given(actions, st.booleans())
def test_slots_never_leak_and_never_promise_more_cells_than_there_are(
    work: list[tuple[str, int, list[int]]], can_remove_part: bool
) -> None:
    slots = Slots(4, 128, can_remove_part=can_remove_part)
    active: dict[int, list[int]] = {}
    for now, (action, who, prompt) in enumerate(work):
        if action == "seat":
            seat = slots.seat(prompt, len(prompt) + 8, f"client {who % 2}", f"conversation {who}")
            if seat is None:
                continue
            assert seat.slot not in active
            assert not set(seat.evicted) & set(active)
            assert seat.source is None or seat.source not in seat.evicted
            assert seat.num_reused < len(prompt)
            source = slots[seat.slot if seat.source is None else seat.source]
            assert source.tokens[: seat.num_reused] == prompt[: seat.num_reused]
            slots.take(seat, prompt, len(prompt) + 8, f"client {who % 2}", f"conversation {who}")
            active[seat.slot] = prompt
        elif active:
            slot, prompt = active.popitem()
            slots.release(slot, prompt, 0, float(now))
        assert slots.num_active == len(active)
        assert slots.num_cells_used <= 128
    for slot, prompt in active.items():
        slots.release(slot, prompt, 0, 99.0)
    assert slots.num_active == 0
    assert slots.seat([1] * 10, 128, "x", "x") is not None
