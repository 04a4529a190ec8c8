"""The gateway as its clients meet it: the openai package, plain HTTP, and bad manners. The engine needs no model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from nats.aio.client import Client as NatsConnection
from openai.types.chat import ChatCompletion

from broker import jetstream
from broker.accounts import GATEWAY, api_key_digest
from broker.client import Client
from broker.connection import close, connect
from broker.server import EmbeddedServer
from producers.gateway.app import Gateway
from producers.gateway.keys import ClientKeys, Keys, new_key
from producers.http_server import listen, serve_http
from producers.routing.policies import Policy, Routes
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import free_port

USER: Any = [{"role": "user", "content": "hello there"}]

NO_ROUTES = Routes()

StartGateway = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
def start_gateway(nats_server: EmbeddedServer) -> StartGateway:
    @asynccontextmanager
    async def start(
        keys: dict[str, ClientKeys] | None = None,
        routes: Routes = NO_ROUTES,
        max_connections: int = 512,
        *,
        leave_out_tools: bool = False,
    ) -> AsyncIterator[str]:
        """Its address."""
        stop = asyncio.Event()
        port = free_port()
        nc = await connect(nats_server.address(GATEWAY), name="gateway")
        gateway = Gateway(nc, Keys(keys), routes, node="here", version="0", leave_out_tools=leave_out_tools)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(gateway.look())
            listening = listen("127.0.0.1", port)
            group.create_task(serve_http(gateway.app(), listening, stop, max_connections=max_connections))
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                stop.set()
                looking.cancel()
        await close(nc)

    return start


@pytest.fixture
async def api(start_worker: StartWorker, start_gateway: StartGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    """A gateway before a worker, by the openai package."""
    async with start_worker(), start_gateway() as url, talk(url) as found:
        yield found


def talk(url: str, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


async def num_queued(nc: NatsConnection) -> int:
    info = await jetstream.api(nc, "STREAM.INFO.TURNS-m")
    assert info is not None
    found: int = info["state"]["messages"]
    return found


# --- The API ---


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
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"typo": 1}, "typo"),
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


async def test_tools_that_are_offered_are_left_out_where_that_is_set_and_said(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    async with start_worker(), start_gateway(leave_out_tools=True) as url, talk(url) as api:
        create = api.chat.completions.with_raw_response.create
        raw = await create(model="m", messages=USER, tools=tools)
        assert raw.headers["turnpike-left-out"] == "tools"
        assert raw.parse().choices[0].message.content == "echo hello there"
        assert "turnpike-left-out" not in (await create(model="m", messages=USER)).headers
        with pytest.raises(openai.BadRequestError) as caught:
            await create(model="m", messages=USER, tools=tools, tool_choice="required")
        assert caught.value.param == "tool_choice"


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


# --- Who may, and how much ---


async def test_keys_are_clients_and_nobody_else_is_served(
    nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    key, digest = new_key()
    assert api_key_digest(key) == digest
    keys = {"alice": ClientKeys(sha256=(digest,))}
    async with start_worker(), start_gateway(keys) as url:
        for wrong in ("none", key + "x"):
            async with talk(url, wrong) as api:
                with pytest.raises(openai.AuthenticationError):
                    await api.chat.completions.create(model="m", messages=USER)
                with pytest.raises(openai.AuthenticationError):
                    await api.models.list()
        async with talk(url, key) as api:
            raw = await api.chat.completions.with_raw_response.create(model="m", messages=USER)
        nc = await connect(nats_server.address(GATEWAY), name="x")
        assert await Client.on(nc, "alice").read(raw.headers["turnpike-turn"]) is not None
        await close(nc)


async def test_too_many_turns_at_once_and_too_many_tokens_are_429_with_a_time(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    key, digest = new_key()
    engine = FakeEngine()
    keys = {"alice": ClientKeys(sha256=(digest,), turns_at_once=1, tokens_per_minute=40)}
    async with start_worker(engine), start_gateway(keys) as url, talk(url, key) as api:
        engine.gate.clear()
        first = asyncio.create_task(api.chat.completions.create(model="m", messages=USER))
        await asyncio.to_thread(engine.entered.wait, 10)
        with pytest.raises(openai.RateLimitError) as caught:
            await api.chat.completions.create(model="m", messages=USER)
        assert caught.value.response.headers["retry-after"] == "1"
        engine.gate.set()
        assert (await first).usage is not None
        with pytest.raises(openai.RateLimitError, match="tokens a minute") as caught:
            await api.chat.completions.create(model="m", messages=USER)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


# --- Clients that leave, and come back ---


async def test_closing_the_stream_cancels_the_turn(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    engine = FakeEngine(num_slots=1, answer="x" * 3000, step_seconds=0.002)
    async with start_worker(engine), start_gateway() as url, talk(url) as api:
        stream = await api.chat.completions.create(model="m", messages=USER, stream=True, max_completion_tokens=3000)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        # The one slot is free for this one long before the other would have ended.
        started = time.perf_counter()
        await api.chat.completions.create(model="m", messages=USER, max_completion_tokens=3)
        assert time.perf_counter() - started < 3
        whole = asyncio.create_task(api.chat.completions.create(model="m", messages=USER, max_completion_tokens=3000))
        engine.entered.clear()
        await asyncio.to_thread(engine.entered.wait, 10)
        whole.cancel()
        started = time.perf_counter()
        await api.chat.completions.create(model="m", messages=USER, max_completion_tokens=3)
        assert time.perf_counter() - started < 3


async def events(answer: httpx2.Response) -> AsyncIterator[dict[str, object]]:
    """Data, and our comments under the name `comment`."""
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])
        elif line.startswith(": turnpike "):
            yield {"comment": json.loads(line[11:])}


def text_of(event: dict[str, object]) -> str:
    choices = event.get("choices")
    assert choices is None or isinstance(choices, list)
    return choices[0]["delta"].get("content") or "" if choices else ""


async def test_a_detached_turn_goes_on_and_is_read_from_its_beginning_and_stopped(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(answer="abc" * 300, step_seconds=0.002)
    body = {"model": "m", "messages": USER, "stream": True, "max_completion_tokens": 900}
    headers = {"Turnpike-Detached": "1", "Turnpike-Details": "1"}
    async with (
        start_worker(engine),
        start_gateway() as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        async with plain.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            turn = answer.headers["turnpike-turn"]
            async for event in events(answer):
                if text_of(event):
                    break
        async with plain.stream("GET", f"/turns/{turn}") as answer:
            found = [event async for event in events(answer)]
        assert "".join(map(text_of, found)) == "abc" * 300
        details = found[-1]["comment"]
        assert isinstance(details, dict)
        assert details["worker"] == "w1"
        assert details["node"] == "unknown"
        async with plain.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            turn = answer.headers["turnpike-turn"]
            text = ""
            async for event in events(answer):
                if not text and text_of(event):
                    assert (await plain.delete(f"/turns/{turn}")).status_code == 204
                text += text_of(event)
        assert 0 < len(text) < 900
        for unknown in ("not a turn", "never-was"):
            assert (await plain.get(f"/turns/{unknown}?model=x")).status_code == 404


async def test_a_waiting_stream_tells_its_place(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()
    body = {"model": "m", "messages": USER, "stream": True}
    async with start_worker(engine), start_gateway() as url, httpx2.AsyncClient(base_url=url, timeout=30) as plain:

        async def place() -> object:
            async with plain.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for event in events(answer):
                    if "comment" in event:
                        engine.gate.set()
                        return event["comment"]
            return None

        first = asyncio.create_task(plain.post("/v1/chat/completions", json=body))
        await asyncio.to_thread(engine.entered.wait, 10)
        found = await place()
        assert isinstance(found, dict)
        assert found["turns_ahead"] == 0
        await first


# --- Bad manners ---


async def test_large_bodies_and_heads_and_half_requests_are_refused_and_others_unharmed(
    api: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = httpx2.URL(str(api.base_url))
    assert url.port is not None
    port = url.port
    async with httpx2.AsyncClient(base_url=url) as plain:
        large = {"model": "m", "messages": [{"role": "user", "content": "x" * 10 * 1024 * 1024}]}
        with contextlib.suppress(httpx2.WriteError):  # refused while it was still being sent
            assert (await plain.post("chat/completions", json=large)).status_code == 413
        nearly = {"model": "m", "messages": [{"role": "user", "content": "x" * 1_000_000}]}
        assert (await plain.post("chat/completions", json=nearly)).status_code in (400, 413)

    async def say(what: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with_answer = b""
        try:
            writer.write(what)
            await writer.drain()
            async with asyncio.timeout(20):
                with_answer = await reader.read(1 << 16)
        except ConnectionError:
            pass
        finally:
            writer.close()
        return with_answer

    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    assert b" 400 " in (await say(head + b"X-Long: " + b"y" * 100_000)).partition(b"\r\n")[0] + b" 400 "
    assert b" 400 " in await say(b"nonsense\r\n\r\n")
    assert b" 413 " in await say(head + b"Content-Length: 99999999999\r\n\r\n")
    assert await say(b"GET / HT") == b""  # closed after its time, without a word
    answer = await api.chat.completions.create(model="m", messages=USER)
    assert answer.choices[0].message.content == "echo hello there"


async def test_a_reader_that_does_not_read_holds_up_nobody(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(answer="y" * 4000)
    body = json.dumps(
        {"model": "m", "messages": USER, "stream": True, "max_tokens": 3900, "logprobs": True, "top_logprobs": 20}
    ).encode()
    async with start_worker(engine), start_gateway() as url, talk(url) as api:
        port = httpx2.URL(url).port
        assert port is not None
        writers = []
        for _ in range(2):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            writers.append(writer)
        for _ in range(3):
            answer = await api.chat.completions.create(model="m", messages=USER, max_tokens=5)
            assert answer.choices[0].message.content == "yyyyy"
        for writer in writers:
            writer.close()


async def test_health_tells_whether_turns_are_taken(
    nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(), start_gateway() as url, httpx2.AsyncClient(base_url=url) as plain:
        assert (await plain.get("/health/live")).status_code == 200
        assert (await plain.get("/health")).json()["status"] == "ready"
        page = await plain.get("/")
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert "Turnpike" in page.text
        for name in ("app.js", "style.css"):
            assert (await plain.get(f"/{name}")).status_code == 200
        assert (await plain.get("/app.py")).status_code == 404
        await nats_server.kill()
        async with asyncio.timeout(20):
            while (await plain.get("/health/ready")).status_code != 503:
                pass
        answer = await plain.post("/v1/chat/completions", json={"model": "m", "messages": USER})
        assert answer.status_code == 503


def test_a_file_of_keys_or_routes_that_is_wrong_says_where(tmp_path: Path) -> None:
    from producers.gateway.keys import KeysError, read_keys
    from producers.routing.policies import RoutingError, read_routes

    path = tmp_path / "x.toml"
    for text in ("[clients.a]\nsha256 = ['x']", "[clients.'a b']\n", "[clients.a]\nlimit = 1", "", "{"):
        path.write_text(text)
        with pytest.raises(KeysError, match=r"x\.toml"):
            read_keys(path)
    for text, where in (
        ("[policies.a]\nby = 'luck'", r"policies\[\.\.\.\]\.by"),
        ("[policies.a]\nfallback = 'b'", "no policy 'b'"),
        ("[policies.a]\nfallback = 'b'\n[policies.b]\nfallback = 'a'", "leads back"),
        ("[policies.'a b']\n", "policy 'a b'"),
    ):
        path.write_text(text)
        with pytest.raises(RoutingError, match=where):
            read_routes(path)


def test_no_packet_waits_for_the_one_before_to_be_acknowledged() -> None:
    with (
        listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
