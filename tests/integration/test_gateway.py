"""The gateway as its clients meet it, by the openai package. The engine needs no model."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion

from producers.routing.policies import Policy, Routes
from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway, talk
from tests.integration.conftest import StartWorker


async def test_a_chat_is_answered_as_a_whole(api: openai.AsyncOpenAI) -> None:
    answer = await api.chat.completions.create(model="m", messages=USER, temperature=0)
    (choice,) = answer.choices
    assert choice.message.content == "echo hello there"
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len("echo hello there")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 60


async def test_a_chat_streams_and_tells_its_usage_where_that_is_wanted(api: openai.AsyncOpenAI) -> None:
    stream = await api.chat.completions.create(
        model="m", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "echo hello there"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16
    without = await api.chat.completions.create(model="m", messages=USER, stream=True)
    assert [chunk.usage async for chunk in without if chunk.usage] == []


async def test_the_next_turn_finds_the_conversation_by_its_history(api: openai.AsyncOpenAI) -> None:
    first = await api.chat.completions.create(model="m", messages=USER)
    said = first.choices[0].message
    history: Any = [*USER, said.model_dump(exclude_none=True), {"role": "user", "content": "and now?"}]
    second = await api.chat.completions.create(model="m", messages=history)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens_details.cached_tokens is not None
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.total_tokens - 1


async def test_limits_stops_and_parts_are_mapped(api: openai.AsyncOpenAI) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}]}]
    cut = await api.chat.completions.create(model="m", messages=parts, max_completion_tokens=4)
    assert cut.choices[0].message.content == "echo"
    assert cut.choices[0].finish_reason == "length"
    stopped = await api.chat.completions.create(model="m", messages=USER, stop=[" there"], seed=7)
    assert stopped.choices[0].message.content == "echo hello"
    assert stopped.choices[0].finish_reason == "stop"


async def test_logprobs_have_their_tokens_text(api: openai.AsyncOpenAI) -> None:
    answer = await api.chat.completions.create(
        model="m", messages=USER, logprobs=True, top_logprobs=2, max_completion_tokens=3
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert [one.token for one in found.content] == list("ech")
    assert found.content[0].bytes == [101]
    assert len(found.content[0].top_logprobs) == 2
    old = await api.completions.create(model="m", prompt="user: hi\nassistant: ", logprobs=1, max_tokens=4)
    assert old.choices[0].text == "echo"
    assert old.choices[0].logprobs is not None
    assert old.choices[0].logprobs.tokens == list("echo")
    assert old.choices[0].logprobs.text_offset == [0, 1, 2, 3]


async def test_completions_stream_too(api: openai.AsyncOpenAI) -> None:
    stream = await api.completions.create(model="m", prompt="user: hi\nassistant: ", stream=True, max_tokens=50)
    text = [choice.text async for chunk in stream for choice in chunk.choices]
    assert "".join(text) == "echo hi"


async def test_models_and_policies_are_listed(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    routes = Routes(policies={"quick": Policy(by="smallest")})
    async with start_worker(), start_gateway(routes=routes) as url, talk(url) as api:
        listed = {model.id async for model in api.models.list()}
        assert listed == {"m", "auto", "quick"}
        assert (await api.models.retrieve("m")).owned_by == "turnpike"
        for name in ("auto", "quick", "Fake"):
            raw = await api.chat.completions.with_raw_response.create(model=name, messages=USER)
            assert raw.headers["turnpike-model"] == "m"
            assert (
                raw.headers["turnpike-route"]
                == {
                    "auto": "auto: expected_wait of 1",
                    "quick": "quick: smallest of 1",
                    "Fake": "named",
                }[name]
            )
            assert raw.parse().choices[0].message.content == "echo hello there"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 9}, "n"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"presence_penalty": 500}, "presence_penalty"),
        ({"temperature": 101}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_its_name(
    api: openai.AsyncOpenAI, more: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await api.post("/chat/completions", body={"model": "m", "messages": USER} | more, cast_to=object)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


async def test_what_asks_for_nothing_is_taken(api: openai.AsyncOpenAI) -> None:
    """Chat front ends send such fields unasked."""
    more = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "modalities": ["text"], "store": False}
    more |= {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "metadata": None,
        "service_tier": "auto",
    }
    answer = await api.post("/chat/completions", body={"model": "m", "messages": USER} | more, cast_to=ChatCompletion)
    assert answer.choices[0].message.content == "echo hello there"


async def test_a_model_that_nobody_serves_and_a_body_that_is_no_json(api: openai.AsyncOpenAI) -> None:
    for name in ("unknown", "no such model!"):
        with pytest.raises(openai.NotFoundError) as caught:
            await api.chat.completions.create(model=name, messages=USER)
        assert caught.value.code == "model_not_found"
    async with httpx2.AsyncClient(base_url=str(api.base_url)) as plain:
        answer = await plain.post("chat/completions", content=b"{", headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert "not JSON" in answer.json()["error"]["message"]
        assert (await plain.get("nothing")).json()["error"]["code"] == "not_found"
        assert (await plain.get("chat/completions")).status_code == 405


async def test_a_prompt_that_is_too_long_is_a_400_streamed_or_not(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    long: Any = [{"role": "user", "content": "x" * 500}]
    async with start_worker(FakeEngine(num_ctx=300)), start_gateway() as url, talk(url) as api:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                await api.chat.completions.create(model="m", messages=long, stream=stream)
            assert caught.value.code == "context_length_exceeded"


async def test_a_deadline_passes_as_a_408(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with start_worker(engine), start_gateway() as url, talk(url) as api:
        with pytest.raises(openai.APIStatusError) as caught:
            await api.chat.completions.create(
                model="m", messages=USER, extra_headers={"Turnpike-Deadline-Seconds": "0.3"}
            )
        assert caught.value.status_code == 408
        engine.gate.set()
