"""What is to be stored is stored, or it is said why not; and no size closes a connection."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, dead_letters, jetstream, publishing, subjects, topology
from broker.accounts import LOCAL, OPERATOR, WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.errors import Duplicate, NoStream, NotAcknowledged, NotStored, PayloadTooLarge, QueueFull
from broker.messages import (
    Chunk,
    DeadLetter,
    Done,
    Embeddings,
    Failed,
    Message,
    Point,
    Points,
    Timings,
    TokenLogprob,
    Turn,
    Usage,
    new_id,
)
from broker.recorder import Recorder
from broker.replies import BRIEF_SECONDS, ReplyWriter, read_end, read_replies, write_end
from broker.server import EmbeddedServer
from broker.subjects import TurnAddress
from producers.commands import dead
from tests.support import eventually, freeze

MIB = 1024 * 1024


@pytest.fixture
async def worker(nats_server: EmbeddedServer) -> AsyncIterator[NatsConnection]:
    nc = await connect(nats_server.address(WORKER), name="worker")
    yield nc
    await close(nc)


def turn_of(size: int, **others: object) -> Turn:
    """A turn whose payload has so many bytes."""
    turn = Turn(new_id(), "conversation", (Message("user", "x" * (size - 200)),), **others)  # type: ignore[arg-type]
    short = size - len(codec.encode(turn))
    turn = Turn(turn.id, "conversation", (Message("user", "x" * (size - 200 + short)),), **others)  # type: ignore[arg-type]
    assert len(codec.encode(turn)) == size
    return turn


# --- Bytes ---


async def test_headers_count_as_the_server_counts_them_and_no_size_closes_the_connection(client: Client) -> None:
    turn = turn_of(MIB)
    head = publishing.num_bytes(b"", {jetstream.MESSAGE_ID: turn.id, codec.CONTENT_TYPE: codec.MSGPACK})
    assert await client.publish(turn_of(MIB - head), "m") == 1
    for size in (MIB - head + 1, MIB - 40, MIB, MIB + 1):
        with pytest.raises(PayloadTooLarge, match="1,048,576"):
            await client.publish(turn_of(size), "m")
    assert await client.publish(turn_of(1000), "m") == 2
    assert client.nc.is_connected
    assert client.nc.stats["reconnects"] == 0


async def test_an_end_that_is_too_large_by_its_headers_alone_says_so(worker: NatsConnection) -> None:
    empty = Done("stop", "", (), Usage(1, 0, 1), Timings(0.0, 0.0, 0.0), "w")
    room = MIB - len(codec.encode(Done("stop", "x" * MIB, (), empty.usage, empty.timings, "w"))) + MIB
    head = publishing.num_bytes(b"", publishing.with_content_type())
    for size, fits in ((room - head, True), (room - head + 1, False), (room, False), (room + 1, False)):
        address = TurnAddress("m", "interactive", LOCAL, new_id())
        end = Done("stop", "x" * size, (), empty.usage, empty.timings, "w")
        async with asyncio.timeout(10):
            assert await write_end(worker, address, end)
        found = await read_end(worker, LOCAL, address.turn)
        assert found == end if fits else isinstance(found, Failed) and found.code == "answer_too_large"
    assert worker.is_connected
    assert worker.stats["reconnects"] == 0


async def test_a_failure_that_quotes_a_megabyte_of_a_strangers_is_cut(worker: NatsConnection) -> None:
    address = TurnAddress("m", "interactive", LOCAL, new_id())
    async with asyncio.timeout(10):
        assert await write_end(worker, address, Failed("invalid_message", "v: " + "9" * MIB))
    found = await read_end(worker, LOCAL, address.turn)
    assert isinstance(found, Failed)
    assert found.detail.startswith("v: 999")
    assert len(found.detail) < 3000


VECTORS = Done("stop", "", (), Usage(1, 0, 0), Timings(0.0, 0.0, 0.0), "w", embeddings=Embeddings(1, bytes(4)))
PIECES = msgspec.structs.replace(VECTORS, embeddings=None, tokens=(1,), pieces=(b"a",))
ANSWER = msgspec.structs.replace(VECTORS, embeddings=None, text="a", tokens=(1,))


async def stored_end(nc: NatsConnection, end: Done) -> jetstream.StoredMessage:
    address = TurnAddress("m", "interactive", LOCAL, new_id())
    async with asyncio.timeout(10):
        assert await write_end(nc, address, end)
    assert await read_end(nc, LOCAL, address.turn) == end
    found = await jetstream.last_stored(nc, subjects.ENDS, subjects.end(LOCAL, address.turn))
    assert found is not None
    return found


async def test_vectors_and_pieces_are_kept_for_minutes_and_push_out_no_answer(worker: NatsConnection) -> None:
    for end, told in ((VECTORS, str(BRIEF_SECONDS)), (PIECES, str(BRIEF_SECONDS)), (ANSWER, None)):
        assert (await stored_end(worker, end)).headers.get(jetstream.MESSAGE_TTL) == told


async def test_vectors_are_kept_as_answers_are_where_an_older_release_made_the_stream(
    operator: NatsConnection, worker: NatsConnection
) -> None:
    config = next(one for one in topology.streams([]) if one["name"] == subjects.ENDS)
    await jetstream.api(operator, f"STREAM.DELETE.{subjects.ENDS}")
    await jetstream.create_stream(operator, {name: value for name, value in config.items() if name != "allow_msg_ttl"})
    assert jetstream.MESSAGE_TTL not in (await stored_end(worker, VECTORS)).headers
    await topology.ensure(operator, ["m"])
    assert jetstream.MESSAGE_TTL in (await stored_end(worker, VECTORS)).headers


async def test_what_gathered_while_the_server_was_away_goes_as_several_chunks(worker: NatsConnection) -> None:
    writer = ReplyWriter(worker, TurnAddress("m", "interactive", LOCAL, "t"), "w")
    await writer.start()
    top = tuple((token, -1.0) for token in range(20))
    tokens = tuple(range(9000))
    logprobs = tuple(TokenLogprob(token, -1.0, top) for token in tokens)
    async with asyncio.timeout(20):
        await writer.write("ab" * 4500, tokens, logprobs)
        await writer.write("!", (1,))
    stored = await read_replies(worker, LOCAL, "t")
    chunks = [one.reply for one in stored if isinstance(one.reply, Chunk)]
    assert len(chunks) > 2
    assert "".join(chunk.text for chunk in chunks) == "ab" * 4500 + "!"
    assert sum((chunk.tokens for chunk in chunks), ()) == (*tokens, 1)
    assert sum((chunk.logprobs for chunk in chunks), ()) == logprobs
    assert [chunk.index for chunk in chunks] == list(range(1, len(chunks) + 1))
    for before, chunk in itertools.pairwise(chunks):
        assert chunk.text_offset == before.text_offset + len(before.text)
        assert chunk.token_offset == before.token_offset + len(before.tokens)
    assert max(len(one.payload) for one in stored) <= MIB // 2


async def test_a_point_that_cannot_be_sent_holds_up_no_other(
    nats_server: EmbeddedServer, worker: NatsConnection
) -> None:
    recorder = Recorder(worker, "n")

    def point(value: object) -> Point:
        return Point("event", {"node": "n"}, {"text": value}, 1)  # type: ignore[dict-item]

    recorder.record(point("one"), point("x" * 2 * MIB), point(2**70), point("two"))
    assert await recorder.flush()
    assert (recorder.num_sent, recorder.num_dropped) == (2, 2)
    operator = await connect(nats_server.address(OPERATOR), name="operator")
    stored = await jetstream.read_stored(operator, subjects.TELEMETRY, subjects.telemetry("n"))
    await close(operator)
    found = [point for one in stored for point in codec.decode(one.payload, Points).points]
    assert [point.fields["text"] for point in found] == ["one", "two"]


# --- Answers ---


async def test_refusals_are_told_apart_by_their_codes(
    client: Client, nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    await nats_server.ensure(["m"], topology.Limits(max_queued_turns=1))
    await client.publish(turn_of(500), "m")
    with pytest.raises(QueueFull, match="try again later"):
        await client.publish(turn_of(500), "m")
    with pytest.raises(NotStored, match="10060") as refused:  # "expected stream does not match"
        await publishing.publish(
            operator, subjects.turn("m", "batch", "a", "t"), b"", headers={"Nats-Expected-Stream": "x"}
        )
    assert refused.value.code == 10060
    with pytest.raises(NoStream):
        await publishing.publish(operator, "nowhere", b"")
    with pytest.raises(PayloadTooLarge):  # the bucket's own bound
        await publishing.publish(operator, subjects.held("m", "a", "c"), b"x" * 5000)


async def test_a_first_trys_duplicate_is_anothers_and_a_second_trys_is_our_own(
    client: Client, nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    subject = subjects.turn("m", "batch", "a", "t")
    first = await publishing.publish(operator, subject, b"", message_id="t")
    with pytest.raises(Duplicate):
        await publishing.publish(operator, subject, b"", message_id="t")
    assert (
        await publishing.publish(operator, subject, b"", message_id="t", is_id_ours=True)
    ).sequence == first.sequence
    # A server that has the message and is late to say so.
    num_sent = operator.stats["out_msgs"]
    freeze(nats_server.pid)
    try:
        late = asyncio.ensure_future(
            publishing.publish(operator, subjects.turn("m", "batch", "a", "u"), b"", message_id="u", timeout=3.0)
        )
        await eventually(lambda: operator.stats["out_msgs"] >= num_sent + 2)
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    stored = await late
    assert stored.is_duplicate
    assert stored.sequence == first.sequence + 1
    info = await jetstream.api(operator, f"STREAM.INFO.{subjects.turns_stream('m')}")
    assert info is not None
    assert info["state"]["messages"] == 2


async def test_without_an_answer_nobody_knows(nats_server: EmbeddedServer, operator: NatsConnection) -> None:
    freeze(nats_server.pid)
    try:
        with pytest.raises(NotAcknowledged, match="may or may not be queued"):
            await publishing.publish(operator, "turn.m.batch.a.t", b"", message_id="t", timeout=0.1)
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)


async def test_the_oldest_ends_stay_where_the_server_refuses_for_another_reason(
    tmp_path: Path, nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    # As a full disk answers: with the code of a full stream, while the stream is not full.
    config = next(one for one in topology.streams([]) if one["name"] == subjects.ENDS)
    kept = TurnAddress("m", "interactive", LOCAL, new_id())
    assert await write_end(operator, kept, Failed("x", "kept"))
    await jetstream.api(operator, f"STREAM.UPDATE.{subjects.ENDS}", config | {"max_msgs": 1})
    late = asyncio.ensure_future(
        write_end(operator, TurnAddress("m", "interactive", LOCAL, new_id()), Failed("x", "late"))
    )
    done, _ = await asyncio.wait({late}, timeout=1.5)
    assert not done
    assert await read_end(operator, LOCAL, kept.turn) is not None
    await jetstream.api(operator, f"STREAM.UPDATE.{subjects.ENDS}", config)
    assert await asyncio.wait_for(late, 10)


# --- Dead letters ---


async def bury(nc: NatsConnection, turn: Turn, model: str = "m", sequence: int = 1) -> None:
    subject = subjects.turn(model, "interactive", LOCAL, turn.id)
    letter = DeadLetter(subject, "poison: it killed three", 4, codec.encode(turn), codec.MSGPACK, ("w1", "w2", "w3"))
    await dead_letters.bury(nc, letter, model, sequence)


async def test_a_letter_of_a_turn_as_large_as_may_be_is_stored_whole_and_queued_again(
    worker: NatsConnection, operator: NatsConnection
) -> None:
    head = publishing.num_bytes(b"", {jetstream.MESSAGE_ID: new_id(), codec.CONTENT_TYPE: codec.MSGPACK})
    sizes = (MIB - head, MIB - 400, MIB // 2, 300)
    turns = [turn_of(size) for size in sizes]
    for turn in turns:
        await bury(worker, turn)
        await bury(worker, turn)  # a worker died before the turn left the queue: one letter all the same
    found = await dead_letters.read(operator)
    assert [(await dead_letters.whole(operator, one.letter)).payload for one in found] == list(map(codec.encode, turns))
    for one, turn in zip(found, turns, strict=True):
        new = await dead_letters.replay(operator, one)
        await dead_letters.purge(operator, one)
        stored = await jetstream.last_stored(
            operator, subjects.turns_stream("m"), subjects.turn("m", "interactive", LOCAL, new)
        )
        assert stored is not None
        assert codec.decode(stored.payload, Turn, stored.headers).messages == turn.messages
    info = await jetstream.api(operator, f"STREAM.INFO.{subjects.DEAD}")
    assert info is not None
    assert info["state"]["messages"] == 0
    assert worker.is_connected
    assert worker.stats["reconnects"] == 0


async def test_a_replayed_turn_keeps_all_but_its_id_and_deadline(operator: NatsConnection) -> None:
    turn = turn_of(300, raw=True, run="r1", deadline=1.0)
    await bury(operator, turn)
    new = await dead_letters.replay(operator, (await dead_letters.read(operator))[0])
    subject = subjects.turn("m", "interactive", LOCAL, new)
    stored = await jetstream.last_stored(operator, subjects.turns_stream("m"), subject)
    assert stored is not None
    again = codec.decode(stored.payload, Turn, stored.headers)
    assert (again.raw, again.run, again.deadline) == (True, "r1", None)
    assert again.messages == turn.messages


async def test_a_letter_that_the_queue_does_not_take_is_kept_and_the_others_go(
    nats_server: EmbeddedServer, operator: NatsConnection, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    await nats_server.ensure(["full"], topology.Limits(max_queued_turns=1))
    await client.publish(turn_of(300), "full")
    await bury(operator, turn_of(300), "full")
    await bury(operator, turn_of(300), "unserved")
    await operator.request(subjects.dead("m"), b"no letter", timeout=5)
    await bury(operator, turn_of(300), "m")
    numbers = [one.sequence for one in await dead_letters.read(operator)]
    assert await dead.replay_letters(nats_server.address(OPERATOR), numbers) == 1
    told = capsys.readouterr()
    assert [line.partition(":")[0] for line in told.out.splitlines()] == [str(numbers[3])]
    assert [line.split(": ")[1] for line in told.err.splitlines()] == [str(number) for number in numbers[:3]]
    assert "maximum messages exceeded" in told.err
    assert [one.sequence for one in await dead_letters.read(operator)] == numbers[:3]
