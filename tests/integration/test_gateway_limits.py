"""A gateway's limits, whatever a client does, and queues that nobody serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from broker import codec, jetstream, publishing, subjects
from broker.accounts import LOCAL, OPERATOR, WORKER
from broker.answer import Answer
from broker.client import Client
from broker.connection import close, connect
from broker.conversations import name_of
from broker.messages import Chunk, Done, Message, Started, Turn, new_id
from broker.server import EmbeddedServer
from broker.topology import Limits
from producers.gateway import patience
from producers.gateway.keys import ClientKeys, new_key
from producers.routing.policies import Policy, Routes
from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway, events, num_queued, talk, text_of
from tests.integration.conftest import StartWorker
from tests.integration.test_transfer import FAST, Conversation, slow_engine
from workers.kv.cache import OffloadCache

STREAM = {"model": "m", "messages": USER, "stream": True, "max_tokens": 200}


def limited(turns_at_once: int, tokens_per_minute: int | None = None) -> tuple[dict[str, str], dict[str, ClientKeys]]:
    """A client's header, and the file of keys that has it."""
    key, digest = new_key()
    return {"Authorization": f"Bearer {key}"}, {"alice": ClientKeys((digest,), turns_at_once, tokens_per_minute)}


async def joined(texts: AsyncIterator[str]) -> str:
    return "".join([text async for text in texts])


async def refusal(plain: httpx2.AsyncClient, headers: dict[str, str], kind: str) -> httpx2.Response:
    """The first refusal of that kind; until then every answer is one of another kind."""
    async with asyncio.timeout(20):
        while True:
            answer = await plain.post("/v1/chat/completions", json={"model": "m", "messages": USER}, headers=headers)
            assert answer.status_code == 429, answer.text
            if answer.json()["error"]["type"] == kind:
                return answer


