from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, replies, subjects
from broker.accounts import LOCAL
from broker.answer import TurnFailed
from broker.client import Client
from broker.errors import Fenced, UnservedModel
from broker.messages import DeadLetter, Done, End, Failed, Message, Sampling, Turn, new_id
from broker.priorities import ASIDE
from broker.server import EmbeddedServer
from producers.routing.policies import AUTO, Routes, choose
from tests.fakes import FIRST, FakeEngine
from tests.integration.conftest import StartWorker


async def end_of(client: Client, turn: str) -> End:
    """The end of a turn that was published without a reader."""
    async with asyncio.timeout(10):
        while (end := await client.read(turn)) is None:
            pass
    return end


async def num_queued(nc: NatsConnection) -> int:
    info = await jetstream.api(nc, "STREAM.INFO.TURNS-m")
    assert info is not None
    return int(info["state"]["messages"])


async def until_settled(nc: NatsConnection) -> None:
    async with asyncio.timeout(10):
        while await num_queued(nc):
            pass


# --- The path of a turn ---


async def test_an_answer_that_is_begun_is_gone_on_with_and_the_next_turn_goes_on_from_the_whole(
    client: Client, start_worker: StartWorker
) -> None:
    question, begun = Message("user", "hello"), Message("assistant", "I ")
    async with start_worker(FakeEngine(answer="say so.")):
        answer = client.ask("m", [question, begun])
        assert "".join([chunk.text async for chunk in answer]) == answer.done.text == "say so."
        assert answer.done.usage.completion_tokens == len("say so.")
        following = [question, Message("assistant", "I say so."), Message("user", "Why?")]
        second = await client.ask("m", following, conversation=answer.turn.conversation)
    assert answer.done.usage.prompt_tokens == len("user: hello\nassistant: I ") + 1
    assert second.usage.cached_tokens == answer.done.usage.prompt_tokens + len("say so.")


async def end_of_raw(client: Client, **fields: Any) -> Done:
    """Of a turn that is published as it stands."""
    turn = Turn(new_id(), new_id(), **fields)
    await client.publish(turn, "m")
    end = await end_of(client, turn.id)
    assert isinstance(end, Done), end
    return end


async def test_an_echo_begins_the_answer_with_its_prompt(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer="say so.")):
        done = await end_of_raw(client, messages=(), raw=True, echo=True, prompt=("I ", FIRST + ord("d"), "o "))
    assert (done.text, done.usage.completion_tokens) == ("I do say so.", len("say so."))
    assert len(done.tokens) == len("say so.")


async def test_a_question_for_a_prompt_computes_nothing(client: Client, start_worker: StartWorker) -> None:
    async with start_worker() as running:
        chat = await end_of_raw(client, messages=(Message("user", "hello"),), kind="prompt")
        text = await end_of_raw(client, messages=(), raw=True, kind="prompt", prompt=tuple(chat.tokens[1:6]))
        steps = running.engine.num_steps
    assert chat.text == "user: hello\nassistant: "
    assert (len(chat.tokens), chat.usage.prompt_tokens, chat.usage.completion_tokens) == (24, 24, 0)
    assert (text.text, steps) == ("user:", 0)


async def test_a_question_for_a_prompt_is_answered_while_all_slots_are_taken_and_others_wait(
    client: Client, start_worker: StartWorker
) -> None:
    engine = FakeEngine(num_slots=1)
    async with start_worker(engine):
        engine.gate.clear()
        answers = [client.ask("m", f"number {index}") for index in range(5)]
        for answer in answers:
            await answer.publish()
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(engine.entered.wait, 5)
            counted = await asyncio.gather(*(client.ask("m", "hello", kind="prompt") for _ in range(10)))
        assert not engine.gate.is_set()
        assert [answer.end for answer in answers] == [None] * 5
        engine.gate.set()
        assert [(await answer).text for answer in answers] == [f"echo number {index}" for index in range(5)]
    assert [done.usage.prompt_tokens for done in counted] == [24] * 10


