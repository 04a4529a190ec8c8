"""Cancels without a server: whom they mean in hand and in the queue, what they cost, who waits for whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from broker import codec, subjects
from broker.errors import ServerError
from broker.jetstream import StoredMessage
from broker.messages import Cancel, Done, End, Failed, Turn
from broker.priorities import BATCH, INTERACTIVE, Priority
from broker.subjects import CancelAddress, TurnAddress
from tests.turn_fakes import CLIENT, MODEL, delivery_of, stored, turn_of, work_of
from workers.queue import queued_cancels
from workers.queue.cancels import Cancels
from workers.queue.queued_cancels import MAX_CLIENTS, QueuedCancels
from workers.turns.in_hand import TurnsInHand

SECONDS = 10.0
NOW = time.time()
ALL = CancelAddress(CLIENT)


class FakeQueue:
    """Implements CancelledQueue in memory, and counts what it is asked."""

    def __init__(self) -> None:
        self.turns: dict[str, StoredMessage] = {}
        self.cancels: dict[CancelAddress, StoredMessage] = {}
        self.begun: set[tuple[str, str]] = set()
        self.ends: dict[tuple[str, str], End] = {}
        self.fetched: list[str] = []
        self.error: Exception | None = None
        """What the next fetch of a turn raises."""
        self.gates: dict[str, asyncio.Event] = {}
        """By client: nothing of it is listed before this is set."""
        self.when_listed: Callable[[], None] = lambda: None
        self.is_asked = asyncio.Event()
        """Set once a client's turns are to be listed."""

    def put(
        self,
        turn: Turn,
        *,
        client: str = CLIENT,
        priority: Priority = INTERACTIVE,
        at: float = NOW,
    ) -> None:
        """Queues a turn that was stored at that time."""
        subject = subjects.turn(MODEL, priority, client, turn.id)
        self.turns[subject] = stored(codec.encode(turn), len(self.turns) + 1, at)

    def cancel(self, address: CancelAddress, at: float, payload: bytes | None = None) -> None:
        """Stores a cancel."""
        self.cancels[address] = stored(codec.encode(Cancel()) if payload is None else payload, 1, at)

    async def queued(self, subject: str) -> StoredMessage | None:
        self.fetched.append(subject)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.turns.get(subject)

    async def subjects_of(self, client: str) -> list[str]:
        self.is_asked.set()
        if (gate := self.gates.get(client)) is not None:
            await gate.wait()
        found = [subject for subject in self.turns if subject.split(".")[3] == client]
        self.when_listed()
        return found

    async def last_cancel(self, address: CancelAddress) -> StoredMessage | None:
        return self.cancels.get(address)

    async def is_begun(self, client: str, turn: str) -> bool:
        return (client, turn) in self.begun

    async def end(self, client: str, turn: str, sequence: int, end: End) -> None:
        (subject,) = [one for one, kept in self.turns.items() if kept.sequence == sequence]
        assert subject.endswith(f".{client}.{turn}")
        del self.turns[subject]
        self.ends[client, turn] = end


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    monkeypatch.setattr(queued_cancels, "STORED_SECONDS", 0.0)
    return FakeQueue()


async def carried_out(
    queue: FakeQueue, *cancels: tuple[CancelAddress, Cancel], held: tuple[str, str] = ("", "")
) -> None:
    """All of the cancels, while that client's turn is in hand."""
    queued = QueuedCancels(queue, MODEL, "w1", lambda *turn: turn == held)
    async with asyncio.timeout(SECONDS), queued:
        for address, cancel in cancels:
            queued.put(address, cancel)
        await asyncio.gather(*queued._tasks)
    assert queued.num_clients == 0


def of_turn(turn: str, client: str = CLIENT) -> CancelAddress:
    return CancelAddress(client, turn=turn)


# --- One turn in the queue ---


