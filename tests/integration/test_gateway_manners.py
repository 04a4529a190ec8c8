"""What strangers send to a gateway: an answer for each that says what is wrong, and no harm to anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx2
import openai
import pytest

from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway, talk
from tests.integration.conftest import StartWorker

CHAT = json.dumps({"model": "m", "messages": USER}).encode()


def port_of(api: openai.AsyncOpenAI) -> int:
    port = httpx2.URL(str(api.base_url)).port
    assert port is not None
    return port


async def say(port: int, what: bytes, *, until: bytes | None = None) -> bytes:
    """What comes back before the connection is closed, or before `until` has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = b""
    try:
        writer.write(what)
        await writer.drain()
        async with asyncio.timeout(20):
            while piece := await reader.read(1 << 16):
                found += piece
                if until is not None and until in found:
                    break
    except ConnectionError:
        pass
    finally:
        writer.close()
    return found


def post(body: bytes, *headers: bytes, version: bytes = b"1.1", close: bool = True) -> bytes:
    head = [b"POST /v1/chat/completions HTTP/" + version, b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*head, *([b"Connection: close"] if close else []), b"", body])


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def still_answers(api: openai.AsyncOpenAI) -> bool:
    answer = await api.chat.completions.create(model="m", messages=USER)
    return answer.choices[0].message.content == "echo hello there"


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


SCHEMA = b'{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema",'
SCHEMA += b'"json_schema":{"name":"s","schema":%s}}}'


BODIES = [
    b"",
    b"null",
    b"\xff\xfe",
    b'"\\ud800"',
    b'{"model":"\\udc00\\ud800","messages":[{"role":"user","content":"x"}]}',
    b'{"messages":[],"messages":[{"role":"tool","content":"x"}],"model":"m","model":"m"}',
    b"[" * 500_000,
    nested(100_000),
    SCHEMA % nested(1100),
    SCHEMA % b'{"maximum":1%s}' % (b"0" * 30),
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e308}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"seed":1e400}',
    b'{"model":"%s","messages":[]}' % (b"m" * 1_000_000),
    b'{"%s":1}' % (b"m" * 1_000_000),
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":%s}' % (b"[" + nested(700) + b"]"),
    b'{"model":"m","messages":[%s]}' % b",".join([b'{"role":"user","content":""}'] * 10_001),
]


async def test_odd_bodies_are_the_clients_fault(api: openai.AsyncOpenAI) -> None:
    async with httpx2.AsyncClient(base_url=str(api.base_url), timeout=20) as plain:
        for body in BODIES:
            for path in ("chat/completions", "completions"):
                answer = await plain.post(path, content=body)
                assert 400 <= answer.status_code < 500, (body[:100], answer.text[:300])
                error = answer.json()["error"]
                assert error["type"] == "invalid_request_error"
                assert len(answer.content) < 1000
            assert await still_answers(api), body[:100]


HEADERS = [
    (b"Turnpike-Conversation: \xff\xfe\x80 odd", 200),
    (b"Turnpike-Conversation: " + b"c" * 8000, 200),
    (b"Turnpike-Conversation: a.b.*.>", 200),
    (b"Turnpike-Conversation:", 200),
    (b"Authorization: \xe4\xf6", 200),
    (b"X-\x80: x", 400),
    (b"X-Nul: a\x00b", 400),
    (b"Turnpike-Priority: \xff", 400),
    (b"Turnpike-Deadline-Seconds: nan", 400),
    (b"Turnpike-Deadline-Seconds: inf", 400),
    (b"Turnpike-Deadline-Seconds: -1", 400),
    (b"Turnpike-Deadline-Seconds: 0", 400),
    (b"Turnpike-Deadline-Seconds: 1e999", 400),
    (b"Turnpike-Deadline-Seconds: " + b"9" * 5000, 400),
    (b"Turnpike-Deadline-Seconds: \xb2", 400),
    (b"Turnpike-Deadline-Seconds:", 400),
    (b"Content-Length: 5", 400),
    (b"Expect: 100-continue", 200),
]


async def test_odd_headers_are_taken_or_refused(api: openai.AsyncOpenAI) -> None:
    for header, status in HEADERS:
        answer = await say(port_of(api), post(CHAT, header))
        if b"100 Continue" in answer:
            answer = answer.partition(b"\r\n\r\n")[2]
        assert answer, header[:100]
        assert status_of(answer) == status, (header[:100], answer[:300])
        assert await still_answers(api)


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PATHS: dict[str, set[str]] = {
    "/v1/chat/completions": {"POST"},
    "/v1/completions": {"POST"},
    "/v1/models": {"GET", "HEAD"},
    "/v1/models/m": {"GET", "HEAD"},
    "/turns/never-was": {"GET", "HEAD", "DELETE"},
    "/": {"GET", "HEAD"},
    "/app.js": {"GET", "HEAD"},
    "/health": {"GET", "HEAD"},
}
NOWHERE = ("/v1/images", "/v1/chat/completions/x", "/nothing", "/app.py", "/..%2fapp.py", "/%ff%00", "/v1", "/v2/")


