"""A turn whose model a policy chose, and that this model cannot answer: the next one does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from broker.accounts import GATEWAY
from broker.answer import TurnFailed
from broker.client import Client
from broker.connection import close, connect
from broker.messages import Message, Sampling, ToolCall
from broker.server import EmbeddedServer
from producers.gateway.app import Gateway
from producers.gateway.keys import Keys
from producers.http_server import listen, serve_http
from producers.routing.asking import FallbackAnswer, ask_routed
from producers.routing.policies import Policy, Routes
from tests.fakes import FakeEngine
from tests.gateway import events, text_of
from tests.integration.conftest import StartWorker
from tests.integration.test_presence import Refusing
from tests.support import free_port
from tests.tool_fakes import READERS, ScriptedEngine, called
from workers.prompts.history import History

SECONDS = 30
ORDER = Routes(policies={"p": Policy(by="order", models=("bad", "m"))})
QUESTION = [Message("user", "hello there")]


def without_template(engine: FakeEngine) -> History:
    return History(Refusing(), engine.vocabulary)


async def until_seen(client: Client, num_workers: int) -> None:
    async with asyncio.timeout(SECONDS):
        while sum(one.is_serving for one in await client.workers()) < num_workers:
            pass


async def test_another_model_answers_where_the_chosen_one_has_no_template_or_no_room(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    """What it can was told in good faith: a template may refuse one conversation and take another."""
    await nats_server.ensure(["bad", "tiny"])
    bad = FakeEngine()
    async with (
        start_worker(bad, name="w1", model="bad", history=without_template(bad)),
        start_worker(FakeEngine(num_ctx=64), name="w2", model="tiny"),
        start_worker(name="w3"),
        asyncio.timeout(SECONDS),
    ):
        await until_seen(client, 3)
        routes = Routes(policies={"p": Policy(by="order", models=("bad", "tiny", "m"))})
        # Characters are tokens here, far more than a text like this has elsewhere.
        answer = await ask_routed(client, routes, "p", [Message("user", "x" * 100)], sampling=Sampling(max_tokens=9))
        first = answer.turn.id
        text = "".join([chunk.text async for chunk in answer])
        assert isinstance(answer, FallbackAnswer)
        assert (text, answer.decision.model, answer.done.worker) == ("echo xxxx", "m", "w3")
        assert answer.turn.id != first
        # Nobody is asked in place of one that was named.
        with pytest.raises(TurnFailed, match="invalid_template"):
            await (await ask_routed(client, routes, "bad", QUESTION))
        # Where none can, the last one says why.
        none = Routes(policies={"p": Policy(by="order", models=("bad", "tiny"))})
        with pytest.raises(TurnFailed, match="prompt_too_long"):
            await (await ask_routed(client, none, "p", [Message("user", "x" * 100)]))


async def test_functions_are_run_over_rounds_by_whichever_model_answers(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    await nats_server.ensure(["bad"])
    bad = FakeEngine()
    heard: list[ToolCall] = []

    def temperature(room: str) -> int:
        """How warm it is."""
        return 31

    engine = ScriptedEngine(called("temperature", room="attic"), "It is warm.")
    async with (
        start_worker(bad, name="w1", model="bad", history=without_template(bad)),
        start_worker(engine, name="w2", readers=READERS),
        asyncio.timeout(SECONDS),
    ):
        await until_seen(client, 2)
        answer = await ask_routed(client, ORDER, "p", QUESTION, tools=[temperature], on_tool_call=heard.append)
        assert isinstance(answer, FallbackAnswer)
        assert "".join([chunk.text async for chunk in answer]) == "It is warm."
        assert [(call.name, json.loads(call.arguments)) for call in heard] == [("temperature", {"room": "attic"})]
        assert [one.content for one in answer.turn.messages if one.role == "tool"] == ["31"]
        assert (answer.model, answer.done.worker) == ("m", "w2"), "the second round, too"


@pytest.fixture
async def plain(
    nats_server: EmbeddedServer, start_worker: StartWorker, client: Client
) -> AsyncIterator[tuple[httpx2.AsyncClient, FakeEngine]]:
    """A gateway before a model that cannot and one that can; the engine of the first."""
    await nats_server.ensure(["bad"])
    bad = FakeEngine(num_slots=1)
    nc = await connect(nats_server.address(GATEWAY), name="gateway")
    gateway = Gateway(nc, Keys(None), ORDER, node="here", version="0")
    stop, port = asyncio.Event(), free_port()
    async with (
        start_worker(bad, name="w1", model="bad", history=without_template(bad)),
        start_worker(name="w2"),
    ):
        await until_seen(client, 2)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(gateway.look())
            group.create_task(serve_http(gateway.app(), listen("127.0.0.1", port), stop, max_connections=16))
            async with asyncio.timeout(SECONDS):
                while len(gateway.workers) < 2:
                    await client.nc.flush()
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as plain:
                yield plain, bad
            stop.set()
            looking.cancel()
    await close(nc)


BODY: dict[str, Any] = {"model": "p", "messages": [{"role": "user", "content": "hello there"}]}


async def test_the_gateway_asks_elsewhere_and_says_who_answered(plain: tuple[httpx2.AsyncClient, FakeEngine]) -> None:
    http, _ = plain
    answer = await http.post("/v1/chat/completions", json=BODY)
    assert answer.status_code == 200
    found = answer.json()
    assert found["choices"][0]["message"]["content"] == "echo hello there"
    assert found["model"] == answer.headers["turnpike-model"] == "m"
    assert found["id"] == f"chatcmpl-{answer.headers['turnpike-turn']}"
    async with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as streamed:
        chunks = [event async for event in events(streamed)]
    assert "".join(map(text_of, chunks)) == "echo hello there"
    assert streamed.headers["turnpike-model"] == "m"
    assert {chunk["model"] for chunk in chunks if "comment" not in chunk} == {"m"}


async def test_a_stream_that_waits_while_it_is_asked_elsewhere_names_the_turn_that_answers(
    plain: tuple[httpx2.AsyncClient, FakeEngine],
) -> None:
    """The headers have gone by then with the first one's name."""
    http, _ = plain
    go_on = asyncio.Event()
    render = Refusing.render

    async def slow(self: Refusing, *args: Any) -> Any:
        await go_on.wait()
        return await render(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Refusing, "render", slow)
        async with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as streamed:
            go_on.set()
            lines = [line async for line in streamed.aiter_lines()]
    (moved,) = [json.loads(line[11:]) for line in lines if line.startswith(": turnpike") and '"route"' in line]
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert streamed.headers["turnpike-model"] == "bad"
    assert moved["model"] == "m"
    assert {(chunk["id"], chunk["model"]) for chunk in chunks} == {(f"chatcmpl-{moved['turn']}", "m")}


async def test_a_model_that_was_named_is_not_replaced(plain: tuple[httpx2.AsyncClient, FakeEngine]) -> None:
    answer = await plain[0].post("/v1/chat/completions", json=BODY | {"model": "bad"})
    assert answer.json()["error"]["code"] == "invalid_template"
