"""Tools at the gateway, by the openai package and in the shapes that well-known clients send. The engine needs no
model: it writes what it is told to, and the worker reads its calls as it reads a model's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from broker.discovery import CHAT, RAW, SCORE
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway, talk
from tests.integration.conftest import StartWorker
from tests.integration.test_tools import ANSWER, CALL, THINKING
from tests.thought_fakes import THOUGHT, Thinker

OLD = (CHAT, RAW, SCORE)
"""What a worker can that knows no tools."""
LAMP: Any = {
    "type": "function",
    "function": {
        "name": "lamp",
        "description": "Switches a lamp",
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}},
        "strict": True,
    },
}
COUNT: Any = {"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "result", "strict": True, "schema": {"type": "object"}},
}


class Counting(FakeEngine):
    """Calls `count` with the number of results in its prompt, until there are so many; then it says that it is done."""

    def __init__(self, num_rounds: int) -> None:
        super().__init__()
        self._num_rounds = num_rounds

    def next_token(self, tokens: list[int], index: int) -> int:
        prompt = "".join(self.vocabulary.piece(token).decode() for token in tokens)
        num = prompt.count("\ntool: ")
        call = f'<tool_call>\n{{"name": "count", "arguments": {{"to": {num}}}}}\n</tool_call>'
        self._answer = call if num < self._num_rounds else '{"done": true}'
        return super().next_token(tokens, index)


@asynccontextmanager
async def serving(start_worker: StartWorker, start_gateway: StartGateway, engine: FakeEngine, **options: Any) -> Any:
    async with (
        start_worker(engine, readers=THINKING),
        start_gateway(**options) as url,
        talk(url) as api,
    ):
        yield api


async def joined(stream: AsyncIterator[ChatCompletionChunk]) -> dict[str, Any]:
    """A stream put together as Home Assistant does: it looks at an event's first call, and then at no text."""
    found: dict[str, Any] = {"text": "", "reasoning": "", "calls": {}, "finish_reason": None, "usage": None}
    async for chunk in stream:
        found["usage"] = chunk.usage or found["usage"]
        for choice in chunk.choices:
            found["finish_reason"] = choice.finish_reason or found["finish_reason"]
            if choice.delta.tool_calls:
                assert choice.delta.content is None
                (delta,) = choice.delta.tool_calls
                assert delta.function is not None
                if delta.index not in found["calls"]:
                    assert delta.type == "function"
                    found["calls"][delta.index] = {"id": delta.id, "name": delta.function.name, "arguments": ""}
                else:
                    assert (delta.id, delta.function.name, delta.type) == (None, None, None)
                found["calls"][delta.index]["arguments"] += delta.function.arguments or ""
            found["text"] += choice.delta.content or ""
            found["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
    return found


async def test_calls_and_thoughts_are_told_whole_and_streamed(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with serving(start_worker, start_gateway, FakeEngine(answer=ANSWER)) as api:
        whole = await api.chat.completions.create(model="m", messages=USER, tools=[LAMP], tool_choice="auto")
        usage = {"include_usage": True}
        streamed = await joined(
            await api.chat.completions.create(model="m", messages=USER, tools=[LAMP], stream=True, stream_options=usage)
        )
    (choice,) = whole.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.type, call.function.name) == ("tool_calls", "function", "lamp")
    assert json.loads(call.function.arguments) == {"on": True}
    assert (choice.message.content.strip(), choice.message.reasoning_content.strip()) == (
        "I switch it on.",
        "It is dark.",
    )
    num_thought = whole.usage.completion_tokens_details.reasoning_tokens
    assert len("It is dark.") < num_thought < whole.usage.completion_tokens
    assert streamed["calls"][0]["arguments"] == call.function.arguments
    assert streamed["calls"][0]["id"] != call.id, "a call is its turn's"
    assert (streamed["finish_reason"], list(streamed["calls"])) == ("tool_calls", [0])
    assert (streamed["text"], streamed["reasoning"]) == (choice.message.content, choice.message.reasoning_content)
    assert streamed["usage"].completion_tokens_details.reasoning_tokens == num_thought


async def test_an_answer_that_only_calls_has_no_content_and_comes_back_as_it_went(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    """The openai package's own message, sent back with the result: the round's state is used again without a name."""
    async with serving(start_worker, start_gateway, Counting(1)) as api:
        first = await api.chat.completions.create(model="m", messages=USER, tools=[COUNT])
        said = first.choices[0].message
        assert said.content is None
        history = [*USER, said.model_dump(), {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "0"}]
        second = await api.chat.completions.create(model="m", messages=history, tools=[COUNT])
        parts = [*history[:-1], history[-1] | {"content": [{"type": "text", "text": "0"}], "name": "count"}]
        third = await api.chat.completions.create(model="m", messages=parts, tools=[COUNT])
        spaced = json.loads(json.dumps(history))
        spaced[1]["tool_calls"][0]["function"]["arguments"] = '{ "to":0 }'
        fourth = await api.chat.completions.with_raw_response.create(model="m", messages=spaced, tools=[COUNT])
        fifth = await api.chat.completions.with_raw_response.create(model="m", messages=history, tools=[COUNT])
    assert second.choices[0].message.content == third.choices[0].message.content == '{"done": true}'
    assert second.choices[0].finish_reason == "stop"
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    assert fourth.headers["turnpike-conversation"] == fifth.headers["turnpike-conversation"]


@pytest.mark.parametrize("stream", [True, False])
async def test_ten_rounds_in_home_assistants_shape(
    start_worker: StartWorker, start_gateway: StartGateway, stream: bool
) -> None:
    """Calls really executed, their arguments written anew, `user` as the conversation's name, a schema beside tools."""
    messages: Any = [{"role": "system", "content": "You control a house."}, *USER]
    counted = []
    fields: Any = {"max_tokens": 150, "top_p": 1.0, "temperature": 1.0, "user": "01JV4ND2", "stream": stream}
    async with serving(start_worker, start_gateway, Counting(10)) as api:
        for number in range(11):
            raw = await api.chat.completions.with_raw_response.create(
                model="m", messages=messages, tools=[COUNT, LAMP], response_format=SCHEMA, **fields
            )
            assert raw.headers["turnpike-conversation"] == "01JV4ND2"
            answer = raw.parse()
            if stream:
                found = await joined(answer)
                calls = list(found["calls"].values())
                text, finish_reason = found["text"], found["finish_reason"]
            else:
                (choice,) = answer.choices
                calls = [
                    {"id": one.id, "name": one.function.name, "arguments": one.function.arguments}
                    for one in choice.message.tool_calls or ()
                ]
                text, finish_reason = choice.message.content, choice.finish_reason
                assert number == 0 or answer.usage.prompt_tokens_details.cached_tokens > 0
            if finish_reason == "stop":
                break
            assert finish_reason == "tool_calls"
            for call in calls:
                arguments = json.loads(call["arguments"])
                counted.append((call["name"], arguments["to"]))
                function = {"name": call["name"], "arguments": json.dumps(arguments, separators=(",", ":"))}
                said = {"role": "assistant", "content": None}
                messages.append(said | {"tool_calls": [{"id": call["id"], "type": "function", "function": function}]})
                result = json.dumps({"data": arguments["to"], "error": None})
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    assert counted == [("count", number) for number in range(10)]
    assert json.loads(text) == {"done": True}


async def test_a_call_that_is_cut_off_ends_by_length_and_is_none(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    cut: Any = {"model": "m", "messages": USER, "tools": [LAMP], "max_tokens": CALL.index("true")}
    async with serving(start_worker, start_gateway, FakeEngine(answer=CALL)) as api:
        (choice,) = (await api.chat.completions.create(**cut)).choices
        streamed = await joined(await api.chat.completions.create(**cut, stream=True))
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)
    assert choice.message.content.strip() == CALL[: CALL.index("true")].strip()
    assert streamed["finish_reason"] == "length"


async def test_several_calls_have_an_index_each_and_are_one_where_that_is_asked(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    asked: Any = {"model": "m", "messages": USER, "tools": [LAMP]}
    async with serving(start_worker, start_gateway, FakeEngine(answer=f"{CALL}\n{CALL}")) as api:
        both = await joined(await api.chat.completions.create(**asked, stream=True))
        one = await api.chat.completions.create(**asked, parallel_tool_calls=False)
        none = await api.chat.completions.create(**asked, tool_choice="none")
    assert [call["arguments"] for call in both["calls"].values()] == ['{"on": true}'] * 2
    assert len({call["id"] for call in both["calls"].values()}) == 2
    assert len(one.choices[0].message.tool_calls) == 1
    assert none.choices[0].message.tool_calls is None
    assert none.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_takes_no_tools_says_so_at_once_and_auto_goes_to_one_that_does(
    nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway, stream: bool
) -> None:
    await nats_server.ensure(["m", "old"])
    offered: Any = {"messages": USER, "tools": [LAMP], "stream": stream}
    after: Any = [*USER, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}]
    after.append({"role": "tool", "tool_call_id": "a", "content": "x"})
    async with start_worker(can=OLD, name="w0", model="old"), start_gateway() as url, talk(url) as api:
        for body in ({"model": "old"} | offered, {"model": "auto"} | offered, {"model": "old", "messages": after}):
            with pytest.raises(openai.BadRequestError, match="takes no tools") as caught:
                await api.chat.completions.create(**body)
            assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
        assert (await api.chat.completions.create(model="old", messages=USER)).choices[0].finish_reason == "stop"
    async with (
        start_worker(can=OLD, name="w0", model="old"),
        start_worker(FakeEngine(answer=CALL), name="w1", readers=THINKING),
        start_gateway() as url,
        talk(url) as api,
    ):
        for _ in range(4):
            raw = await api.chat.completions.with_raw_response.create(model="auto", **offered)
            assert raw.headers["turnpike-model"] == "m"
            if stream:
                await joined(raw.parse())


async def test_half_an_upgrade_takes_no_tools_yet(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    """Any of a model's workers may take the turn."""
    async with start_worker(name="w1"), start_worker(can=OLD, name="w0"), start_gateway() as url, talk(url) as api:
        with pytest.raises(openai.BadRequestError, match="takes no tools"):
            await api.chat.completions.create(model="m", messages=USER, tools=[LAMP])


async def test_tools_that_are_offered_are_left_out_where_that_is_set_and_said(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with serving(start_worker, start_gateway, FakeEngine(answer=CALL), leave_out_tools=True) as api:
        create = api.chat.completions.with_raw_response.create
        raw = await create(model="m", messages=USER, tools=[LAMP])
        assert raw.headers["turnpike-ignored"] == "tools"
        assert raw.parse().choices[0].message.content == CALL
        assert "turnpike-ignored" not in (await create(model="m", messages=USER)).headers
        for path in ("/chat/completions/input_tokens", "/messages/count_tokens"):  # of the prompt that there will be
            lamp = LAMP if "chat" in path else {"name": "lamp", "input_schema": {"type": "object"}}
            counted = [
                await api.post(path, cast_to=object, body={"model": "m", "messages": USER} | more)
                for more in ({}, {"tools": [lamp]})
            ]
            assert counted[0] == counted[1]
        for choice in ("required", {"type": "function", "function": {"name": "lamp"}}):
            with pytest.raises(openai.BadRequestError) as caught:
                await create(model="m", messages=USER, tools=[LAMP], tool_choice=choice)
            assert caught.value.param == "tool_choice"


async def test_a_gateway_says_how_much_is_thought_where_a_chat_does_not(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = Thinker(num_thoughts=len(THOUGHT))
    async with serving(start_worker, start_gateway, engine, thinking=7) as api:

        async def thought(**fields: Any) -> str:
            said = await api.chat.completions.create(model="m", messages=USER, **fields)
            assert said.choices[0].message.content == "It is."
            return getattr(said.choices[0].message, "reasoning_content", "")

        assert await thought() == THOUGHT[:7].strip()
        assert await thought(reasoning_effort="none") == ""
        assert await thought(reasoning_effort="low") == THOUGHT.strip()
        assert await thought(extra_body={"reasoning_budget_tokens": 9}) == THOUGHT[:9].strip()
        assert await thought(extra_body={"chat_template_kwargs": {"enable_thinking": True}}) == THOUGHT.strip()
