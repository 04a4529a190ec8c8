"""What the reader of an answer gets, whatever is lost on the way to it. Without NATS: the port is a fake."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from nats.aio.msg import Msg

from broker import answer as answers
from broker import codec
from broker.answer import Answer, Followed, TurnFailed
from broker.errors import InvalidMessage, NotAcknowledged, NotStored, QueueFull, ReplayUnavailable, ServerError
from broker.messages import Cancel, Chunk, Done, End, Failed, Message, Replay, Reply, Started, Timings, Turn, Usage
from broker.place_in_line import Line
from broker.priorities import Lane, Priority
from broker.subjects import CancelAddress
from tests.fake_jetstream import FakeMessages, message

TEXT = "hello there"
STARTED = Started(0, 0, "w1")
CHUNKS = (Chunk(1, 0, "hello", (1, 2)), Chunk(2, 0, " there", (3, 4), (), 5, 2))
DONE = Done("stop", TEXT, (1, 2, 3, 4), Usage(1, 0, 4), Timings(0, 0, 0), "w1", 0, 3)


def heard(said: Reply | End) -> Msg:
    """As the server republishes it."""
    stream = "ENDS" if isinstance(said, Done | Failed) else "REPLIES"
    return message("live.c.t", codec.encode(said), {"Nats-Stream": stream})


@dataclass
class FakeClient:
    """A client to whom these things happen; what it is asked for it notes."""

    name: str = "c"
    num_reconnects: int = 0
    live: FakeMessages = field(default_factory=FakeMessages)
    refusal: Exception | None = None
    stored: Sequence[Reply] | None = None
    """What workers hold of the reply; None where none answers."""
    ends: list[End | ServerError | None] = field(default_factory=list)
    """What each look for the end finds; None afterwards."""
    lines: list[Line] = field(default_factory=list)
    cancels: list[tuple[CancelAddress, Cancel]] = field(default_factory=list)
    replayed_from: list[int] = field(default_factory=list)
    num_reads: int = 0

    async def publish(self, turn: Turn, model: str, priority: Priority) -> int:
        if self.refusal is not None:
            raise self.refusal
        return 7

    async def publish_cancel(self, address: CancelAddress, cancel: Cancel) -> None:
        self.cancels.append((address, cancel))

    async def listen(self, turn: str) -> FakeMessages:
        return self.live

    async def read(self, turn: str) -> End | None:
        self.num_reads += 1
        assert self.num_reads < 50, "what is waited for does not come"
        found = self.ends.pop(0) if self.ends else None
        if isinstance(found, ServerError):
            raise found
        return found

    async def replay(self, turn: str, index: int) -> Replay:
        self.replayed_from.append(index)
        if self.stored is None:
            raise ReplayUnavailable(turn, "no worker")
        return Replay(tuple(codec.encode(one) for one in self.stored if one.index >= index), True)

    async def line(self, model: str, lane: Lane, sequence: int) -> Line | None:
        return self.lines.pop(0) if self.lines else None

    def says(self, *said: Reply | End) -> None:
        self.live.waiting.extend(map(heard, said))


def asked(client: FakeClient, deadline: float | None = None) -> Answer:
    return Answer(client, Turn("t", "k", (Message("user", "hi"),), deadline=deadline), "m", "interactive")


async def joined(answer: Answer) -> str:
    return "".join([chunk.text async for chunk in answer])


async def test_an_answer_is_its_chunks_in_order_and_then_its_end() -> None:
    client = FakeClient()
    client.says(STARTED, *CHUNKS, DONE)
    answer = asked(client)
    assert await joined(answer) == TEXT
    assert (answer.done, answer.text, answer.num_tokens, answer.started) == (DONE, TEXT, 4, STARTED)
    assert not client.live.is_subscribed
    assert client.replayed_from == []


async def test_awaiting_an_answer_gives_its_end() -> None:
    client = FakeClient()
    client.says(STARTED, DONE)
    assert await asked(client) == DONE


async def test_a_turn_that_failed_raises_what_failed() -> None:
    client = FakeClient()
    client.says(STARTED, CHUNKS[0], Failed("poison", "it killed three"))
    answer = asked(client)
    with pytest.raises(TurnFailed, match="it killed three"):
        await joined(answer)
    assert answer.text == "hello"
    with pytest.raises(TurnFailed):
        _ = answer.done


async def test_what_is_missing_before_a_message_is_asked_of_the_workers() -> None:
    client = FakeClient(stored=(STARTED, *CHUNKS))
    client.says(STARTED, CHUNKS[1], DONE)
    assert await joined(asked(client)) == TEXT
    assert client.replayed_from == [1]


async def test_what_no_worker_can_tell_is_made_up_for_from_the_end() -> None:
    client = FakeClient()
    client.says(STARTED, CHUNKS[1], DONE)
    chunks = [chunk async for chunk in asked(client)]
    assert [(chunk.text, chunk.tokens) for chunk in chunks] == [(TEXT, DONE.tokens)]
    assert client.replayed_from == [1]


async def test_workers_that_do_not_answer_are_not_asked_for_each_message() -> None:
    client = FakeClient()
    client.says(STARTED, *(Chunk(index, 0, "x", (index,), (), index, index) for index in range(2, 50)), DONE)
    assert await joined(asked(client)) == TEXT
    assert len(client.replayed_from) == 1


async def test_an_end_that_was_not_heard_is_read() -> None:
    client = FakeClient(ends=[None, ServerError("away"), DONE])
    client.says(STARTED, CHUNKS[0])
    assert await joined(asked(client)) == TEXT
    assert client.num_reads == 3
    assert client.replayed_from == []  # the connection was not cut: nothing else can be missing


async def test_behind_a_reconnection_what_was_missed_is_asked_for() -> None:
    class Cut(FakeClient):
        async def read(self, turn: str) -> End | None:
            self.num_reconnects = 1
            return await super().read(turn)

    client = Cut(stored=(STARTED, *CHUNKS), ends=[None, DONE])
    client.says(STARTED)
    chunks = [chunk.text async for chunk in asked(client)]
    assert chunks == ["hello", " there"]
    assert client.replayed_from == [1]


async def test_what_a_killed_server_lost_after_it_was_read_is_neither_read_twice_nor_skipped() -> None:
    # The next worker begins at index 2, where a chunk had been that is gone from the stream with the one behind it.
    client = FakeClient()
    lost = (Chunk(2, 0, " th", (3,), (), 5, 2), Chunk(3, 0, "er", (4,), (), 8, 3))
    again = (Started(2, 0, "w2"), Chunk(3, 0, " there", (3, 4, 5), (), 5, 2))
    client.says(STARTED, CHUNKS[0], *lost, *again, Chunk(4, 0, "!", (6,), (), 11, 5))
    chunks = []
    async for chunk in asked(client):
        chunks.append(chunk)
        if chunk.text == "!":
            break
    assert "".join(chunk.text for chunk in chunks) == "hello there!"
    assert sum((chunk.tokens for chunk in chunks), ()) == (1, 2, 3, 4, 5, 6)


async def test_messages_of_another_release_are_left_out_and_an_answer_of_another_wire_is_given_up() -> None:
    client = FakeClient()
    client.live.waiting.append(message("live.c.t", b"\xff", {"Nats-Stream": "REPLIES"}))
    client.says(STARTED, DONE)
    assert await joined(asked(client)) == TEXT
    other = FakeClient()
    later = codec.encode(STARTED).replace(b"\xa1v\x01", b"\xa1v\x02")
    other.live.waiting.append(message("live.c.t", later, {"Nats-Stream": "REPLIES"}))
    answer = asked(other)
    with pytest.raises(TurnFailed, match="not_understood"):
        await joined(answer)
    assert [address for address, _ in other.cancels] == [CancelAddress("c", "t")]


@pytest.mark.parametrize(
    ("refusal", "may_run"),
    [
        (QueueFull("m", "full"), False),
        (NotStored("s", 10060, "no"), False),
        (InvalidMessage("x", "no"), False),
        (NotStored("s", None, "closing"), True),
        (NotAcknowledged("s", "timeout"), True),
    ],
)
async def test_whether_a_turn_that_was_not_acknowledged_may_run(refusal: Exception, may_run: bool) -> None:
    client = FakeClient(refusal=refusal)
    answer = asked(client)
    assert not answer.may_run
    with pytest.raises(type(refusal)):
        await joined(answer)
    assert answer.may_run == may_run
    assert not client.live.is_subscribed
    assert answer.acknowledged_at is None


# --- Deadlines ---


async def test_when_the_deadline_passes_whoever_has_the_turn_is_told_once() -> None:
    late = Failed("deadline", "too late")
    client = FakeClient(ends=[None, late])
    answer = asked(client, deadline=time.time() - 1)
    with pytest.raises(TurnFailed, match="too late"):
        await joined(answer)
    assert [(address, cancel.reason, cancel.sequence) for address, cancel in client.cancels] == [
        (CancelAddress("c", "t"), "deadline", 7)
    ]


async def test_a_late_turn_that_nobody_ends_is_ended_for_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "DEADLINE_GRACE_SECONDS", 0.0)
    answer = asked(FakeClient(), deadline=time.time() - 1)
    with pytest.raises(TurnFailed, match="no worker answers"):
        await joined(answer)


async def test_an_answer_that_comes_in_time_meets_no_deadline() -> None:
    client = FakeClient()
    client.says(STARTED, *CHUNKS, DONE)
    assert await joined(asked(client, deadline=time.time() + 60)) == TEXT
    assert client.cancels == []


# --- Followed ---


async def test_a_turn_that_has_ended_is_read_from_its_end() -> None:
    client = FakeClient(ends=[DONE])
    followed = Followed(client, "t")
    assert await joined(followed) == TEXT
    assert followed.done == DONE


async def test_a_turn_that_runs_is_read_from_its_start_and_then_as_it_comes() -> None:
    client = FakeClient(stored=(STARTED, CHUNKS[0]))
    client.says(CHUNKS[0], CHUNKS[1], DONE)
    assert [chunk.text async for chunk in Followed(client, "t")] == ["hello", " there"]
    assert client.replayed_from == [0]


async def test_who_follows_a_turn_in_another_wire_stops_nothing() -> None:
    client = FakeClient()
    later = codec.encode(STARTED).replace(b"\xa1v\x01", b"\xa1v\x02")
    client.live.waiting.append(message("live.c.t", later, {"Nats-Stream": "REPLIES"}))
    with pytest.raises(TurnFailed, match="not_understood"):
        await joined(Followed(client, "t"))
    assert client.cancels == []


# --- The place in line ---


async def test_a_place_is_told_while_the_turn_waits_and_no_longer() -> None:
    client = FakeClient(lines=[Line(sequence=10, base=4, rank=6)])
    answer = asked(client)
    assert await answer.place() is None  # nothing is queued
    await answer.publish()
    place = await answer.place()
    assert place is not None
    assert (place.turns_ahead, place.seconds) == (5, None)
    client.says(STARTED, DONE)
    await answer
    assert await answer.place() is None


async def test_who_has_stopped_listening_asks_for_no_place() -> None:
    client = FakeClient(lines=[Line(sequence=10, base=4, rank=6)])
    answer = asked(client)
    await answer.publish()
    await answer.close()
    assert await answer.place() is None
    assert len(client.lines) == 1, "a subscription that nobody would end"


async def test_a_place_moves_with_the_beacons_and_never_back() -> None:
    line = Line(sequence=10, base=4, rank=7)
    places = []
    for sequence in (7, 5, 10, 99):
        beacon = message("queue.m.batch", b"\x83\xa1v\x01\xa8sequence" + bytes([sequence]) + b"\xa7pending\x00")
        await line.on_beacon(beacon)
        places.append(line.place().turns_ahead)
    assert places == [3, 3, 0, 0]
    await line.on_beacon(message("queue.m.batch", b"\xff"))
    assert line.place().turns_ahead == 0


async def test_a_place_that_the_server_does_not_tell_is_asked_for_again() -> None:
    client = FakeClient()
    answer = asked(client)
    await answer.publish()
    assert await answer.place() is None
    client.lines.append(Line(sequence=10, base=9, rank=1))
    place = await answer.place()
    assert place is not None
    assert place.turns_ahead == 0
