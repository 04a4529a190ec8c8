"""Anthropic's Messages API at the gateway, by the anthropic package as it is. The engine needs no model: it writes what
it is told to, and the worker reads its calls and thoughts as it reads a model's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message, TextBlock, ThinkingBlock, ToolUseBlock

from producers.gateway.keys import ClientKeys, new_key
from producers.routing.policies import Policy, Routes
from tests.fakes import FakeEngine
from tests.gateway import StartGateway
from tests.integration.conftest import StartWorker
from tests.integration.test_gateway_tools import Counting
from tests.integration.test_tools import ANSWER, CALL, THINKING
from tests.thought_fakes import THOUGHT, Thinker

HELLO: Any = [{"role": "user", "content": "hello there"}]
LAMP: Any = {
    "name": "lamp",
    "description": "Switches a lamp",
    "input_schema": {"type": "object", "properties": {"on": {"type": "boolean"}}},
}
COUNT: Any = {"name": "count", "input_schema": {"type": "object"}}
ASKED: Any = {"model": "m", "max_tokens": 300, "messages": HELLO}


def talk(url: str, key: str = "none") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0, timeout=30)


@asynccontextmanager
async def serving(
    start_worker: StartWorker, start_gateway: StartGateway, engine: FakeEngine, **options: Any
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with start_worker(engine, readers=THINKING), start_gateway(**options) as url, talk(url) as api:
        yield api


async def streamed(api: anthropic.AsyncAnthropic, **asked: Any) -> Message:
    """As the package puts a stream together, which must be the answer as it comes whole but for its turn."""
    async with api.messages.stream(**ASKED | asked) as stream:
        return await stream.get_final_message()


def said(message: Message) -> list[Any]:
    """The blocks, without what is a turn's own."""
    return [block.model_dump(exclude={"id", "signature"}, exclude_none=True) for block in message.content]


# --- Text ---


