"""What OpenAI's API and llama-server's clients ask for beyond a plain chat."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

from tests.fakes import FIRST
from tests.gateway import USER, StartGateway, talk
from tests.integration.conftest import StartWorker

PROMPT = "user: hi\nassistant: "


async def test_several_answers_are_one_object_or_one_stream(api: openai.AsyncOpenAI) -> None:
    answer = await api.chat.completions.create(model="m", messages=USER, n=3, max_completion_tokens=4)
    assert [(one.index, one.message.content) for one in answer.choices] == [(0, "echo"), (1, "echo"), (2, "echo")]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    alone = await api.chat.completions.create(model="m", messages=USER, max_completion_tokens=4)
    assert alone.usage is not None
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens, "a prompt is counted once"
    stream = await api.chat.completions.create(
        model="m", messages=USER, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    for index in (0, 1):
        choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in choices) == "echo hello there"
        assert choices[-1].finish_reason == "stop"
        assert choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 32


async def test_a_list_of_prompts_is_answered_in_its_order(api: openai.AsyncOpenAI) -> None:
    prompts = [PROMPT, PROMPT.replace("hi", "you")]
    answer = await api.completions.create(model="m", prompt=prompts, n=2, max_tokens=50)
    assert [one.text for one in answer.choices] == ["echo hi", "echo hi", "echo you", "echo you"]
    assert [one.index for one in answer.choices] == [0, 1, 2, 3]


async def test_a_prompt_may_be_tokens_or_several_of_them_and_be_told_again(api: openai.AsyncOpenAI) -> None:
    tokens = [ord(character) + FIRST for character in PROMPT]
    answer = await api.completions.create(model="m", prompt=tokens, max_tokens=50)
    assert answer.choices[0].text == "echo hi"
    answer = await api.completions.create(model="m", prompt=[tokens, tokens], max_tokens=50)
    assert [one.text for one in answer.choices] == ["echo hi", "echo hi"]
    answer = await api.completions.create(model="m", prompt=PROMPT, echo=True, max_tokens=50)
    assert answer.choices[0].text == f"{PROMPT}echo hi"
    with pytest.raises(openai.BadRequestError, match="infill"):
        await api.completions.create(model="m", prompt="def f(", suffix="return 1")


async def test_the_tokens_of_a_responses_prompt_are_counted(api: openai.AsyncOpenAI) -> None:
    answer = await api.responses.create(model="m", input="hello there", instructions="Be brief.")
    assert answer.usage is not None
    body = {"model": "m", "input": "hello there", "instructions": "Be brief."}
    counted: Any = await api.post("/responses/input_tokens", body=body, cast_to=object)
    assert counted == {"object": "response.input_tokens", "input_tokens": answer.usage.input_tokens}


async def test_penalties_and_biases_are_taken(api: openai.AsyncOpenAI) -> None:
    answer = await api.chat.completions.create(
        model="m", messages=USER, presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={"5": -100}
    )
    assert answer.choices[0].message.content is not None


async def test_a_prompt_may_be_computed_and_nothing_be_generated(api: openai.AsyncOpenAI) -> None:
    answer = await api.chat.completions.create(model="m", messages=USER, max_tokens=0)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    stream = await api.completions.create(model="m", prompt=PROMPT, max_tokens=0, stream=True)
    assert "".join([choice.text async for chunk in stream for choice in chunk.choices]) == ""


async def test_what_is_not_done_is_named_and_the_rest_is_answered(api: openai.AsyncOpenAI) -> None:
    raw = await api.chat.completions.with_raw_response.create(
        model="m",
        messages=[{"role": "user", "name": "anna", "content": "hello there"}],
        store=True,
        metadata={"a": "b"},
        verbosity="low",
        service_tier="auto",
        extra_body={"mirostat": 2, "mirostat_tau": 5, "cache_prompt": True, "typical_p": 1.0, "keep_alive": "5m"},
    )
    named = {"metadata", "store", "verbosity", "mirostat", "keep_alive", "messages[].name"}
    assert set(raw.headers["turnpike-ignored"].split(", ")) == named
    assert raw.parse().choices[0].message.content == "echo hello there"


async def test_requests_as_llama_server_takes_them_work_without_v1_and_without_a_model(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(), start_gateway() as url, httpx2.AsyncClient(base_url=url, timeout=30) as plain:
        answer = await plain.post("/chat/completions", json={"messages": USER, "n_predict": 4})
        assert answer.json()["choices"][0]["message"]["content"] == "echo"
        listed = {one["id"]: one for one in (await plain.get("/models")).json()["data"]}
        assert listed["m"].items() >= {"template": True, "tools": True, "thinking": False, "state": "loaded"}.items()
        assert listed["m"]["context_length"]


async def test_an_answer_that_was_begun_is_gone_on_with(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    async with start_worker(), start_gateway() as url, talk(url) as api:
        begun: Any = [*USER, {"role": "assistant", "content": "It is"}]
        answer = await api.chat.completions.create(model="m", messages=begun)
        assert answer.choices[0].message.content is not None
        assert not answer.choices[0].message.content.startswith("It is")
        lone: Any = [{"role": "system", "content": "Be brief."}]
        assert (await api.chat.completions.create(model="m", messages=lone)).choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="two messages of the assistant's"):
            await api.chat.completions.create(model="m", messages=[*begun, begun[-1]])


async def test_a_page_of_another_origin_asks_first_and_is_let_in_where_it_is_named(
    start_gateway: StartGateway,
) -> None:
    page = "http://chat.local:5173"
    headers = {"Origin": page, "Access-Control-Request-Method": "POST"}
    async with start_gateway(origins=(page,)) as url, httpx2.AsyncClient(base_url=url) as plain:
        answer = await plain.options("/v1/chat/completions", headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)
        refused = await plain.get("/v1/models", headers={"Origin": "https://evil.example"})
        assert refused.status_code == 403
