"""Tools on the queue: an answer's calls and thoughts reach its reader apart from its text, past a killed worker too."""

from __future__ import annotations

import json

from nats.aio.client import Client as NatsConnection

from broker import codec
from broker.answer import Answer
from broker.client import Client
from broker.messages import Chunk, Message, Points, Sampling, Tool, ToolCall
from broker.messages.tools import grown
from broker.replies import ReplyWriter
from tests.fakes import FIRST, FakeEngine
from tests.integration.conftest import StartWorker
from tests.integration.test_resume import address, collect
from tests.thought_fakes import THOUGHT, Thinker
from workers.calls import SYNTAXES, Thoughts
from workers.turns.answer_reader import AnswerReaders, call_id

LAMP = Tool("lamp", "Switches a lamp", {"type": "object", "properties": {"on": {"type": "boolean"}}})
CALL = '<tool_call>\n{"name": "lamp", "arguments": {"on": true}}\n</tool_call>'
ANSWER = f"<think>\nIt is dark.\n</think>\n\nI switch it on.\n{CALL}"
THINKING = AnswerReaders(
    SYNTAXES["hermes"].with_thoughts(Thoughts("<think>", "</think>")), {}, lambda token: chr(token - FIRST).encode()
)


def told(chunks: list[Chunk]) -> tuple[str, str, tuple[ToolCall, ...]]:
    """What a reader has put together of them."""
    return (
        "".join(one.text for one in chunks),
        "".join(one.reasoning for one in chunks),
        grown((), (delta for one in chunks for delta in one.calls)),
    )


def ask(client: Client, **fields: object) -> Answer:
    return client.ask("m", "Light, please.", tools=[LAMP], **fields)  # type: ignore[arg-type]


async def test_text_thoughts_and_calls_come_apart(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer=ANSWER), readers=THINKING):
        answer = ask(client)
        chunks = await collect(answer)
    done, call = answer.done, ToolCall(call_id(answer.turn.id, 0), "lamp", '{"on": true}')
    assert (done.finish_reason, done.tool_calls) == ("tool_calls", (call,))
    assert (done.text.strip(), done.reasoning.strip()) == ("I switch it on.", "It is dark.")
    assert told(chunks) == (done.text, done.reasoning, done.tool_calls)
    assert (answer.text, answer.reasoning, answer.tool_calls) == (done.text, done.reasoning, done.tool_calls)
    assert len(ANSWER) > done.usage.completion_tokens // 2 > done.usage.reasoning_tokens > len("It is dark.")


async def test_a_round_ends_with_a_tools_result(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer=CALL), readers=THINKING) as running:
        question = Message("user", "Light, please.")
        first = await client.ask("m", [question], tools=[LAMP])
        said = Message("assistant", first.text, first.tool_calls)
        result = Message("tool", "on", tool_call_id=first.tool_calls[0].id)
        second = await client.ask("m", [question, said, result], tools=[LAMP])
    assert second.tool_calls[0].id != first.tool_calls[0].id
    assert second.usage.cached_tokens >= first.usage.prompt_tokens
    assert running.engine.num_steps


async def test_a_thoughts_budget_is_held_to_and_counted(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(Thinker(), readers=THINKING):
        answer = client.ask("m", "Light?", sampling=Sampling(thinking=7))
        chunks = await collect(answer)
        off = await client.ask("m", "Light?", sampling=Sampling(thinking="off"))
    assert (answer.done.text, answer.done.reasoning) == ("It is.", THOUGHT[:7].strip())
    assert told(chunks) == (answer.done.text, answer.done.reasoning, ())
    assert answer.done.usage.reasoning_tokens == 7
    assert (off.text, off.reasoning, off.usage.reasoning_tokens) == ("It is.", "", 0)


async def test_without_tools_a_call_is_text(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer=CALL), readers=THINKING):
        assert (await client.ask("m", "hello")).text == CALL
        none = await ask(client, tool_choice="none")
        raw = await client.ask("m", "hello", raw=True)
    assert (none.text, none.tool_calls, none.finish_reason) == (CALL, (), "stop")
    assert raw.text == CALL


async def test_a_call_that_is_cut_off_is_text(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer=CALL), readers=THINKING):
        answer = ask(client, sampling=Sampling(max_tokens=CALL.index("true")))
        chunks = await collect(answer)
    assert (answer.done.finish_reason, answer.done.tool_calls) == ("length", ())
    assert answer.done.text == CALL[: CALL.index("true")]
    assert {one.attempt for one in chunks} == {0}
    assert answer.tool_calls == ()


async def test_of_two_calls_one_is_taken_where_they_may_not_be_parallel(
    client: Client, start_worker: StartWorker
) -> None:
    async with start_worker(FakeEngine(answer=f"{CALL}\n{CALL}"), readers=THINKING):
        assert len((await ask(client)).tool_calls) == 2
        assert len((await ask(client, parallel_tool_calls=False)).tool_calls) == 1


async def test_a_worker_goes_on_within_a_call_that_another_began(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    """Wherever it was killed: the reader sees one call, and each piece of it once."""
    for num_sent in range(1, len(ANSWER), 9):
        answer = ask(client)
        await answer.publish()
        sent = ANSWER[:num_sent]
        reader = THINKING.of(answer.turn, "")
        part = THINKING.read_again(reader, answer.turn, [ord(one) + FIRST for one in sent])
        writer = ReplyWriter(operator, address(answer), "w0")
        await writer.start("f")
        tokens = tuple(ord(one) + FIRST for one in sent)
        await writer.write(part.text, tokens, reasoning=part.reasoning, calls=part.calls)
        async with start_worker(FakeEngine(answer=ANSWER), readers=THINKING):
            chunks = await collect(answer)
        done = answer.done
        assert (done.attempt, len(done.tool_calls)) == (0, 1)
        assert json.loads(done.tool_calls[0].arguments) == {"on": True}
        assert told(chunks) == (done.text, done.reasoning, done.tool_calls)
        assert (done.text.strip(), done.reasoning.strip()) == ("I switch it on.", "It is dark.")


async def test_calls_that_are_none_are_text_and_counted_by_why(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    unknown, invalid = CALL.replace("lamp", "bell"), CALL.replace("true", "tru")
    text = f"<think>Hm.</think>{unknown}\n{CALL}\n{invalid}\n{CALL}"
    heard = await operator.subscribe("telemetry.>")
    async with start_worker(FakeEngine(answer=text), readers=THINKING):
        cut = await ask(client, sampling=Sampling(max_tokens=len(text) - 25))
        many = await ask(client, parallel_tool_calls=False)
        found: list[dict[str, object]] = []
        while len(found) < 2:
            message = await heard.next_msg(timeout=10)
            points = codec.decode(message.data, Points, message.headers).points
            found += [dict(one.fields) for one in points if one.measurement == "turn"]
    for done in (cut, many):
        assert [call.name for call in done.tool_calls] == ["lamp"]
        assert (unknown in done.text, invalid in done.text, done.usage.broken_calls) == (True, True, 3)
    reasons = (
        {"broken_invalid_json_calls": 1, "broken_cut_off_calls": 1, "outcome": "length"},
        {"broken_too_many_calls": 2, "outcome": "tool_calls"},
    )
    for fields, why in zip(found, reasons, strict=True):
        told = {name: value for name, value in fields.items() if name.endswith("_calls") and value}
        assert {**told, "outcome": fields["outcome"]} == {"broken_unknown_tool_calls": 1, "num_calls": 1, **why}
        assert fields["reasoning_tokens"] == cut.usage.reasoning_tokens > 0