async def test_a_message_is_answered_whole_and_as_the_same_stream(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with serving(start_worker, start_gateway, FakeEngine()) as api:
        raw = await api.messages.with_raw_response.create(**ASKED, system="Be brief.", extra_body={"temperature": 0})
        whole = await raw.parse()
        found = await streamed(
            api, system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
        )
        async with api.messages.stream(**ASKED) as stream:
            text = [piece async for piece in stream.text_stream]
    for one in (whole, found):
        assert said(one) == [{"type": "text", "text": "echo hello there"}]
        assert (one.role, one.model, one.type, one.stop_reason) == ("assistant", "m", "message", "end_turn")
        assert one.usage.output_tokens == len("echo hello there")
    assert "".join(text) == "echo hello there"
    turn = raw.headers["turnpike-turn"]
    assert (whole.id, whole._request_id) == (f"msg_{turn}", turn)
    assert found.usage.cache_read_input_tokens is not None
    assert whole.usage.cache_read_input_tokens is not None
    num_prompt_tokens = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert found.usage.input_tokens + found.usage.cache_read_input_tokens == num_prompt_tokens > 0


async def test_events_come_in_the_apis_order(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    async with serving(start_worker, start_gateway, FakeEngine()) as api:
        whole = await api.messages.create(**ASKED)
        events = [event async for event in await api.messages.create(**ASKED, stream=True)]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0].type == "message_start"
    assert events[0].message.usage.input_tokens == whole.usage.input_tokens, "nothing of the first was cached"


async def test_the_next_turn_finds_the_conversation_by_its_history(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with serving(start_worker, start_gateway, FakeEngine()) as api:
        first = await api.messages.create(**ASKED)
        history = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": "and now?"}]
        second = await api.messages.create(**ASKED | {"messages": history})
    assert second.usage.cache_read_input_tokens is not None
    assert second.usage.cache_read_input_tokens >= first.usage.input_tokens + first.usage.output_tokens - 1


async def test_an_answer_says_by_which_stop_sequence_it_ended(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with serving(start_worker, start_gateway, FakeEngine()) as api:
        stops = ["nothing", " there"]
        for one in (
            await api.messages.create(**ASKED, stop_sequences=stops),
            await streamed(api, stop_sequences=stops),
        ):
            assert (said(one), one.stop_reason, one.stop_sequence) == (
                [{"type": "text", "text": "echo hello"}],
                "stop_sequence",
                " there",
            )
        cut = await api.messages.create(**ASKED | {"max_tokens": 4})
    assert (said(cut), cut.stop_reason, cut.stop_sequence) == ([{"type": "text", "text": "echo"}], "max_tokens", None)


async def test_an_answer_that_was_begun_for_the_model_goes_on_and_holds_only_what_is_new(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    begun = {"messages": [*HELLO, {"role": "assistant", "content": "I say:"}]}
    async with serving(start_worker, start_gateway, FakeEngine(answer=" hello")) as api:
        for one in (await api.messages.create(**ASKED | begun), await streamed(api, **begun)):
            assert said(one) == [{"type": "text", "text": " hello"}]


# --- Tools and thoughts ---


async def test_thoughts_text_and_calls_are_blocks_whole_and_streamed(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with serving(start_worker, start_gateway, FakeEngine(answer=ANSWER)) as api:
        whole = await api.messages.create(**ASKED, tools=[LAMP])
        found = await streamed(api, tools=[LAMP], tool_choice={"type": "auto"})
    thought, text, call = whole.content
    assert isinstance(thought, ThinkingBlock)
    assert isinstance(text, TextBlock)
    assert isinstance(call, ToolUseBlock)
    assert (thought.thinking.strip(), text.text.strip()) == ("It is dark.", "I switch it on.")
    assert (call.name, call.input) == ("lamp", {"on": True})
    assert thought.signature
    assert (whole.stop_reason, found.stop_reason) == ("tool_use", "tool_use")
    assert said(found) == said(whole)
    assert whole.usage.output_tokens_details is not None
    assert len("It is dark.") < whole.usage.output_tokens_details.thinking_tokens < whole.usage.output_tokens
    assert found.usage.output_tokens_details == whole.usage.output_tokens_details


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_rounds_of_calls_go_on_with_the_packages_own_messages(
    start_worker: StartWorker, start_gateway: StartGateway, is_streamed: bool
) -> None:
    messages, counted = [*HELLO], list[object]()
    async with serving(start_worker, start_gateway, Counting(4)) as api:
        while True:
            asked = {"messages": messages, "tools": [COUNT, LAMP], "system": "You count."}
            answer = await (streamed(api, **asked) if is_streamed else api.messages.create(**ASKED | asked))
            if answer.stop_reason != "tool_use":
                break
            (call,) = (block for block in answer.content if isinstance(block, ToolUseBlock))
            assert counted == [] or (answer.usage.cache_read_input_tokens or 0) > 0
            counted.append(call.input)
            result = [{"type": "text", "text": str(call.input)}]
            messages.append({"role": "assistant", "content": answer.content})
            results = [{"type": "tool_result", "tool_use_id": call.id, "content": result, "is_error": False}]
            messages.append({"role": "user", "content": results})
    assert counted == [{"to": number} for number in range(4)]
    assert said(answer) == [{"type": "text", "text": '{"done": true}'}]


async def test_several_calls_are_blocks_each_and_one_where_that_is_asked(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with serving(start_worker, start_gateway, FakeEngine(answer=f"{CALL}\n{CALL}")) as api:
        both = await streamed(api, tools=[LAMP])
        choice: Any = {"type": "auto", "disable_parallel_tool_use": True}
        one = await api.messages.create(**ASKED, tools=[LAMP], tool_choice=choice)
        none = await api.messages.create(**ASKED, tools=[LAMP], tool_choice={"type": "none"})
    assert [block.type for block in both.content] == ["tool_use", "tool_use"]
    assert len({block.id for block in both.content if block.type == "tool_use"}) == 2
    assert [block.type for block in one.content].count("tool_use") == 1
    assert ([block.type for block in none.content], none.stop_reason) == (["text"], "end_turn")


async def test_a_call_that_is_cut_off_is_in_no_whole_message(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    cut: Any = {"tools": [LAMP], "max_tokens": CALL.index("true")}
    async with serving(start_worker, start_gateway, FakeEngine(answer=CALL)) as api:
        whole, found = await api.messages.create(**ASKED | cut), await streamed(api, **cut)
    assert ([block.type for block in whole.content], whole.stop_reason) == (["text"], "max_tokens")
    assert found.stop_reason == "max_tokens"
    call, text = found.content
    assert (call.type, text.type) == ("tool_use", "text"), "a stream has told its beginning"


async def test_a_request_says_how_much_is_thought_and_whether_it_is_told(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with serving(start_worker, start_gateway, Thinker(num_thoughts=len(THOUGHT))) as api:

        async def thought(thinking: Any) -> list[str]:
            whole, found = await api.messages.create(**ASKED, thinking=thinking), await streamed(api, thinking=thinking)
            assert said(whole) == said(found)
            assert whole.content[-1].type == "text"
            return [block.thinking for block in whole.content if block.type == "thinking"]

        assert await thought({"type": "disabled"}) == []
        assert [one.strip() for one in await thought({"type": "enabled", "budget_tokens": 7})] == [THOUGHT[:7].strip()]
        assert [one.strip() for one in await thought({"type": "adaptive"})] == [THOUGHT.strip()]
        assert await thought({"type": "adaptive", "display": "omitted"}) == [""]


async def test_a_conversation_is_counted_as_its_prompt_is_and_nothing_is_answered(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    asked: Any = {"model": "m", "messages": HELLO, "system": "Be brief."}
    async with serving(start_worker, start_gateway, FakeEngine()) as api:
        found = await api.messages.count_tokens(**asked)
        shorter = await api.messages.count_tokens(model="m", messages=HELLO)
        answer = await api.messages.create(**asked, max_tokens=1)
    assert found.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert 0 < shorter.input_tokens < found.input_tokens


# --- Errors, keys, leaving ---


async def test_what_cannot_be_done_is_an_error_of_the_package(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    async with serving(start_worker, start_gateway, FakeEngine(num_ctx=200)) as api:
        for more, word in (({"messages": image}, "image input"), ({"tools": [search]}, "web_search_20250305")):
            with pytest.raises(anthropic.BadRequestError, match=word) as caught:
                await api.messages.create(**ASKED | more)
            assert isinstance(caught.value.body, dict)
            assert caught.value.body["error"]["type"] == "invalid_request_error"
        long: Any = [{"role": "user", "content": "x" * 500}]
        for call in (api.messages.create(**ASKED | {"messages": long}), streamed(api, messages=long)):
            with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 200 maximum"):
                await call
        with pytest.raises(anthropic.NotFoundError, match="not served here") as missing:
            await api.messages.create(**ASKED | {"model": "claude"})
        assert isinstance(missing.value.body, dict)
        assert missing.value.body["error"]["type"] == "not_found_error"
        with pytest.raises(anthropic.NotFoundError, match="there is no POST /v1/messages/batches"):
            await api.post("/v1/messages/batches", body={}, cast_to=object)


async def test_a_key_is_taken_by_either_header_and_has_its_limits(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    key, digest = new_key()
    engine = FakeEngine()
    keys = {"alice": ClientKeys(sha256=(digest,), turns_at_once=1)}
    async with start_worker(engine), start_gateway(keys) as url, talk(url, key) as api, talk(url) as stranger:
        with pytest.raises(anthropic.AuthenticationError, match="not known here"):
            await stranger.messages.create(**ASKED)
        async with httpx2.AsyncClient(base_url=url) as plain:
            answer = await plain.post("/messages", json=ASKED, headers={"X-Api-Key": key})
            assert answer.json()["stop_reason"] == "end_turn"
            answer = await plain.post("/messages", json=ASKED)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        engine.gate.clear()
        first = asyncio.create_task(api.messages.create(**ASKED))
        await asyncio.to_thread(engine.entered.wait, 10)
        with pytest.raises(anthropic.RateLimitError) as caught:
            await api.messages.create(**ASKED)
        assert caught.value.response.headers["retry-after"] == "1"
        engine.gate.set()
        assert (await first).stop_reason == "end_turn"


async def test_who_leaves_a_stream_has_cancelled_the_turn(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(num_slots=1, answer="x" * 3000, step_seconds=0.002)
    async with serving(start_worker, start_gateway, engine) as api:
        async with api.messages.stream(**ASKED | {"max_tokens": 3000}) as stream:
            async for _ in stream.text_stream:
                break
        # The one slot is free for this one long before the other would have ended.
        started = time.perf_counter()
        await api.messages.create(**ASKED | {"max_tokens": 3})
        assert time.perf_counter() - started < 3


async def test_what_is_ignored_is_named_and_a_strict_gateway_refuses_it(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    """As agents send it, with betas."""
    more: Any = {"context_management": {"edits": []}, "betas": ["context-management-2025-06-27"]}
    more["metadata"] = {"user_id": "user_1"}
    async with serving(start_worker, start_gateway, FakeEngine()) as api:
        raw = await api.beta.messages.with_raw_response.create(**ASKED, **more)
        assert raw.headers["turnpike-ignored"] == "context_management, metadata.user_id"
        assert (await raw.parse()).stop_reason == "end_turn"
    async with serving(start_worker, start_gateway, FakeEngine(), is_strict=True) as api:
        with pytest.raises(anthropic.BadRequestError, match="context_management"):
            await api.beta.messages.create(**ASKED, **more)
        assert (await api.messages.create(**ASKED)).stop_reason == "end_turn"


# --- Models ---


async def test_models_are_listed_in_the_form_of_who_asks(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    routes = Routes(policies={"quick": Policy(by="smallest")})
    async with serving(start_worker, start_gateway, FakeEngine(num_ctx=512), routes=routes) as api:
        first = await api.models.list(limit=2)
        assert (len(first.data), first.has_more) == (2, True)
        assert [model.id async for model in api.models.list(limit=2)] == ["m", "auto", "quick"]
        one = await api.models.retrieve("m")
        assert (one.type, one.display_name, one.max_input_tokens) == ("model", "Fake", 512)
        with pytest.raises(anthropic.NotFoundError):
            await api.models.retrieve("claude")
        with pytest.raises(anthropic.BadRequestError, match="after_id"):
            await api.models.list(after_id="claude")
        async with httpx2.AsyncClient(base_url=str(api.base_url)) as plain:
            assert (await plain.get("/v1/models")).json()["object"] == "list"
            assert (await plain.get("/v1/models/m")).json()["object"] == "model"