async def test_what_takes_a_slot_is_not_answered_among_what_takes_none(
    client: Client, start_worker: StartWorker
) -> None:
    turn = Turn(new_id(), new_id(), (Message("user", "hello"),))
    subject = subjects.turn("m", ASIDE, client.name, turn.id)
    async with start_worker():
        await client.nc.publish(subject, codec.encode(turn), headers={codec.CONTENT_TYPE: codec.MSGPACK})
        end = await end_of(client, turn.id)
    assert isinstance(end, Failed)
    assert (end.code, end.detail.partition(":")[0]) == ("invalid_message", "kind")


async def test_a_lone_system_message_is_answered(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer="Yes.")):
        assert (await client.ask("m", [Message("system", "Say yes.")])).text == "Yes."


async def test_an_answer_streams_back_token_by_token(client: Client, start_worker: StartWorker) -> None:
    async with start_worker():
        answer = client.ask("m", "hello")
        chunks = [chunk async for chunk in answer]
    assert "".join(chunk.text for chunk in chunks) == "echo hello" == answer.text
    assert [chunk.index for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert answer.started is not None
    done = answer.done
    assert (done.text, done.finish_reason, done.worker) == ("echo hello", "stop", "w1")
    assert done.num_chunks == len(chunks) + 1
    assert [token for chunk in chunks for token in chunk.tokens] == list(done.tokens)
    assert done.usage.completion_tokens == 10
    assert done.usage.prompt_tokens == len("user: hello\nassistant: ") + 1


@pytest.mark.parametrize("pause", [False, True], ids=["at once", "when the first reader is closed"])
async def test_an_answer_that_a_reader_has_left_is_read_on(
    client: Client, start_worker: StartWorker, pause: bool
) -> None:
    """Python closes an iterator that was left by `break` some time later: its end is none of the next one's."""
    async with start_worker():
        answer = client.ask("m", "hello")
        chunks = []
        async for chunk in answer:
            chunks.append(chunk)
            break
        if pause:
            async with asyncio.timeout(10):
                while await client.read(answer.turn.id) is None:
                    pass
        async with asyncio.timeout(4):  # nobody waits until it is looked after
            chunks += [chunk async for chunk in answer]
            assert [chunk async for chunk in answer] == []
            assert (await answer).text == "echo hello"
    assert "".join(chunk.text for chunk in chunks) == "echo hello"
    assert answer.done.finish_reason == "stop"


async def test_the_end_can_be_read_later_and_the_queue_is_empty_then(
    client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    async with start_worker():
        done = await client.ask("m", "hello")
        answer = client.ask("m", "again")
        await answer.publish()
        await answer.close()
        assert isinstance(await end_of(client, answer.turn.id), Done)
        await until_settled(operator)
    assert done.text == "echo hello"


async def test_many_turns_at_once_are_all_answered(client: Client, start_worker: StartWorker) -> None:
    async with start_worker():
        answers = [
            client.ask("m", f"number {index}", priority=("interactive", "batch")[index % 2]) for index in range(40)
        ]
        texts = [done.text for done in await asyncio.gather(*map(result, answers))]
    assert texts == [f"echo number {index}" for index in range(40)]


async def result(answer: object) -> Done:
    return await answer  # type: ignore[misc, no-any-return]


async def test_a_conversations_next_turn_computes_only_what_is_new(client: Client, start_worker: StartWorker) -> None:
    async with start_worker() as running:
        first = await client.ask("m", "hello", conversation="c")
        history = [Message("user", "hello"), Message("assistant", first.text), Message("user", "more")]
        second = await client.ask("m", history, conversation="c")
        other = await client.ask("m", history, conversation="d")
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == first.usage.prompt_tokens + first.usage.completion_tokens
    assert other.usage.cached_tokens > 16
    assert running.engine.num_samplers == 0


async def test_a_turn_in_json_is_answered(
    client: Client, start_worker: StartWorker, nats_server: EmbeddedServer
) -> None:
    turn = new_id()
    payload = json.dumps({"v": 1, "id": turn, "conversation": "c", "messages": [{"role": "user", "content": "hi"}]})
    async with start_worker():
        await client.nc.request(
            subjects.turn("m", "batch", LOCAL, turn), payload.encode(), headers={"Content-Type": "application/json"}
        )
        end = await end_of(client, turn)
    assert isinstance(end, Done)
    assert end.text == "echo hi"


async def test_stop_strings_and_limits_end_an_answer(client: Client, start_worker: StartWorker) -> None:
    async with start_worker():
        stopped = await client.ask("m", "one two three", sampling=Sampling(stop=("two",)))
        cut = await client.ask("m", "one two three", sampling=Sampling(max_tokens=4))
    assert (stopped.text, stopped.finish_reason, stopped.stop) == ("echo one ", "stop", "two")
    assert (cut.text, cut.finish_reason) == ("echo", "length")


async def test_continuations_are_scored(client: Client, start_worker: StartWorker) -> None:
    async with start_worker():
        done = await client.ask("m", "which", kind="score", continuations=["yes", "maybe"])
    assert [(score.logprob, score.num_tokens) for score in done.scores] == [(-3.0, 3), (-5.0, 5)]
    assert done.text == ""


async def test_auto_finds_the_model_that_is_served(client: Client, start_worker: StartWorker) -> None:
    with pytest.raises(UnservedModel):
        choose(Routes(), AUTO, await client.workers(wait=0.05))
    async with start_worker():
        async with asyncio.timeout(10):
            while not (workers := await client.workers()):  # a busy machine may answer later than a call waits
                pass
        (worker,) = workers
        assert choose(Routes(), AUTO, [worker]).model == "m"
    assert (worker.worker, worker.model_name, worker.load.num_slots) == ("w1", "Fake", 4)


# --- Cancels ---


async def test_a_running_turn_is_cancelled_within_a_step(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer="x" * 100_000, num_ctx=200_000, step_seconds=0.002)):
        answer = client.ask("m", "go on", sampling=Sampling(max_tokens=100_000))
        async for _ in answer:
            await answer.cancel()
            break
        await answer.close()
        end = await end_of(client, answer.turn.id)
        assert isinstance(end, Done)
        assert end.finish_reason == "cancelled"
        assert 0 < len(end.text) < 100_000
        assert (await client.ask("m", "next", sampling=Sampling(max_tokens=3))).text == "xxx"


async def test_a_queued_turn_is_cancelled_without_being_computed(
    client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        running.engine.gate.clear()
        busy = asyncio.create_task(result(client.ask("m", "busy")))
        await asyncio.to_thread(running.engine.stepped.wait)
        queued = client.ask("m", "queued")
        await queued.publish()
        await queued.cancel()
        done = await queued
        assert (done.finish_reason, done.tokens) == ("cancelled", ())
        running.engine.gate.set()
        assert (await busy).text == "echo busy"
        await until_settled(operator)


async def test_a_turn_cancelled_before_any_worker_came_is_not_computed(
    client: Client, start_worker: StartWorker
) -> None:
    answer = client.ask("m", "never")
    await answer.publish()
    await answer.cancel()
    async with start_worker() as running:
        assert (await answer).finish_reason == "cancelled"
        assert running.engine.num_steps == 0


@pytest.mark.parametrize("scope", ["conversation", "all"])
async def test_a_conversation_or_all_of_a_clients_turns_can_be_cancelled(
    client: Client, start_worker: StartWorker, scope: str
) -> None:
    async with start_worker(FakeEngine(answer="x" * 100_000, num_ctx=200_000, step_seconds=0.002)):
        sampling = Sampling(max_tokens=90_000)
        answers = [client.ask("m", "go on", conversation="c", sampling=sampling) for _ in range(2)]
        streams = [aiter(answer.__aiter__()) for answer in answers]
        for stream in streams:
            await anext(stream)
        await client.cancel(conversation="c" if scope == "conversation" else None)
        for answer in answers:
            end = await end_of(client, answer.turn.id)
            assert isinstance(end, Done)
            assert end.finish_reason == "cancelled"


# --- Fences, ends, draining ---


async def test_the_server_refuses_a_second_end(operator: NatsConnection) -> None:
    address = subjects.TurnAddress("m", "batch", "c", "t")
    assert await replies.write_end(operator, address, Failed("first", ""))
    assert not await replies.write_end(operator, address, Failed("second", ""))
    end = await replies.read_end(operator, "c", "t")
    assert isinstance(end, Failed)
    assert end.code == "first"


async def test_a_worker_that_comes_back_is_fenced_off(operator: NatsConnection) -> None:
    address = subjects.TurnAddress("m", "batch", "c", "t")
    old, new = (replies.ReplyWriter(operator, address, name) for name in ("old", "new"))
    await old.start()
    await old.write("a", (1,))
    started = await new.start()
    assert (started.attempt, started.index, new.resumed_text) == (0, 2, "a")
    await new.write("b", (2,))
    with pytest.raises(Fenced):
        await old.write("c", (3,))


async def test_a_turn_that_kills_its_workers_is_given_up_after_three_starts(
    client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    answer = client.ask("m", "deadly")
    await answer.publish()
    for name in ("w1", "w2", "w3"):
        await replies.ReplyWriter(
            operator, subjects.TurnAddress("m", "interactive", LOCAL, answer.turn.id), name
        ).start()
    async with start_worker(name="w4") as running:
        with pytest.raises(TurnFailed, match="poison"):
            await answer
        assert running.engine.num_steps == 0
    stored = await jetstream.last_stored(operator, "DEAD", "dead.m")
    assert stored is not None
    letter = codec.decode(stored.payload, DeadLetter)
    assert codec.decode(letter.payload, Turn) == answer.turn


async def test_draining_finishes_what_runs_and_leaves_the_rest(
    client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        running.engine.gate.clear()
        busy = asyncio.create_task(result(client.ask("m", "busy")))
        await asyncio.to_thread(running.engine.stepped.wait)
        queued = client.ask("m", "queued")
        await queued.publish()
        running.stop.set()
        running.engine.gate.set()
        assert (await busy).text == "echo busy"
        await running.task
    assert await num_queued(operator) == 1
    async with start_worker(name="w2"):
        assert (await queued).worker == "w2"


async def test_a_forced_stop_hands_its_turns_to_the_next_worker_at_once(
    client: Client, start_worker: StartWorker
) -> None:
    async with start_worker() as first:
        first.engine.gate.clear()
        answer = client.ask("m", "hello")
        await answer.publish()
        await asyncio.to_thread(first.engine.stepped.wait)
        first.task.cancel()
        first.engine.gate.set()
        await asyncio.wait({first.task})
        started = time.perf_counter()
        async with start_worker(name="w2"):
            done = await answer
    assert (done.worker, done.attempt, done.text) == ("w2", 0, "echo hello")
    assert time.perf_counter() - started < 10  # a hand-back, not the ack_wait of 30 s


async def test_a_reader_makes_up_for_lost_chunks_from_the_end(client: Client, start_worker: StartWorker) -> None:
    async with start_worker() as running:
        running.engine.gate.clear()
        answer = client.ask("m", "hello there")
        await answer.publish()
        heard: Any = answer._subscription
        running.engine.gate.set()
        await end_of(client, answer.turn.id)
        async with asyncio.timeout(5):
            while len(heard._messages) < 3:  # started, a chunk or more, the end
                await client.nc.flush()
        del heard._messages[1]
        texts = [chunk.text async for chunk in answer]
    assert "".join(texts) == "echo hello there" == answer.done.text