@pytest.mark.parametrize("priority", [INTERACTIVE, BATCH])
async def test_a_queued_turn_is_ended_whatever_its_priority(queue: FakeQueue, priority: Priority) -> None:
    queue.put(turn_of(id="t1"), priority=priority, at=time.time() - 5)
    queue.put(turn_of(id="t2"), priority=priority)
    await carried_out(queue, (of_turn("t1"), Cancel()))
    ((turn, end),) = queue.ends.items()
    assert turn == (CLIENT, "t1")
    assert isinstance(end, Done)
    assert (end.finish_reason, end.worker) == ("cancelled", "w1")
    assert 5 <= end.timings.queue_wait < 60


async def test_a_turn_that_is_cancelled_for_its_deadline_fails(queue: FakeQueue) -> None:
    queue.put(turn_of())
    await carried_out(queue, (of_turn("t1"), Cancel(reason="deadline")))
    assert isinstance(queue.ends[CLIENT, "t1"], Failed)


async def test_what_a_worker_has_begun_is_left_to_it(queue: FakeQueue) -> None:
    queue.put(turn_of())
    queue.begun.add((CLIENT, "t1"))
    await carried_out(queue, (of_turn("t1"), Cancel()))
    queue.begun.clear()
    await carried_out(queue, (of_turn("t1"), Cancel()), held=(CLIENT, "t1"))
    assert queue.ends == {}
    await carried_out(queue, (of_turn("t1"), Cancel()), held=("another", "t1"))
    assert list(queue.ends) == [(CLIENT, "t1")]


async def test_a_sequence_that_a_cancel_names_is_not_believed(queue: FakeQueue) -> None:
    queue.put(turn_of(id="theirs"), client="victim")
    await carried_out(queue, (of_turn("mine"), Cancel(sequence=1, model=MODEL)))
    assert queue.ends == {}


async def test_a_cancel_of_another_models_turn_costs_nothing(queue: FakeQueue) -> None:
    queue.put(turn_of())
    await carried_out(queue, (of_turn("t1"), Cancel(model="another")))
    assert (queue.fetched, queue.ends) == ([], {})
    await carried_out(queue, (of_turn("t1"), Cancel(model=MODEL)))
    assert list(queue.ends) == [(CLIENT, "t1")]


# --- Many ---


async def test_a_conversations_cancel_ends_its_turns_and_no_others(queue: FakeQueue) -> None:
    for number, conversation in enumerate("aab"):
        queue.put(turn_of(id=f"t{number}", conversation=conversation))
    queue.put(turn_of(id="t9", conversation="a"), client="other")
    address = CancelAddress(CLIENT, conversation="a")
    queue.cancel(address, NOW + 1)
    await carried_out(queue, (address, Cancel()))
    assert sorted(queue.ends) == [(CLIENT, "t0"), (CLIENT, "t1")]


async def test_a_cancel_of_all_ends_what_was_queued_before_it(queue: FakeQueue) -> None:
    queue.put(turn_of(id="before"), at=NOW - 1)
    queue.put(turn_of(id="after"), at=NOW + 1)
    queue.cancel(ALL, NOW)
    await carried_out(queue, (ALL, Cancel()))
    assert list(queue.ends) == [(CLIENT, "before")]


async def test_a_cancel_that_was_not_stored_ends_nothing(queue: FakeQueue) -> None:
    queue.put(turn_of())
    await carried_out(queue, (ALL, Cancel()))
    assert queue.ends == {}


async def test_a_queued_message_that_is_no_turn_is_ended_by_a_cancel_of_all_alone(queue: FakeQueue) -> None:
    queue.turns[subjects.turn(MODEL, INTERACTIVE, CLIENT, "odd")] = stored(b"\xc1", 1, NOW)
    conversation = CancelAddress(CLIENT, conversation="a")
    for address in (conversation, ALL):
        queue.cancel(address, NOW + 1)
    await carried_out(queue, (conversation, Cancel()))
    assert queue.ends == {}
    await carried_out(queue, (ALL, Cancel()))
    assert list(queue.ends) == [(CLIENT, "odd")]


