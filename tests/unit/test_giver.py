"""What a worker gives to peers: the longest state that it has, few at once, no faster than it may. No NATS."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.messages import CutPoint, FetchOpen, FetchPart, FetchRefused, Message, Opened, Remembered, StatePart
from tests.kv_fakes import FINGERPRINT, KEY, LAYOUT, FakeEnginePort, state_of
from workers.engine.protocol import State
from workers.kv.cache import OffloadCache
from workers.kv.checks import checksum, cuts_checksum
from workers.kv.giver import IDLE_SECONDS, MAX_TRANSFERS, Giver, Throttle
from workers.kv.index import KvEntry, packed

LONG = list(range(100))
SHORT = LONG[:40]
REMEMBERED = Remembered((Message("user", "hello"), Message("assistant", "hi")), "user: hello", packed(LONG))
OPEN = FetchOpen(KEY.client, KEY.conversation)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def recall(client: str, conversation: str) -> Remembered | None:
    return REMEMBERED if (client, conversation) == (KEY.client, KEY.conversation) else None


def giver_of(
    *,
    resident: list[int] | None = None,
    offloaded: list[int] | None = None,
    kept: tuple[KvEntry, State] | None = None,
    max_bytes: int = 1_000_000,
    clock: Clock | None = None,
) -> Giver:
    cache = OffloadCache(max_bytes)
    kept = state_of(offloaded) if offloaded is not None else kept
    if kept is not None:
        cache.offload(*kept)
    engine = FakeEnginePort({KEY: resident} if resident is not None else {})
    return Giver(engine, cache, LAYOUT, recall, max_bytes_per_second=0, clock=clock or Clock())


async def opened(giver: Giver) -> Opened:
    answer = await giver.open(OPEN)
    assert isinstance(answer, Opened)
    return answer


async def test_an_opened_state_says_all_that_its_reader_checks_and_its_parts_are_its_bytes() -> None:
    giver = giver_of(offloaded=LONG)
    entry, state = state_of(LONG)
    found = await opened(giver)
    assert (found.fingerprint, found.tokens, found.num_bytes) == (FINGERPRINT, entry.tokens, len(state))
    assert found.sha256 == checksum(entry.tokens, state)
    assert found.remembered == REMEMBERED
    half = len(state) // 2
    parts = [await giver.part(FetchPart(found.transfer, offset, half)) for offset in (0, half)]
    assert parts == [StatePart(0, bytes(state[:half])), StatePart(half, bytes(state[half:]))]
    assert giver.given_bytes == len(state)


@pytest.mark.parametrize(
    ("resident", "offloaded", "expected"),
    [
        (LONG, None, LONG),
        (None, LONG, LONG),
        (LONG, SHORT, LONG),
        (SHORT, LONG, LONG),
        (LONG[:20], None, None),
        (None, None, None),
    ],
    ids=["context", "cache", "more in the context", "more in the cache", "too short to be exported", "nowhere"],
)
async def test_the_longest_state_is_given_wherever_it_is(
    resident: list[int] | None, offloaded: list[int] | None, expected: list[int] | None
) -> None:
    answer = await giver_of(resident=resident, offloaded=offloaded).open(OPEN)
    if expected is None:
        assert answer == FetchRefused("gone")
    else:
        assert isinstance(answer, Opened)
        assert answer.tokens == packed(expected)


async def test_what_the_context_has_lost_by_the_time_it_is_asked_is_given_from_the_cache() -> None:
    cache = OffloadCache(1_000_000)
    cache.offload(*state_of(SHORT))
    engine = FakeEnginePort({KEY: LONG})
    engine.resident.clear()  # after the snapshot
    giver = Giver(engine, cache, LAYOUT, recall, max_bytes_per_second=0)
    assert (await opened(giver)).tokens == packed(SHORT)
    assert engine.num_exports == 1


async def test_only_a_few_states_are_open_at_once_and_a_closed_one_makes_room() -> None:
    giver = giver_of(offloaded=LONG)
    transfers = [(await opened(giver)).transfer for _ in range(MAX_TRANSFERS)]
    assert await giver.open(OPEN) == FetchRefused("busy")
    giver.close(transfers[0])
    assert await giver.part(FetchPart(transfers[0], 0, 8)) == FetchRefused("gone")
    assert isinstance(await giver.open(OPEN), Opened)


async def test_openings_that_come_together_are_counted_before_they_are_done() -> None:
    giver = giver_of(offloaded=LONG)
    answers = await asyncio.gather(*(giver.open(OPEN) for _ in range(MAX_TRANSFERS + 3)))
    assert sum(isinstance(answer, Opened) for answer in answers) == MAX_TRANSFERS


async def test_no_more_than_half_the_caches_bytes_are_open_but_for_a_single_state() -> None:
    _, state = state_of(LONG)
    giver = giver_of(offloaded=LONG, max_bytes=2 * len(state) + 100)
    await opened(giver)
    assert await giver.open(OPEN) == FetchRefused("busy")


async def test_openings_that_come_together_share_the_room() -> None:
    _, state = state_of(LONG)
    giver = giver_of(offloaded=LONG, max_bytes=4 * len(state))
    answers = await asyncio.gather(*(giver.open(OPEN) for _ in range(MAX_TRANSFERS)))
    assert sum(isinstance(answer, Opened) for answer in answers) == 2


CUTS = (CutPoint(40, 12), CutPoint(90, 12))


def cuttable() -> tuple[KvEntry, bytes]:
    entry, state = state_of(LONG)
    content = bytes(state) + b"a" * 12 + b"b" * 12
    return replace(entry, num_bytes=len(content), cuts=CUTS), content


async def test_checkpoints_come_behind_the_state_for_who_asks_for_them() -> None:
    entry, content = cuttable()
    giver = giver_of(kept=(entry, content))
    found = await opened(giver)
    state = content[:-24]
    assert (found.num_bytes, found.sha256) == (len(state), checksum(entry.tokens, state))
    assert (found.cuts, found.cuts_sha256) == (CUTS, cuts_checksum([b"a" * 12, b"b" * 12]))
    part = await giver.part(FetchPart(found.transfer, len(state) - 4, 40))
    assert part == StatePart(len(state) - 4, content[len(state) - 4 :])


async def test_where_there_is_room_for_little_a_state_is_given_without_its_checkpoints() -> None:
    entry, content = cuttable()
    giver = giver_of(kept=(entry, content), max_bytes=4 * len(content) - 40)
    first, second = await opened(giver), await opened(giver)
    assert (first.cuts, second.cuts) == (CUTS, ())
    assert await giver.part(FetchPart(second.transfer, second.num_bytes, 24)) == StatePart(second.num_bytes, b"")


async def test_states_that_are_opened_together_take_no_room_from_each_other_for_checkpoints() -> None:
    entry, content = cuttable()
    giver = giver_of(kept=(entry, content), max_bytes=4 * (len(content) - 24))
    answers = await asyncio.gather(giver.open(OPEN), giver.open(OPEN))
    assert [one.cuts for one in answers if isinstance(one, Opened)] == [(), ()]
    assert giver._num_held <= 2 * (len(content) - 24)


async def test_a_state_that_nobody_reads_is_let_go_and_one_that_is_read_is_not() -> None:
    clock = Clock()
    giver = giver_of(offloaded=LONG, clock=clock)
    read, left = await opened(giver), await opened(giver)
    clock.now = IDLE_SECONDS - 1
    await giver.part(FetchPart(read.transfer, 0, 8))
    clock.now = IDLE_SECONDS + 1
    await opened(giver)
    assert await giver.part(FetchPart(left.transfer, 0, 8)) == FetchRefused("gone")
    assert isinstance(await giver.part(FetchPart(read.transfer, 0, 8)), StatePart)


async def test_after_the_end_nothing_is_open() -> None:
    giver = giver_of(offloaded=LONG)
    transfer = (await opened(giver)).transfer
    giver.close_all()
    assert await giver.part(FetchPart(transfer, 0, 8)) == FetchRefused("gone")


def test_a_throttle_lets_so_many_bytes_a_second_through_in_the_order_of_asking() -> None:
    throttle = Throttle(100.0)
    assert throttle.delay(50, now=10.0) == 0.0
    assert throttle.delay(100, now=10.0) == pytest.approx(0.5)
    assert throttle.delay(1, now=10.0) == pytest.approx(1.5)
    assert throttle.delay(1, now=20.0) == 0.0, "what was not used is not saved up"
    assert throttle.delay(1, now=20.0) == pytest.approx(0.01)