async def request(api: openai.AsyncOpenAI, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    line = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
    answer = await say(port_of(api), line.encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    pairs = [one.decode().partition(": ") for one in head.split(b"\r\n")[1:]]
    return status_of(answer), {name.lower(): value for name, _, value in pairs}, body


async def test_unknown_paths_are_404(api: openai.AsyncOpenAI) -> None:
    for path in NOWHERE:
        for method in METHODS:
            status, _, body = await request(api, method, path)
            assert status == 404, (method, path)
            if method != "HEAD":
                error = json.loads(body)["error"]
                assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")


async def test_wrong_methods_are_405_and_the_right_ones_are_named(api: openai.AsyncOpenAI) -> None:
    for path, allowed in PATHS.items():
        for method in METHODS:
            status, headers, body = await request(api, method, path)
            if method in allowed:
                assert status in (200, 204, 400, 404), (method, path)
                assert not (body and method == "HEAD"), path
                continue
            assert status == 405, (method, path)
            assert set(headers["allow"].split(", ")) == allowed
            error = json.loads(body or b'{"error": {"code": "method_not_supported"}}')["error"]
            assert error["code"] == "method_not_supported"


async def test_a_method_that_http_does_not_have_is_no_request(api: openai.AsyncOpenAI) -> None:
    status, headers, _ = await request(api, "ODD", "/v1/models")
    assert (status, headers["connection"]) == (400, "close")
    assert await still_answers(api)


async def test_old_and_hasty_clients_are_answered(api: openai.AsyncOpenAI) -> None:
    port = port_of(api)
    old = await say(port, post(CHAT, version=b"1.0", close=False))
    assert status_of(old) == 200
    assert b"echo hello there" in old
    streamed = json.dumps({"model": "m", "messages": USER, "stream": True}).encode()
    old = await say(port, post(streamed, version=b"1.0", close=False))
    assert b"data: [DONE]" in old
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert status_of(await say(port, head + b"not a length\r\n")) == 400
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (CHAT[:10], CHAT[10:]))
    assert status_of(await say(port, head + chunks + b"0\r\n\r\n", until=b"echo hello there")) == 200
    both = await say(port, post(CHAT, close=False) + post(streamed))
    assert both.count(b"HTTP/1.1 200") == 2
    assert both.index(b"echo hello there") < both.index(b"data: [DONE]")


async def test_more_streams_than_connections_are_refused_and_the_others_go_on(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(num_slots=2)
    engine.gate.clear()
    body = json.dumps({"model": "m", "messages": USER, "stream": True}).encode()
    async with start_worker(engine), start_gateway(max_connections=20) as url, talk(url) as api:
        port = port_of(api)
        found = [asyncio.create_task(say(port, post(body))) for _ in range(300)]
        async with asyncio.timeout(20):
            while sum(one.done() for one in found) < 280:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        engine.gate.set()
        answers = await asyncio.gather(*found)
        assert {status_of(one) for one in answers if one} <= {200, 503}
        num_whole = sum(b"data: [DONE]" in one for one in answers)
        assert 10 <= num_whole <= 20
        assert await still_answers(api)


async def test_connections_that_ask_for_nothing_keep_nobody_out(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(), start_gateway(max_connections=20) as url, talk(url) as api:
        idle = [await asyncio.open_connection("127.0.0.1", port_of(api)) for _ in range(100)]
        for _ in range(3):
            answer = await say(port_of(api), post(CHAT))
            assert status_of(answer) == 200
        for _, writer in idle:
            writer.close()


async def test_who_stops_reading_holds_no_more_than_a_bound_and_is_given_up(
    start_worker: StartWorker, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from producers.gateway import stream as streams

    monkeypatch.setattr(streams, "SEND_SECONDS", 1.0)
    engine = FakeEngine(num_ctx=200_000, answer="y" * 150_000)
    request: dict[str, Any] = {"model": "m", "messages": USER, "stream": True, "max_tokens": 150_000}
    body = json.dumps(request | {"logprobs": True, "top_logprobs": 20}).encode()
    async with start_worker(engine) as running, start_gateway() as url, talk(url) as api:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(api), limit=1)
        writer.write(post(body))
        # Its turn is cancelled long before all of it was computed: nobody reads it.
        async with asyncio.timeout(30):
            while not running.worker.turns.in_hand:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while running.worker.turns.in_hand:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert engine.num_tokens < 140_000
        writer.close()
        assert (await api.chat.completions.create(model="m", messages=USER, max_tokens=3)).choices


async def test_every_event_of_a_stream_says_which_model_file_answers(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()
    async with start_worker(engine, fingerprint="f17"), start_gateway() as url, talk(url) as api:
        busy = asyncio.create_task(api.chat.completions.create(model="m", messages=USER))
        await asyncio.to_thread(engine.entered.wait, 10)
        stream = await api.chat.completions.create(
            model="m", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        engine.gate.set()
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert {chunk.system_fingerprint for chunk in chunks} == {"b-f17"}
        old = await api.completions.create(model="m", prompt="user: hi\nassistant: ", stream=True)
        assert {chunk.system_fingerprint async for chunk in old} == {"b-f17"}
        await busy


async def test_the_head_of_a_turn_is_no_stream(api: openai.AsyncOpenAI) -> None:
    raw = await api.chat.completions.with_raw_response.create(model="m", messages=USER)
    turn = raw.headers["turnpike-turn"]
    answer = await say(port_of(api), f"HEAD /turns/{turn} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\n")
    many = "&".join(f"model=x{number}" for number in range(500))
    async with httpx2.AsyncClient(base_url=str(api.base_url), timeout=20) as plain:
        async with asyncio.timeout(10):
            assert (await plain.get(f"/turns/never-was?{many}".replace("/v1", ""))).status_code == 404
        with contextlib.suppress(KeyError):
            assert (await plain.get("models/")).json()["object"] == "list"