async def test_several_cancels_are_one_look_through_and_nothing_is_fetched_twice(queue: FakeQueue) -> None:
    for number in range(20):
        queue.put(turn_of(id=f"t{number}", conversation=f"c{number}"))
    addresses = [CancelAddress(CLIENT, conversation=f"c{number}") for number in range(3)]
    for address in addresses:
        queue.cancel(address, NOW + 1)
    queued = QueuedCancels(queue, MODEL, "w1", lambda *turn: False)
    async with asyncio.timeout(SECONDS), queued:
        for address in addresses:
            queued.put(address, Cancel())
        await asyncio.gather(*queued._tasks)
        assert len(queue.fetched) == 20
        queue.put(turn_of(id="new", conversation="c7"))
        queued.put(addresses[0], Cancel())
        await asyncio.gather(*queued._tasks)
    assert len(queue.fetched) == 21
    assert sorted(queue.ends) == [(CLIENT, f"t{number}") for number in range(3)]


async def test_nobodys_cancel_waits_for_anothers(queue: FakeQueue) -> None:
    queue.gates[CLIENT] = asyncio.Event()
    queue.put(turn_of(id="t1"))
    queue.put(turn_of(id="t2"), client="other")
    queue.cancel(ALL, NOW + 1)
    queue.cancel(CancelAddress("other"), NOW + 1)
    queued = QueuedCancels(queue, MODEL, "w1", lambda *turn: False)
    async with asyncio.timeout(SECONDS), queued:
        queued.put(ALL, Cancel())
        queued.put(CancelAddress("other"), Cancel())
        await asyncio.wait(queued._tasks, return_when=asyncio.FIRST_COMPLETED)
        assert list(queue.ends) == [("other", "t2")]
        queue.gates[CLIENT].set()
        await asyncio.gather(*queued._tasks)
    assert sorted(queue.ends) == [(CLIENT, "t1"), ("other", "t2")]


async def test_one_turns_cancel_does_not_wait_for_the_end_of_a_look_through(queue: FakeQueue) -> None:
    for number in range(5):
        queue.put(turn_of(id=f"t{number}"))
    queue.put(turn_of(id="urgent", conversation="b"), priority=BATCH)
    address = CancelAddress(CLIENT, conversation="a")
    queue.cancel(address, NOW + 1)
    queued = QueuedCancels(queue, MODEL, "w1", lambda *turn: False)
    async with asyncio.timeout(SECONDS), queued:
        queue.when_listed = lambda: queued.put(of_turn("urgent"), Cancel())
        queued.put(address, Cancel())
        await asyncio.gather(*queued._tasks)
    assert next(iter(queue.ends)) == (CLIENT, "urgent")
    assert len(queue.ends) == 6


