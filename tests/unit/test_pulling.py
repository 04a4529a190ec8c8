"""Which turn is taken next: interactive before batch, batch's share, and never more than there are slots."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import pytest

from broker.delivery import Delivery
from broker.errors import ConnectionLost, NotReady
from broker.jetstream import NAK
from broker.priorities import BATCH, INTERACTIVE, LANES, PRIORITIES, Lane
from tests.turn_fakes import Wire, delivery_of, turn_of
from workers.engine.preemption import BATCH_EVERY
from workers.queue import pulling
from workers.queue.occupancy import Occupancy
from workers.queue.pulling import TurnPuller

SECONDS = 10.0


class FakeQueue:
    """Implements PulledQueue in memory: turns by lane, and pulls that wait for them or are let expire."""

    def __init__(self) -> None:
        self.waiting: dict[Lane, deque[Delivery]] = {lane: deque() for lane in LANES}
        self.told: list[tuple[Lane, int, int]] = []
        self.pulls: list[tuple[Lane, float]] = []
        self.changed = asyncio.Condition()
        self.num_open = dict.fromkeys(LANES, 0)
        self.num_stopped = 0
        self.error: Exception | None = None
        """What the next pull raises."""
        self.is_lost = False
        self.wire = Wire()
        self._sequence = 0
        self._is_expired = False

    def check(self) -> None:
        if self.is_lost:
            raise ConnectionLost("gone")

    def puller(self, priority: Lane) -> FakePulls:
        return FakePulls(self, priority)

    async def tell_front(self, priority: Lane, sequence: int, num_pending: int) -> None:
        self.told.append((priority, sequence, num_pending))

    async def put(self, priority: Lane, number: int = 1) -> None:
        """Queues so many turns at once."""
        async with self.changed:
            for index in range(number):
                self._sequence += 1
                turn = turn_of(id=f"{priority}-{self._sequence}")
                self.waiting[priority].append(
                    delivery_of(
                        turn,
                        self.wire,
                        priority=priority,
                        sequence=self._sequence,
                        num_pending=number - index - 1,
                    )
                )
            self.changed.notify_all()

    async def until_open(self, *priorities: Lane) -> None:
        """Until the pulls of these priorities, and of no other, wait for turns."""
        wanted = {priority: int(priority in priorities) for priority in LANES}
        async with asyncio.timeout(SECONDS), self.changed:
            await self.changed.wait_for(lambda: self.num_open == wanted)

    async def expire(self) -> None:
        """All open pulls come back with nothing."""
        async with self.changed:
            self._is_expired = True
            self.changed.notify_all()
            await self.changed.wait_for(lambda: not any(self.num_open.values()))
            self._is_expired = False

    async def next(self, priority: Lane, expires: float, closing: asyncio.Event | None) -> Delivery | None:
        """What a pull gets."""
        self.pulls.append((priority, expires))
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        async with self.changed:
            if expires and not self.waiting[priority]:
                self.num_open[priority] += 1
                self.changed.notify_all()
                closed = asyncio.ensure_future(self._notify_of(closing))
                await self.changed.wait_for(
                    lambda: (
                        self._is_expired or bool(self.waiting[priority]) or (closing is not None and closing.is_set())
                    )
                )
                closed.cancel()
                self.num_open[priority] -= 1
                self.changed.notify_all()
            return self.waiting[priority].popleft() if self.waiting[priority] else None

    async def _notify_of(self, closing: asyncio.Event | None) -> None:
        if closing is not None:
            await closing.wait()
            async with self.changed:
                self.changed.notify_all()


class FakePulls:
    """Implements Pulls."""

    def __init__(self, queue: FakeQueue, priority: Lane) -> None:
        self._queue = queue
        self._priority: Lane = priority
        self._is_started = False

    async def start(self) -> None:
        self._is_started = True

    async def stop(self) -> None:
        self._queue.num_stopped += 1

    async def pull(self, expires: float, closing: asyncio.Event | None = None) -> Delivery | None:
        assert self._is_started
        return await self._queue.next(self._priority, expires, closing)


class Gate:
    """A puller with its queue, and the turns that it took."""

    def __init__(self, num_slots: int = 1, *, can_preempt: bool = False) -> None:
        self.queue = FakeQueue()
        self.occupancy = Occupancy(num_slots, can_preempt=can_preempt)
        self.puller = TurnPuller(self.queue, self.occupancy, pull_seconds=2.0)
        self.stop, self.closing = asyncio.Event(), asyncio.Event()
        self.taken: asyncio.Queue[Delivery] = asyncio.Queue()
        self.loops: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def pulling(self) -> AsyncIterator[None]:
        """While it is entered turns are taken."""
        self.loops = [
            asyncio.ensure_future(self.puller.run(priority, self.stop, self.taken.put_nowait, self.closing))
            for priority in PRIORITIES
        ]
        try:
            yield
        finally:
            for loop in self.loops:
                loop.cancel()
            await asyncio.gather(*self.loops, return_exceptions=True)

    async def next(self) -> Delivery:
        """The turn that is taken next."""
        return await asyncio.wait_for(self.taken.get(), SECONDS)

    async def taken_in_order(self, number: int) -> str:
        """The first letters of so many priorities in the order of being taken, each settled before the next."""
        order = ""
        for _ in range(number):
            delivery = await self.next()
            order += delivery.subject.split(".")[2][0]
            self.puller.free(delivery)
        return order


async def test_no_more_turns_are_taken_than_there_are_slots() -> None:
    gate = Gate(num_slots=2)
    await gate.queue.put(INTERACTIVE, 3)
    async with gate.pulling():
        first, _ = await gate.next(), await gate.next()
        assert (gate.occupancy.num_held, gate.taken.empty()) == (2, True)
        gate.puller.free(first)
        await gate.next()
        assert gate.occupancy.num_held == 2
    assert [len(waiting) for waiting in gate.queue.waiting.values()] == [0, 0, 0]


async def test_interactive_turns_come_before_batch_ones() -> None:
    gate = Gate()
    await gate.queue.put(BATCH, 2)
    await gate.queue.put(INTERACTIVE, 3)
    async with gate.pulling():
        assert await gate.taken_in_order(5) == "iiibb"


async def test_batch_has_its_share_of_a_queue_that_never_empties() -> None:
    gate = Gate()
    await gate.queue.put(BATCH, 3)
    await gate.queue.put(INTERACTIVE, 40)
    async with gate.pulling():
        order = await gate.taken_in_order(3 * BATCH_EVERY)
    assert order == ("i" * (BATCH_EVERY - 1) + "b") * 3


async def test_batchs_share_holds_nobody_up_where_no_batch_turn_waits() -> None:
    gate = Gate()
    await gate.queue.put(INTERACTIVE, 20)
    async with gate.pulling():
        assert await gate.taken_in_order(20) == "i" * 20


async def test_with_nothing_queued_both_pulls_are_open_and_the_first_turn_is_taken() -> None:
    gate = Gate()
    async with gate.pulling():
        await gate.queue.until_open(*PRIORITIES)
        assert gate.queue.pulls == [(INTERACTIVE, 0), (INTERACTIVE, 2.0), (BATCH, 0), (BATCH, 2.0)]
        await gate.queue.put(BATCH)
        assert await gate.taken_in_order(1) == "b"


async def test_an_open_pull_of_batch_holds_up_no_interactive_turn() -> None:
    gate = Gate(num_slots=4)
    async with gate.pulling():
        await gate.queue.until_open(*PRIORITIES)
        await gate.queue.put(INTERACTIVE, 20)
        assert await gate.taken_in_order(20) == "i" * 20


async def test_batch_waits_again_once_interactive_turns_come_again() -> None:
    gate = Gate()
    async with gate.pulling():
        await gate.queue.until_open(*PRIORITIES)
        await gate.queue.put(INTERACTIVE)
        held = await gate.next()
        await gate.queue.expire()
        await gate.queue.put(BATCH)
        await gate.queue.put(INTERACTIVE, 3)
        gate.puller.free(held)
        assert await gate.taken_in_order(4) == "iiib"
        assert gate.queue.wire.told == []


async def test_of_two_turns_for_one_slot_the_second_is_handed_back() -> None:
    gate = Gate()
    async with gate.pulling():
        await gate.queue.until_open(*PRIORITIES)
        await gate.queue.put(INTERACTIVE)
        held = await gate.next()
        await gate.queue.put(BATCH)
        await gate.queue.until_open()
        assert (gate.queue.wire.told, gate.taken.empty(), held.is_settled) == ([NAK], True, False)


async def test_a_pull_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "RETRY_SECONDS", 0.0)
    for error in (nats.errors.ConnectionReconnectingError(), NotReady("consumer")):
        gate = Gate()
        gate.queue.error = error
        await gate.queue.put(INTERACTIVE)
        async with gate.pulling():
            assert await gate.taken_in_order(1) == "i"


async def test_a_lost_connection_ends_the_pulls() -> None:
    gate = Gate()
    gate.queue.is_lost = True
    async with gate.pulling():
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(asyncio.gather(*gate.loops), SECONDS)
    assert gate.queue.num_stopped == 2


async def test_who_waits_is_told_of_the_front_at_most_so_often() -> None:
    gate = Gate()
    await gate.queue.put(INTERACTIVE, 3)
    async with gate.pulling():
        await gate.taken_in_order(3)
    assert gate.queue.told == [(INTERACTIVE, 1, 2)]


# --- The end ---


async def test_a_busy_worker_that_stops_takes_nothing_more() -> None:
    gate = Gate()
    await gate.queue.put(INTERACTIVE, 2)
    async with gate.pulling():
        held = await gate.next()
        gate.stop.set()
        await asyncio.wait_for(asyncio.gather(*gate.loops), SECONDS)
        gate.puller.free(held)
    assert gate.taken.empty()
    assert len(gate.queue.waiting[INTERACTIVE]) == 1
    assert gate.queue.num_stopped == 2


async def test_an_idle_worker_that_stops_takes_who_had_not_heard_until_it_closes() -> None:
    gate = Gate(num_slots=4)
    async with gate.pulling():
        await gate.queue.until_open(*PRIORITIES)
        gate.stop.set()
        await gate.queue.put(INTERACTIVE)
        assert await gate.taken_in_order(1) == "i"
        await gate.queue.until_open(*PRIORITIES)
        assert gate.queue.pulls[-1] == (INTERACTIVE, pulling.LAST_PULL_SECONDS)
        gate.closing.set()  # and does not wait until open pulls expire
        await asyncio.wait_for(asyncio.gather(*gate.loops), SECONDS)


async def test_a_turn_that_comes_as_a_worker_closes_is_handed_back() -> None:
    gate = Gate(num_slots=4)
    async with gate.pulling():
        await gate.queue.until_open(*PRIORITIES)
        gate.stop.set()
        gate.closing.set()
        await gate.queue.put(INTERACTIVE)
        await asyncio.wait_for(asyncio.gather(*gate.loops), SECONDS)
    assert gate.taken.empty()
    assert gate.queue.wire.told == [NAK]


# --- Occupancy ---


def occupied(num_interactive: int, num_batch: int, num_slots: int = 8, *, can_preempt: bool = True) -> Occupancy:
    occupancy = Occupancy(num_slots, can_preempt=can_preempt)
    for priority, number in ((INTERACTIVE, num_interactive), (BATCH, num_batch)):
        for _ in range(number):
            delivery = delivery_of(turn_of(), priority=priority)  # type: ignore[arg-type]
            DELIVERIES.append(delivery)
            occupancy.take(delivery, priority)  # type: ignore[arg-type]
    return occupancy


DELIVERIES: list[Delivery] = []
"""Of all tests: they are known by their identity."""


@pytest.mark.parametrize(
    ("num_interactive", "num_batch", "for_interactive", "for_batch"),
    [
        (0, 0, True, True),
        (7, 0, True, True),
        (8, 0, False, False),
        (0, 8, True, False),  # by preempting
        (6, 2, True, False),
        (7, 1, False, False),  # the one that is batch's share
        (14, 1, False, False),
    ],
)
def test_there_is_room_where_a_slot_is_free_or_batch_holds_more_than_its_share(
    num_interactive: int, num_batch: int, for_interactive: bool, for_batch: bool
) -> None:
    occupancy = occupied(num_interactive, num_batch)
    assert (occupancy.has_room(INTERACTIVE), occupancy.has_room(BATCH)) == (for_interactive, for_batch)


def test_nothing_is_preempted_where_states_cannot_be_kept() -> None:
    assert not occupied(0, 8, can_preempt=False).has_room(INTERACTIVE)


@pytest.mark.parametrize(
    ("num_interactive", "num_batch", "can_preempt", "for_interactive", "for_batch"),
    [
        (0, 0, True, 5, 12),
        (7, 0, True, 5, 12),
        (8, 0, True, 6, 13),
        (0, 8, True, 5, 13),
        (0, 8, False, 6, 13),
        (7, 1, True, 6, 13),
    ],
)
def test_who_is_queued_waits_for_those_before_it_and_for_a_slot(
    num_interactive: int, num_batch: int, can_preempt: bool, for_interactive: int, for_batch: int
) -> None:
    occupancy = occupied(num_interactive, num_batch, can_preempt=can_preempt)
    occupancy.note_pending(INTERACTIVE, 5)
    occupancy.note_pending(BATCH, 7)
    assert occupancy.num_pending == 12
    assert (occupancy.num_ahead(INTERACTIVE), occupancy.num_ahead(BATCH)) == (for_interactive, for_batch)


def test_a_turn_that_is_freed_leaves_its_slot_and_batchs_count() -> None:
    occupancy = Occupancy(1, can_preempt=True)
    delivery = delivery_of(turn_of(), priority=BATCH, num_pending=3)
    occupancy.take(delivery, BATCH)
    assert (occupancy.num_held, occupancy.has_room(BATCH), occupancy.pending[BATCH]) == (1, False, 3)
    occupancy.free(delivery)
    assert (occupancy.num_held, occupancy.has_room(BATCH)) == (0, True)
    assert occupancy.num_ahead(INTERACTIVE) == 0


def test_batch_turns_that_were_freed_are_nothing_to_preempt() -> None:
    occupancy = Occupancy(8, can_preempt=True)
    batch = [delivery_of(turn_of(), priority=BATCH) for _ in range(2)]
    interactive = [delivery_of(turn_of()) for _ in range(8)]
    for delivery in batch:
        occupancy.take(delivery, BATCH)
    for delivery in batch:
        occupancy.free(delivery)
    for delivery in interactive:
        occupancy.take(delivery, INTERACTIVE)
    assert not occupancy.has_room(INTERACTIVE)
