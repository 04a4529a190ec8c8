"""What a worker left half done: the next one goes on, and the reader sees each token once, in order."""

from __future__ import annotations

import asyncio
import threading

import pytest
from nats.aio.client import Client as NatsConnection
from nats.aio.subscription import Subscription

from broker import codec, jetstream, replies, subjects
from broker.accounts import LOCAL
from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.errors import Fenced
from broker.messages import Chunk, DeadLetter, Failed, Sampling, Started
from broker.server import EmbeddedServer
from tests.fakes import FIRST, FakeEngine
from tests.integration.conftest import StartWorker
from workers.engine.protocol import Span

ANSWER = "the whole answer of the test"


def address(answer: Answer) -> subjects.TurnAddress:
    return subjects.TurnAddress("m", "interactive", LOCAL, answer.turn.id)


async def leave_half_done(
    operator: NatsConnection, answer: Answer, *pieces: str, fingerprint: str = "f"
) -> replies.ReplyWriter:
    """What a worker that was killed leaves: a start and some chunks."""
    await answer.publish()
    writer = replies.ReplyWriter(operator, address(answer), "dead")
    await writer.start(fingerprint)
    for piece in pieces:
        await writer.write(piece, tuple(ord(character) + FIRST for character in piece))
    return writer


class PausingEngine(FakeEngine):
    """Stands still once it has chosen two tokens, until its gate is set."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer=answer)
        self.pausing = threading.Event()

    def decode(self, spans: list[Span]) -> list[list[int]]:
        if self.num_steps == 2 and not self.pausing.is_set():
            self.gate.clear()
            self.pausing.set()
        return super().decode(spans)


async def starts(live: Subscription, number: int) -> None:
    """Waits until a turn was begun so often."""
    while number:
        message = await live.next_msg(timeout=10)
        number -= isinstance(codec.decode_reply(message.data, message.headers), Started)


async def collect(answer: Answer) -> list[Chunk]:
    return [chunk async for chunk in answer]


@pytest.mark.parametrize("pieces", [(), ("the", " wh"), (ANSWER[:-1],), (ANSWER,)])
async def test_the_next_worker_goes_on_behind_what_was_sent(
    client: Client, operator: NatsConnection, start_worker: StartWorker, pieces: tuple[str, ...]
) -> None:
    answer = client.ask("m", "hello")
    await leave_half_done(operator, answer, *pieces)
    async with start_worker(FakeEngine(answer=ANSWER)):
        chunks = await collect(answer)
    assert "".join(chunk.text for chunk in chunks) == ANSWER
    assert [token for chunk in chunks for token in chunk.tokens] == [ord(character) + FIRST for character in ANSWER]
    assert {chunk.attempt for chunk in chunks} == {0}
    assert (answer.done.text, answer.done.attempt) == (ANSWER, 0)
    assert answer.done.usage.completion_tokens == len(ANSWER)


async def test_what_was_sent_in_full_only_gets_its_end(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    answer = client.ask("m", "hello", sampling=Sampling(max_tokens=9))
    await leave_half_done(operator, answer, ANSWER[:9])
    async with start_worker(FakeEngine(answer=ANSWER)) as running:
        done = await answer
        assert (done.text, done.finish_reason) == (ANSWER[:9], "length")
        assert running.engine.num_steps == 0


async def test_a_stop_text_is_found_across_the_seam(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    answer = client.ask("m", "hello", sampling=Sampling(stop=("answer",)))
    writer = await leave_half_done(operator, answer, "the whole ")
    await writer.write("", tuple(ord(character) + FIRST for character in "ans"))  # held back, but chosen
    async with start_worker(FakeEngine(answer=ANSWER)):
        done = await answer
    assert (done.text, done.finish_reason) == ("the whole ", "stop")


@pytest.mark.parametrize("why", ["another model file", "another release's grammar"])
async def test_what_cannot_go_on_starts_anew_and_says_so(
    client: Client, operator: NatsConnection, start_worker: StartWorker, why: str
) -> None:
    sampling = Sampling(grammar='root ::= "x"') if why != "another model file" else Sampling()
    answer = client.ask("m", "hello", sampling=sampling)
    fingerprint = "other" if why == "another model file" else "f"
    await leave_half_done(operator, answer, "something else", fingerprint=fingerprint)
    async with start_worker(FakeEngine(answer=ANSWER)):
        chunks = await collect(answer)
    assert answer.text == ANSWER
    assert answer.done.attempt == 1
    assert "".join(chunk.text for chunk in chunks if chunk.attempt == 1) == ANSWER


async def test_the_dead_workers_late_words_are_refused(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    answer = client.ask("m", "hello")
    late = await leave_half_done(operator, answer, "the")
    async with start_worker(FakeEngine(answer=ANSWER)):
        await answer
    with pytest.raises(Fenced):
        await late.write("late", (9,))
    assert not await late.end(Failed("late", ""))


async def test_a_turn_that_comes_back_to_the_worker_that_still_has_it_is_answered_once(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    """As after a freeze: the worker holds its old delivery and gets the turn anew, before the fence has told it."""
    answer = client.ask("m", "hello")
    engine = PausingEngine(answer=ANSWER)
    async with start_worker(engine) as running:
        live = await operator.subscribe(subjects.live(LOCAL, answer.turn.id))
        stream = answer.__aiter__()
        tokens = list((await anext(stream)).tokens)
        assert await asyncio.to_thread(engine.pausing.wait, 10)
        (delivery,) = running.worker.keep_alive.deliveries
        assert delivery._message.reply
        await operator.publish(delivery._message.reply, b"-NAK")
        await starts(live, 2)
        engine.gate.set()
        async for chunk in stream:
            tokens += chunk.tokens
        assert (answer.done.finish_reason, answer.done.text) == ("stop", ANSWER)
        assert tokens == list(answer.done.tokens) == [ord(character) + FIRST for character in ANSWER]
        info = await jetstream.api(operator, f"CONSUMER.INFO.{subjects.turns_stream('m')}.interactive")
    assert info is not None
    # The one that was given up did not have it delivered a third time.
    assert info["delivered"]["consumer_seq"] == 2
    stored = await replies.read_replies(operator, LOCAL, answer.turn.id)
    assert [one.reply.num_starts for one in stored if isinstance(one.reply, Started)] == [1, 2]


async def test_a_start_that_was_handed_back_is_no_crash(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    answer = client.ask("m", "hello")
    await answer.publish()
    for name in ("w1", "w2", "w3", "w4"):
        writer = replies.ReplyWriter(operator, address(answer), name)
        await writer.start("f")
        await writer.hand_back()
    async with start_worker():
        assert (await answer).text == "echo hello"
        assert answer.started is not None
        assert answer.started.num_starts == 1


async def test_three_crashes_are_poison_whatever_they_sent(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    answer = client.ask("m", "deadly")
    await leave_half_done(operator, answer, "th")
    for name in ("w2", "w3"):
        writer = replies.ReplyWriter(operator, address(answer), name)
        await writer.start("f")
        await writer.write("e", (1,))
    async with start_worker() as running:
        with pytest.raises(TurnFailed, match="poison"):
            await collect(answer)
        assert running.engine.num_steps == 0
    stored = await jetstream.last_stored(operator, subjects.DEAD, subjects.dead("m"))
    assert stored is not None
    assert "begun 3 times" in codec.decode(stored.payload, DeadLetter).reason


# --- Readers that were away ---


async def test_a_reader_that_comes_in_the_middle_reads_all_of_it(
    client: Client, nats_server: EmbeddedServer, start_worker: StartWorker
) -> None:
    async with start_worker(FakeEngine(answer=ANSWER, step_seconds=0.02)) as running:
        first = client.ask("m", "hello")
        stream = first.__aiter__()
        for _ in range(5):
            await anext(stream)
        running.engine.gate.clear()
        async with Client(nats_server.address(LOCAL)) as other:
            following = asyncio.create_task(collect(other.follow(first.turn.id)))
            async with asyncio.timeout(10):
                while not other.nc.stats["in_msgs"]:
                    await other.nc.flush()
            running.engine.gate.set()
            chunks = await following
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        assert [chunk.index for chunk in chunks] == sorted({chunk.index for chunk in chunks})


async def test_a_reader_that_comes_after_the_end_reads_it(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer=ANSWER)):
        first = client.ask("m", "hello")
        await first
    later = client.follow(first.turn.id)
    assert "".join(chunk.text for chunk in await collect(later)) == ANSWER
    assert later.done == first.done


async def test_what_a_reader_missed_is_filled_in_before_the_end(client: Client, start_worker: StartWorker) -> None:
    # Long enough for chunks behind the hole, however many tokens a busy machine gathers in one.
    long_answer = ANSWER * 5
    async with start_worker(FakeEngine(answer=long_answer, step_seconds=0.01)):
        answer = client.ask("m", "hello")
        stream = answer.__aiter__()
        await anext(stream)
        assert answer._subscription is not None
        for _ in range(3):  # lost on the way
            await answer._subscription.next_msg(timeout=5)
        text = answer.text
        chunk = await anext(stream)
        assert answer.end is None or chunk.index == 2
        text += chunk.text
        async for chunk in stream:
            text += chunk.text
        assert text == long_answer


async def test_what_a_killed_server_lost_after_a_reader_saw_it_is_not_read_twice(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    answer = client.ask("m", "hello")
    await leave_half_done(operator, answer, "the", " wh", "ole an")
    stream = answer.__aiter__()
    seen = [await anext(stream) for _ in range(3)]
    # The last chunk is gone from the stream, as after a power cut.
    last = await jetstream.last_stored(operator, subjects.REPLIES, subjects.reply(LOCAL, answer.turn.id))
    assert last is not None
    await jetstream.api(operator, f"STREAM.MSG.DELETE.{subjects.REPLIES}", {"seq": last.sequence})
    async with start_worker(FakeEngine(answer=ANSWER)):
        seen += [chunk async for chunk in stream]
    assert "".join(chunk.text for chunk in seen) == ANSWER == answer.done.text
    assert [token for chunk in seen for token in chunk.tokens] == list(answer.done.tokens)


async def test_chunks_with_tokens_missing_between_them_are_not_built_upon(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    answer = client.ask("m", "hello")
    writer = await leave_half_done(operator, answer, "the")
    # A chunk was lost with a killed server, and its sequence given to another start: the fence of before holds again.
    writer._offsets = writer._offsets.moved_by(Chunk(0, 0, " an ", (1, 2, 3, 4)))
    await writer.write(" answer", tuple(ord(character) + FIRST for character in " answer"))
    async with start_worker(FakeEngine(answer=ANSWER)):
        chunks = await collect(answer)
    assert (answer.text, answer.done.text, answer.done.attempt) == (ANSWER, ANSWER, 1)
    assert "".join(chunk.text for chunk in chunks if chunk.attempt == 1) == ANSWER
    assert "".join(chunk.text for chunk in chunks if chunk.attempt == 0) == "the"