async def test_a_server_that_does_not_answer_once_costs_that_cancel_alone(
    queue: FakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put(turn_of(id="t1"))
    queue.put(turn_of(id="t2"))
    queue.error = ServerError("away")
    await carried_out(queue, (of_turn("t1"), Cancel()), (of_turn("t2"), Cancel()))
    assert list(queue.ends) == [(CLIENT, "t2")]
    assert "cancel not carried out client=c error=away" in caplog.text


async def test_more_clients_than_there_is_room_for_are_left_to_whoever_pulls_their_turns(queue: FakeQueue) -> None:
    queued = QueuedCancels(queue, MODEL, "w1", lambda *turn: False)
    async with asyncio.timeout(SECONDS), queued:
        for number in range(MAX_CLIENTS + 5):
            queued.put(of_turn("t1", f"c{number}"), Cancel())
        assert queued.num_clients == MAX_CLIENTS
        await asyncio.gather(*queued._tasks)


async def test_a_worker_that_stops_waits_for_no_cancel(queue: FakeQueue) -> None:
    queue.gates[CLIENT] = asyncio.Event()
    queued = QueuedCancels(queue, MODEL, "w1", lambda *turn: False)
    async with asyncio.timeout(SECONDS):
        async with queued:
            queued.put(ALL, Cancel())
            await queue.is_asked.wait()
    assert queued.num_clients == 0


# --- In hand ---


class Hands:
    """Cancels with turns in hand, and the jobs that they stopped."""

    def __init__(self, queue: FakeQueue) -> None:
        self.in_hand = TurnsInHand()
        self.stopped: list[str] = []
        self.cancels = Cancels(queue, MODEL, "w1", self.in_hand, self.stopped.append)

    def take(self, client: str, **turn: str) -> str:
        """Takes a turn in hand; its job."""
        asked = turn_of(**turn)
        address = TurnAddress(MODEL, INTERACTIVE, client, asked.id)
        return self.in_hand.begin(delivery_of(asked), address, asked).job


@pytest.mark.parametrize(
    ("address", "stopped"),
    [
        (of_turn("t1"), ["t1/0"]),
        (CancelAddress(CLIENT, conversation="a"), ["t1/0", "t2/1"]),
        (ALL, ["t1/0", "t2/1", "t3/2"]),
        (of_turn("t1", "nobody"), []),
        (CancelAddress("other"), ["t1/3"]),
    ],
)
async def test_a_cancel_stops_those_in_hand_that_it_means(
    queue: FakeQueue, address: CancelAddress, stopped: list[str]
) -> None:
    hands = Hands(queue)
    for client, turn, conversation in (
        (CLIENT, "t1", "a"),
        (CLIENT, "t2", "a"),
        (CLIENT, "t3", "b"),
        ("other", "t1", "a"),
    ):
        hands.take(client, id=turn, conversation=conversation)
    hands.cancels.hear(address, Cancel())
    assert hands.stopped == stopped
    assert [work.job for work in hands.in_hand if work.cancel is not None] == stopped


async def test_a_turns_first_cancel_counts(queue: FakeQueue) -> None:
    hands = Hands(queue)
    hands.take(CLIENT)
    hands.cancels.hear(ALL, Cancel(reason="deadline"))
    hands.cancels.hear(ALL, Cancel())
    (work,) = hands.in_hand
    assert work.cancel == Cancel(reason="deadline")
    assert await hands.cancels.of(work) == Cancel(reason="deadline")


async def test_a_turns_own_cancel_that_was_heard_before_it_came_stops_it(queue: FakeQueue) -> None:
    cancels = Hands(queue).cancels
    cancels.hear(of_turn("t1"), Cancel(sent_at=1.0))
    assert await cancels.of(work_of(turn_of(id="t1"))) == Cancel(sent_at=1.0)
    assert await cancels.of(work_of(turn_of(id="t2"))) is None


@pytest.mark.parametrize("address", [of_turn("t1"), CancelAddress(CLIENT, conversation="a"), ALL])
@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_stored_cancel_means_what_was_queued_before_it(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, address: CancelAddress, is_heard: bool
) -> None:
    monkeypatch.setattr("workers.queue.cancels.STORED_SECONDS", 0.01)
    cancels = Hands(queue).cancels
    queue.cancel(address, NOW)
    if is_heard and not address.turn:
        cancels.hear(address, Cancel())
    assert await cancels.of(work_of(stored_at=NOW - 1)) == Cancel()
    # A turn's own cancel may have been sent before the turn was stored.
    assert (await cancels.of(work_of(stored_at=NOW + 1)) is not None) == (address.turn is not None)
    assert await cancels.of(work_of(turn_of(id="t2", conversation="b"), stored_at=NOW - 1)) == (
        Cancel() if address == ALL else None
    )


async def test_a_stored_cancel_that_nobody_understands_is_as_none(queue: FakeQueue) -> None:
    queue.cancel(ALL, NOW, b"\xc1")
    assert await Hands(queue).cancels.of(work_of(stored_at=NOW - 1)) is None


async def test_a_cancel_ends_what_is_under_way_for_its_turn() -> None:
    work, ended = work_of(), []
    with work.cancelling(lambda: ended.append("fetching")):
        work.cancelled_by(Cancel())
        work.cancelled_by(Cancel())
    assert ended == ["fetching"]
    other = work_of()
    with other.cancelling(lambda: ended.append("over before")):
        pass
    other.cancelled_by(Cancel())
    assert ended == ["fetching"]