async def test_leaving_a_stream_before_its_end_costs_what_was_computed(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    headers, keys = limited(1, 100)
    engine = FakeEngine(answer="y" * 200, step_seconds=0.005)
    async with (
        start_worker(engine),
        start_gateway(keys) as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        async with plain.stream("POST", "/v1/chat/completions", json=STREAM, headers=headers) as answer:
            num_read = 0
            async for event in events(answer):
                num_read += len(text_of(event))
                if num_read >= 150:
                    break
        assert "100 tokens a minute" in (await refusal(plain, headers, "tokens")).json()["error"]["message"]


async def test_a_turn_that_is_given_up_at_its_deadline_costs_what_was_computed(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    headers, keys = limited(1, 40)
    engine = FakeEngine(answer="y" * 2000, step_seconds=0.01)
    body = STREAM | {"stream": False, "max_tokens": 2000}
    async with (
        start_worker(engine),
        start_gateway(keys) as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        late = await plain.post(
            "/v1/chat/completions", json=body, headers=headers | {"Turnpike-Deadline-Seconds": "1.5"}
        )
        assert late.status_code == 408
        assert late.headers["x-should-retry"] == "false"
        await refusal(plain, headers, "tokens")


async def test_a_detached_turn_keeps_its_place_until_it_has_ended(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    headers, keys = limited(1)
    engine = FakeEngine(answer="y" * 20)
    engine.gate.clear()
    detached = headers | {"Turnpike-Detached": "1"}
    async with (
        start_worker(engine) as running,
        start_gateway(keys) as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        async with plain.stream("POST", "/v1/chat/completions", json=STREAM, headers=detached) as answer:
            assert answer.status_code == 200
        for _ in range(8):
            async with plain.stream("POST", "/v1/chat/completions", json=STREAM, headers=detached) as answer:
                assert answer.status_code == 429
        assert await num_queued(running.nc) == 1
        engine.gate.set()
        async with asyncio.timeout(20):
            while (await plain.post("/v1/chat/completions", json=STREAM, headers=headers)).status_code == 429:
                pass


async def test_what_was_refused_leaves_its_place_at_once(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    headers, keys = limited(1)
    wrong: list[dict[str, Any]] = [
        {"model": "unknown", "messages": USER},
        {"model": "m", "messages": []},
        {"model": "m", "messages": [{"role": "user", "content": "x" * 1_048_000}]},
    ]
    async with (
        start_worker(),
        start_gateway(keys) as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        for body in wrong:
            assert 400 <= (await plain.post("/v1/chat/completions", json=body, headers=headers)).status_code < 429
        found = await plain.post("/v1/chat/completions", json={"model": "m", "messages": USER}, headers=headers)
        assert found.status_code == 200


async def test_what_a_full_queue_refused_keeps_no_place_and_is_not_cancelled(
    nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    await nats_server.ensure(["m"], Limits(max_queued_turns=1))
    headers, keys = limited(2)
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()
    async with (
        start_worker(engine) as running,
        start_gateway(keys) as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        body = {"model": "m", "messages": USER}
        first = asyncio.create_task(plain.post("/v1/chat/completions", json=body, headers=headers))
        await asyncio.to_thread(engine.entered.wait, 10)
        refused = [(await plain.post("/v1/chat/completions", json=body, headers=headers)).json() for _ in range(3)]
        assert [one["error"]["code"] for one in refused] == ["queue_full"] * 3
        info = await jetstream.api(running.nc, "STREAM.INFO.CANCELS")
        assert info is not None
        assert info["state"]["messages"] == 0
        engine.gate.set()
        assert (await first).status_code == 200


# --- A queue without a worker ---


@pytest.mark.parametrize("name", ["m", "auto", "mine/any-name:1.5"])
async def test_a_model_without_a_worker_is_a_503_at_once(
    nats_server: EmbeddedServer, start_gateway: StartGateway, name: str
) -> None:
    routes = Routes(policies={"mine/any-name:1.5": Policy(models=("m",))})
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("chat/completions", {"messages": USER}),
        ("chat/completions", {"messages": USER, "stream": True}),
        ("completions", {"prompt": "hi"}),
        ("completions", {"prompt": "hi", "stream": True}),
    ]
    nc = await connect(nats_server.address(OPERATOR), name="operator")
    async with start_gateway(routes=routes) as url, httpx2.AsyncClient(base_url=f"{url}/v1/", timeout=5) as plain:
        for headers in ({}, {"Turnpike-Detached": "1"}):
            for path, body in bodies:
                answer = await plain.post(path, json=body | {"model": name}, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
                assert name in answer.json()["error"]["message"]
                assert answer.headers["retry-after"] == "5"
        assert await num_queued(nc) == 0
    await close(nc)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_is_kept_without_a_worker_and_until_then_a_stream_says_that_there_is_none(
    start_gateway: StartGateway, *, stream: bool
) -> None:
    body = {"model": "m", "messages": USER, "stream": stream}
    async with start_gateway() as url, httpx2.AsyncClient(base_url=url, timeout=20) as plain:
        started = time.perf_counter()
        headers = {"Turnpike-Deadline-Seconds": "1.5"}
        if stream:
            async with plain.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
                found = [event async for event in events(answer)]
            assert found[0] == {"comment": {"turns_ahead": 0, "seconds": None, "workers": 0}}
            error = found[-1]["error"]
        else:
            answer = await plain.post("/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 408
            error = answer.json()["error"]
        assert isinstance(error, dict)
        assert error["code"] == "deadline"
        assert 1.4 < time.perf_counter() - started < 6


async def test_a_worker_that_comes_before_the_deadline_answers(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_gateway() as url, talk(url) as api:
        asked = asyncio.create_task(
            api.chat.completions.create(model="m", messages=USER, extra_headers={"Turnpike-Deadline-Seconds": "30"})
        )
        async with start_worker():
            assert (await asked).choices[0].message.content == "echo hello there"


async def test_a_turn_whose_last_worker_has_gone_for_good_is_not_waited_for(
    start_worker: StartWorker, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "NOBODY_SECONDS", 0.5)
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()
    async with start_gateway() as url, talk(url) as api:
        async with start_worker(engine) as running:
            first = asyncio.create_task(api.chat.completions.create(model="m", messages=USER))
            await asyncio.to_thread(engine.entered.wait, 10)
            second = asyncio.create_task(api.chat.completions.create(model="m", messages=USER))
            async with asyncio.timeout(10):
                while await num_queued(running.nc) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            running.task.cancel()
            engine.gate.set()
        for asked in (first, second):
            with pytest.raises(openai.APIStatusError) as caught:
                async with asyncio.timeout(25):
                    await asked
            assert caught.value.status_code == 503
            assert caught.value.code == "no_worker"


async def test_a_turn_that_the_last_worker_finishes_before_it_leaves_is_waited_for(
    start_worker: StartWorker, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "NOBODY_SECONDS", 0.5)
    engine = FakeEngine(answer="y" * 100, num_slots=1, step_seconds=0.01)
    async with (
        start_gateway() as url,
        start_worker(engine) as running,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
        plain.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        texts = (text_of(event) async for event in events(answer))
        text = ""
        while not text:
            text = await anext(texts)
        engine.gate.clear()
        running.stop.set()
        # Far longer than one waits for nobody.
        rest = asyncio.create_task(joined(texts))
        done, _ = await asyncio.wait({rest}, timeout=4)
        assert not done
        engine.gate.set()
        assert text + await rest == "y" * 100


async def test_what_generates_is_waited_for_though_no_worker_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "NOBODY_SECONDS", 0.05)
    monkeypatch.setattr(patience, "LOOK_SECONDS", 0.01)
    client: Any = SimpleNamespace(name="c")
    answer = Answer(client, Turn(new_id(), "c", (Message("user", "hi"),)), "m", "interactive")
    answer._reassembly.take(Started(0, 0, "w"))
    hopeless = asyncio.create_task(patience.Patience(answer, lambda: 0).until_hopeless())
    for index in range(30):
        answer._reassembly.take(Chunk(1 + index, 0, "x", (7,), (), index, index))
        await asyncio.wait({hopeless}, timeout=0.01)
    assert not hopeless.done()
    assert (await asyncio.wait_for(hopeless, 10)).code == "no_worker"


async def test_a_turn_whose_reader_is_told_to_read_it_elsewhere_goes_on(
    nats_server: EmbeddedServer, start_gateway: StartGateway
) -> None:
    """The second worker's answer is another one than the first one's beginning, which the client has."""
    nc = await connect(nats_server.address(WORKER), name="w")
    headers = {"Turnpike-Deadline-Seconds": "30"}  # nobody serves it
    async with start_gateway() as url, httpx2.AsyncClient(base_url=url, timeout=30) as plain:
        async with plain.stream("POST", "/v1/chat/completions", json=STREAM, headers=headers) as answer:
            turn = answer.headers["turnpike-turn"]
            replies = (Started(0, 0, "w1"), Chunk(1, 0, "yes", (1,)), Started(2, 1, "w2"), Chunk(3, 1, "no", (2,)))
            for reply in replies:
                await publishing.publish(nc, subjects.reply(LOCAL, turn), codec.encode(reply))
            body = "".join([text async for text in answer.aiter_text()])
        assert '"code":"restarted"' in body
        assert f"/turns/{turn}" in body
    # The gateway has ended, and with it all that it does behind a stream.
    info = await jetstream.api(nc, "STREAM.INFO.CANCELS")
    assert info is not None
    assert info["state"]["messages"] == 0
    await close(nc)


async def test_a_request_without_a_model_goes_to_the_default(
    nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    await nats_server.ensure(["m", "other"])
    routes = Routes(default="gpt-3.5-turbo", policies={"gpt-3.5-turbo": Policy(), "org/name": Policy(by="smallest")})
    async with start_worker():
        async with start_gateway(routes=routes) as url, httpx2.AsyncClient(base_url=f"{url}/v1/") as plain:
            for body in ({}, {"model": None}, {"model": ""}, {"model": "org/name"}):
                answer = await plain.post("chat/completions", json=body | {"messages": USER})
                assert answer.status_code == 200, answer.text
                assert answer.json()["model"] == "m"
                assert answer.headers["turnpike-route"].startswith(body.get("model") or "gpt-3.5-turbo")
            assert (await plain.get("models/org/name")).json()["id"] == "org/name"
            assert (await plain.get("models/org%2Fname")).json()["is_policy"] is True
            listed = (await plain.get("models")).json()["data"]
            assert {one["id"] for one in listed} == {"m", "auto", "gpt-3.5-turbo", "org/name"}
            assert all(abs(one["created"] - time.time()) < 60 for one in listed)
        async with start_gateway() as url, httpx2.AsyncClient(base_url=f"{url}/v1/") as plain:
            answer = await plain.post("chat/completions", json={"messages": USER})
            assert answer.json()["model"] == "m", "the only one that there is"
        async with (
            start_worker(name="w2", model="other"),
            start_gateway() as url,
            httpx2.AsyncClient(base_url=f"{url}/v1/") as plain,
        ):
            answer = await plain.post("chat/completions", json={"messages": USER})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


# --- Whose turn it is ---


async def test_chats_that_begin_alike_do_not_forget_each_other(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    """Of an engine whose answers' texts do not give their tokens back: only what is remembered is not computed."""
    async with start_worker(FakeEngine(is_ambiguous=True)), start_gateway() as url, talk(url) as api:

        async def go_on(messages: list[Any], max_tokens: int) -> Any:
            done = await api.chat.completions.create(model="m", messages=messages, max_tokens=max_tokens)
            messages += [
                {"role": "assistant", "content": done.choices[0].message.content},
                {"role": "user", "content": "and what is that good for?"},
            ]
            return done.usage

        chats: list[list[Any]] = [[*USER], [*USER]]
        known = [0, 0]
        for number in range(4):
            for index, chat in enumerate(chats):
                usage = await go_on(chat, 5 + index)
                if number:
                    assert usage.prompt_tokens_details.cached_tokens >= known[index] - 1, (number, index)
                known[index] = usage.total_tokens


class Unnamed(Conversation):
    """One that is named by what was said in it, as a gateway names it."""

    async def next(self) -> Done:
        self.name = name_of([*self.messages, Message("user", self.question())])
        return await super().next()


async def test_a_conversation_that_nobody_named_is_found_with_another_worker(
    client: Client, start_worker: StartWorker
) -> None:
    async with start_worker(slow_engine(), offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=FAST):
        conversation = Unnamed(client)
        await conversation.next()
        second = start_worker(
            slow_engine(), name="w2", offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=FAST
        )
        async with second:
            done = await conversation.until("w2")
            assert done.usage.cached_in == "peer"
            assert done.usage.recomputed_tokens == 0
            seen = [await conversation.next() for _ in range(10)]
            assert {one.worker for one in seen} == {"w1", "w2"}
            assert all(one.usage.recomputed_tokens == 0 for one in seen)
