"""Who may use the gateway and how much; clients that leave, come back, or never read; and how it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from pathlib import Path

import httpx2
import openai
import pytest

from broker.accounts import GATEWAY, api_key_digest
from broker.client import Client
from broker.connection import close, connect
from broker.server import EmbeddedServer
from producers.gateway.keys import ClientKeys, new_key
from producers.http_server import listen
from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway, events, talk, text_of
from tests.integration.conftest import StartWorker

# --- Who may, and how much ---


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
