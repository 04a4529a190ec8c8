"""The Responses API, by the openai package as it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from nats.aio.client import Client as NatsConnection

from broker import jetstream, subjects
from broker.accounts import GATEWAY
from broker.connection import connect
from broker.keeping_answers import KeptAnswers
from broker.messages import Message
from broker.messages.kept import Kept
from broker.server import EmbeddedServer
from producers.gateway.keys import ClientKeys, new_key
from tests.fakes import FakeEngine
from tests.gateway import StartGateway, talk
from tests.integration.conftest import StartWorker
from tests.integration.test_gateway_tools import LAMP, serving
from tests.integration.test_tools import CALL

TOOL: Any = {"type": "function", **LAMP["function"]}


async def test_a_text_is_answered_and_its_response_is_kept(api: openai.AsyncOpenAI) -> None:
    answer = await api.responses.create(model="m", input="hello there", instructions="Be brief.", metadata={"a": "b"})
    assert answer.output_text == "echo hello there"
    assert (answer.status, answer.id[:5], answer.output[0].type) == ("completed", "resp_", "message")
    assert answer.usage is not None
    assert answer.usage.output_tokens == len("echo hello there")
    assert (answer.instructions, answer.metadata) == ("Be brief.", {"a": "b"})
    again = await api.responses.retrieve(answer.id)
    assert again.output_text == answer.output_text
    await api.responses.delete(answer.id)
    for gone in (answer.id, "resp_none", "no such name"):
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(gone)


async def test_a_conversation_goes_on_from_the_answer_before(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    """At another gateway, too, and its state is found again."""
    async with start_worker(), start_gateway() as url, start_gateway() as other, talk(url) as api, talk(other) as later:
        first = await api.responses.create(model="m", input="hello there")
        second = await later.responses.create(model="m", input="and now?", previous_response_id=first.id)
        assert second.output_text == "echo and now?"
        assert second.previous_response_id == first.id
        assert first.usage is not None
        assert second.usage is not None
        assert second.usage.input_tokens > first.usage.total_tokens
        assert second.usage.input_tokens_details.cached_tokens >= first.usage.total_tokens - 1
        third = await api.responses.create(model="m", input="more", previous_response_id=second.id, store=False)
        assert third.model_dump()["store"] is False
        with pytest.raises(openai.BadRequestError) as caught:
            await api.responses.create(model="m", input="x", previous_response_id=third.id)
        assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


async def test_nobody_goes_on_from_or_reads_what_is_anothers(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    (key, digest), (other_key, other_digest) = new_key(), new_key()
    keys = {"alice": ClientKeys((digest,)), "bob": ClientKeys((other_digest,))}
    async with start_worker(), start_gateway(keys) as url, talk(url, key) as alice, talk(url, other_key) as bob:
        first = await alice.responses.create(model="m", input="a secret")
        with pytest.raises(openai.NotFoundError):
            await bob.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError):
            await bob.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError):
            await bob.responses.create(model="m", input="and?", previous_response_id=first.id)
        assert (await alice.responses.retrieve(first.id)).output_text == "echo a secret"


async def test_a_stream_has_all_events_in_their_order(api: openai.AsyncOpenAI) -> None:
    stream = await api.responses.create(model="m", input="hello there", stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    middle = kinds[4:-4]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(middle) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert text == last.response.output_text == "echo hello there"
    assert (await api.responses.retrieve(last.response.id)).output_text == text
    async with api.responses.stream(model="m", input="hello there") as helper:
        assert (await helper.get_final_response()).output_text == text


async def test_an_answer_that_is_cut_is_incomplete(api: openai.AsyncOpenAI) -> None:
    answer = await api.responses.create(model="m", input="hello there", max_output_tokens=4)
    assert (answer.status, answer.output_text) == ("incomplete", "echo")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    stream = await api.responses.create(model="m", input="hello there", max_output_tokens=4, stream=True)
    assert [event.type async for event in stream][-1] == "response.incomplete"


async def test_functions_are_called_and_their_results_gone_on_with(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(answer=CALL)
    async with serving(start_worker, start_gateway, engine) as api:
        first = await api.responses.create(model="m", input="light!", tools=[TOOL])
        (call,) = first.output
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments)) == ("lamp", {"on": True})
        stream = await api.responses.create(model="m", input="light!", tools=[TOOL], stream=True)
        events = [event async for event in stream]
        done = next(event for event in events if event.type == "response.function_call_arguments.done")
        assert json.loads(done.arguments) == {"on": True}
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert json.loads("".join(deltas)) == {"on": True}
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
        second = await api.responses.create(model="m", input=[result], tools=[TOOL], previous_response_id=first.id)
        assert second.status == "completed"
        whole: Any = [{"role": "user", "content": "light!"}, call.model_dump(exclude_none=True), result]
        third = await api.responses.create(model="m", input=whole, tools=[TOOL])
        assert third.usage == second.usage or third.usage is not None


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"max_output_tokens": -2}, "max_output_tokens"),
        ({"n": 2}, "n"),
    ],
)
async def test_what_is_wrong_is_named(api: openai.AsyncOpenAI, more: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await api.post("/responses", body={"model": "m", "input": "hi"} | more, cast_to=object)
    assert caught.value.param == param


async def test_what_is_not_done_is_named_and_the_rest_is_answered(api: openai.AsyncOpenAI) -> None:
    more: Any = {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi", "odd": 1}]}],
        "tools": [{"type": "web_search"}],
        "text": {"verbosity": "low"},
        "include": ["reasoning.encrypted_content"],
        "truncation": "auto",
        "background": True,
    }
    raw = await api.responses.with_raw_response.create(model="m", **more)
    named = {
        *("input[].content[].odd", "tools[]", "text.verbosity", "include.reasoning.encrypted_content"),
        *("truncation", "background"),
    }
    assert set(raw.headers["turnpike-ignored"].split(", ")) == named
    assert raw.parse().output_text == "echo hi"


async def test_a_failure_in_mid_stream_is_its_last_event(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(FakeEngine(num_ctx=100)), start_gateway() as url, httpx2.AsyncClient(base_url=url) as plain:
        for stream in (False, True):
            answer = await plain.post("/v1/responses", json={"model": "m", "input": "x" * 300, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_detached", [False, True])
async def test_a_response_whose_reader_leaves_is_kept_as_it_ends(
    start_worker: StartWorker, start_gateway: StartGateway, *, stream: bool, is_detached: bool
) -> None:
    """Whole, where the turn goes on without its reader; else as far as it came, and cancelled."""
    # What is to be stopped goes on for longer than it takes to be.
    engine = (
        FakeEngine(answer="All is well. " * 9) if is_detached else FakeEngine(answer="All. " * 99, step_seconds=0.02)
    )
    engine.gate.clear()
    headers = {"Turnpike-Detached": "1"} if is_detached else {}
    body = {"model": "m", "input": "hello there", "stream": stream, "user": "who"}
    async with start_worker(engine), start_gateway() as url, httpx2.AsyncClient(base_url=url, timeout=30) as plain:
        if stream:
            async with plain.stream("POST", "/v1/responses", json=body, headers=headers) as left:
                turn = left.headers["turnpike-turn"]
        else:
            asking = asyncio.create_task(plain.post("/v1/responses", json=body, headers=headers))
            (turn,) = await turns_in_work(plain)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        if not is_detached:
            await asyncio.to_thread(engine.entered.wait, 10)
        engine.gate.set()
        async with asyncio.timeout(20):
            while (kept := await plain.get(f"/v1/responses/resp_{turn}")).status_code == 404:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # nothing tells when it is kept
        found = kept.json()
        assert found["id"] == f"resp_{turn}"
        assert found["store"] is True
        if is_detached:
            assert (found["status"], found["output"][0]["content"][0]["text"]) == ("completed", "All is well. " * 9)
        else:
            assert (found["status"], found["completed_at"], found["incomplete_details"]) == ("cancelled", None, None)


async def turns_in_work(plain: httpx2.AsyncClient) -> list[str]:
    async with asyncio.timeout(20):
        while not (found := (await plain.get("/cluster")).json()["turns"]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return [one["turn"] for one in found]


async def test_llama_servers_telemetry_is_told_as_it_has_it(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    """As `test_responses_stream_with_llama_telemetry` of its own tests, also where the answer is cut."""
    more = {"stream": True, "timings_per_token": True, "return_progress": True, "max_output_tokens": 8}
    async with start_worker(), start_gateway() as url, httpx2.AsyncClient(base_url=url, timeout=30) as plain:

        async def told(**fields: object) -> list[dict[str, Any]]:
            answer = await plain.post("/v1/responses", json={"model": "m", "input": "This is a test" * 10} | fields)
            assert answer.status_code == 200
            assert "turnpike-ignored" not in answer.headers
            return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]

        events = await told(**more)
        progress = [one for one in events if "prompt_progress" in one]
        assert progress
        for one in progress:
            assert one["type"] == "response.in_progress"
            assert one["prompt_progress"]["total"] >= one["prompt_progress"]["processed"]
            assert one["prompt_progress"]["total"] > 0
            assert one["prompt_progress"]["processed"] >= one["prompt_progress"]["cache"]
        deltas = [one for one in events if one["type"] == "response.output_text.delta"]
        assert deltas
        assert all(one["timings"]["predicted_n"] > 0 for one in deltas)
        assert events[-1]["type"] == "response.completed"
        assert (events[-1]["response"]["status"], events[-1]["timings"]["predicted_n"]) == ("incomplete", 8)
        assert [one["sequence_number"] for one in events] == list(range(len(events)))

        plainly = await told(stream=True, max_output_tokens=8, stream_options={"include_usage": True})
        assert not any("timings" in one or "prompt_progress" in one for one in plainly)
        assert plainly[-1]["type"] == "response.incomplete"
        assert plainly[-1]["response"]["usage"]["output_tokens"] == 8


async def test_a_client_that_keeps_much_pushes_out_its_own_oldest_answers_and_nobody_elses(
    nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    answers = KeptAnswers(num_clients=24)
    large = Kept((Message("user", "x" * 900_000),), b"{}")
    nc = await connect(nats_server.address(GATEWAY), name="gateway")
    assert await answers.keep(nc, "bob", "resp_1", Kept((Message("user", "hi"),), b"{}"))
    for index in range(30):  # more than the bucket holds
        assert await answers.keep(nc, "alice", f"resp_{index}", large)
    assert await answers.read(nc, "bob", "resp_1") is not None
    assert await answers.read(nc, "alice", "resp_29") == large
    assert await answers.read(nc, "alice", "resp_28") is None
    bucket = await jetstream.stream(operator, subjects.KV_ANSWERS)
    assert bucket is not None
    assert bucket.state.num_bytes < 1_000_000
    await nc.close()
