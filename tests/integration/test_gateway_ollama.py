"""The gateway as Ollama's clients meet it: by the ollama package, unchanged, and by what front ends send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import ollama
import pytest
from nats.aio.client import Client as NatsConnection

from broker import placing
from broker.accounts import BOARD
from broker.connection import close, connect
from broker.discovery import CHAT, OF_RELEASE, RAW, THINKING, TOOLS
from broker.messages.boards import AVAILABLE, BROKEN, LOADING, ModelFile
from broker.server import EmbeddedServer
from producers.gateway.keys import ClientKeys, new_key
from producers.gateway.ollama.port import RUNNING
from producers.routing.policies import Policy, Routes
from tests.boards import GB, board, on_board
from tests.clients.home import LIGHT_SET, LIVE_CONTEXT, TURN_OFF, TURN_ON, Home
from tests.clients.home_assistant_ollama import Assist, add_model
from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway, num_queued
from tests.integration.conftest import StartWorker
from tests.support import free_port
from tests.tool_fakes import READERS, ScriptedEngine, called

FACTS = {
    "architecture": "llama",
    "parameters": "1235814400",
    "embedding_length": "2048",
    "file_bytes": "807694464",
    "file_sha256": "ab" * 32,
    "file_modified_at": "1700000000",
}
GREEDY = {"temperature": 0}


@pytest.fixture
async def client(start_worker: StartWorker, start_gateway: StartGateway) -> AsyncIterator[ollama.AsyncClient]:
    """A gateway before a worker, by the ollama package."""
    async with start_worker(facts=FACTS), start_gateway() as url, ollama.AsyncClient(url) as found:
        yield found


@pytest.fixture
async def pi(nats_server: EmbeddedServer) -> AsyncIterator[NatsConnection]:
    """A board's connection."""
    nc = await connect(nats_server.address(BOARD), name="pi-1")
    yield nc
    await close(nc)


async def test_models_are_listed_and_shown_with_what_is_known_of_them(client: ollama.AsyncClient) -> None:
    (model, policy) = (await client.list()).models
    assert (model.model, policy.model) == ("m:latest", "auto:latest")
    assert (model.size, model.digest) == (807694464, "ab" * 32)
    assert model.modified_at is not None
    assert int(model.modified_at.timestamp()) == 1700000000
    assert model.details is not None
    assert (model.details.family, model.details.parameter_size) == ("llama", "1.2B")
    assert (model.details.format, model.details.quantization_level) == ("gguf", "none")
    (running,) = (await client.ps()).models
    assert (running.model, running.context_length, running.size_vram) == ("m:latest", 4096, 0)
    assert running.expires_at is not None
    for name in ("m", "M:latest", "Fake"):
        shown = await client.show(name)
        assert shown.capabilities == ["completion", "tools"]
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.architecture"] == "llama"
        assert shown.modelinfo["llama.context_length"] == 4096
        assert shown.modelinfo["llama.embedding_length"] == 2048
    with pytest.raises(ollama.ResponseError, match="model 'other' not found") as caught:
        await client.show("other")
    assert caught.value.status_code == 404


async def test_a_chat_is_answered_whole_and_in_pieces(client: ollama.AsyncClient) -> None:
    answer = await client.chat("m:latest", USER, options=GREEDY)
    assert (answer.message.role, answer.message.content) == ("assistant", "echo hello there")
    assert (answer.model, answer.done, answer.done_reason) == ("m:latest", True, "stop")
    assert answer.eval_count == len("echo hello there")
    assert answer.prompt_eval_count is not None
    assert answer.total_duration is not None
    assert answer.eval_duration is not None
    assert answer.total_duration >= answer.eval_duration > 0
    parts = [part async for part in await client.chat("m", USER, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "echo hello there"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == answer.eval_count
    cut = await client.chat("m", USER, options={"num_predict": 4})
    assert (cut.message.content, cut.done_reason) == ("echo", "length")


async def test_the_plain_client_and_its_functions_work_too(client: ollama.AsyncClient) -> None:
    plain: Any = ollama.Client(str(client._client.base_url))
    parts = await asyncio.to_thread(lambda: list(plain.chat("m", USER, stream=True, options=GREEDY)))
    assert "".join(part["message"]["content"] for part in parts) == "echo hello there"
    generated = await asyncio.to_thread(plain.generate, "m", "hello there")
    assert generated["response"] == "echo hello there"
    plain._client.close()


async def test_the_next_turn_finds_what_was_computed(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    async with start_worker() as running, start_gateway() as url, ollama.AsyncClient(url) as client:
        first = await client.chat("m", USER)
        before = running.engine.num_tokens
        messages = [*USER, first.message, {"role": "user", "content": "and now?"}]
        second = await client.chat("m", messages)
        assert second.message.content == "echo and now?"
        assert second.prompt_eval_count is not None
        assert first.prompt_eval_count is not None
        assert running.engine.num_tokens - before < second.prompt_eval_count + 13 - first.prompt_eval_count


async def test_a_context_remembers_what_was_said(client: ollama.AsyncClient) -> None:
    first = await client.generate("m", "hello there", system="Be brief.")
    second = await client.generate("m", "and now?", context=first.context)
    assert second.response == "echo and now?"
    assert first.prompt_eval_count is not None
    assert second.prompt_eval_count is not None
    assert second.prompt_eval_count > first.prompt_eval_count + len("echo hello there")
    raw = await client.generate("m", "user: by hand\nassistant: ", raw=True)
    assert (raw.response, raw.context) == ("echo by hand", None)


async def test_a_model_is_told_to_be_loaded_or_unloaded_where_nothing_is_asked(client: ollama.AsyncClient) -> None:
    assert (await client.generate("m")).done_reason == "load"
    assert (await client.generate("m", keep_alive=0)).done_reason == "unload"
    assert (await client.chat("m", [], keep_alive=0)).done_reason == "unload"
    assert [part.done_reason async for part in await client.chat("m", [], stream=True)] == ["load"]
    for name in ("other", "no name of a model"):
        with pytest.raises(ollama.ResponseError, match="model not found"):
            await client.generate(name)


async def test_log_probabilities_have_their_tokens_text(client: ollama.AsyncClient) -> None:
    answer = await client.chat("m", USER, logprobs=True, top_logprobs=2, options={"num_predict": 3})
    assert answer.logprobs is not None
    assert [one.token for one in answer.logprobs] == list("ech")
    assert len(answer.logprobs[0].top_logprobs or ()) == 2


async def test_what_is_not_done_is_named_and_a_strict_gateway_refuses_it(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    body: dict[str, Any] = {"model": "m", "messages": USER, "stream": False}
    body |= {"options": {"num_ctx": 8192, "num_keep": 4}, "keep_alive": "5m", "odd": 1}
    async with start_worker(), start_gateway() as url, httpx2.AsyncClient(base_url=url) as plain:
        answer = await plain.post("/api/chat", json=body)
        assert answer.headers["turnpike-ignored"] == "odd, options.num_ctx, keep_alive"
    async with start_worker(), start_gateway(is_strict=True) as url, httpx2.AsyncClient(base_url=url) as plain:
        answer = await plain.post("/api/chat", json=body)
        assert (answer.status_code, answer.json()) == (400, {"error": "odd is not supported here"})


async def test_what_goes_wrong_is_one_text(client: ollama.AsyncClient) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match=r"model not found.*these are: m") as caught:
            await read_all(await client.chat("other", USER, stream=stream))
        assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match=r"messages\[0\]\.images: images are not supported"):
        await client.chat("m", [{"role": "user", "content": "What is it?", "images": [b"a picture"]}])
    with pytest.raises(ollama.ResponseError, match="maximum context length is 4096 tokens") as caught:
        await client.chat("m", [{"role": "user", "content": "long " * 2000}])
    assert caught.value.status_code == 400
    for refused in (client.delete("m"), client.copy("m", "n"), client.push("m"), client.create("n", from_="m")):
        with pytest.raises(ollama.ResponseError, match="by their operators") as caught:
            await refused
        assert caught.value.status_code == 403


async def test_who_leaves_a_stream_leaves_no_turn_behind(
    operator: NatsConnection, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(answer="y" * 2000, step_seconds=0.005)
    async with start_worker(engine), start_gateway() as url:
        async with ollama.AsyncClient(url) as client:
            stream = await client.chat("m", USER, stream=True)
            async for part in stream:
                assert part.message.content
                break
            await stream.aclose()
        async with asyncio.timeout(10):
            while await num_queued(operator):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert engine.num_tokens < 1000


async def test_thoughts_are_told_apart_and_may_be_declined(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    can = (CHAT, RAW, TOOLS, THINKING, *OF_RELEASE)
    engine = ScriptedEngine("<think>Hm.</think>It is.")
    async with (
        start_worker(engine, readers=READERS, can=can),
        start_gateway() as url,
        ollama.AsyncClient(url) as client,
    ):
        answer = await client.chat("m", USER, think=True)
        assert (answer.message.thinking, answer.message.content) == ("Hm.", "It is.")
        parts = [part.message async for part in await client.chat("m", USER, stream=True, think="low")]
        assert "".join(part.thinking or "" for part in parts) == "Hm."
        assert "".join(part.content or "" for part in parts) == "It is."
        generated = await client.generate("m", "is it?", think=True)
        assert (generated.thinking, generated.response) == ("Hm.", "It is.")
        assert (await client.show("m")).capabilities == ["completion", "tools", "thinking"]


async def test_functions_are_called_as_the_package_offers_them(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    def lamp(room: str, percent: int) -> str:
        """Switches a lamp.

        Args:
          room: Where it is
          percent: How bright
        """
        return f"the lamp in the {room} is at {percent} %"

    engine = ScriptedEngine(called("lamp", room="attic", percent=40), "Done.")
    async with start_worker(engine, readers=READERS), start_gateway() as url, ollama.AsyncClient(url) as client:
        first = await client.chat("m", USER, tools=[lamp])
        assert first.message.tool_calls is not None
        (call,) = first.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("lamp", {"room": "attic", "percent": 40})
        before = engine.num_tokens
        result = {"role": "tool", "tool_name": "lamp", "content": lamp(**call.function.arguments)}
        second = await client.chat("m", [*USER, first.message, result], tools=[lamp])
        assert second.message.content == "Done."
        assert second.prompt_eval_count is not None
        assert engine.num_tokens - before < second.prompt_eval_count, "the round before was found, without its id"


async def test_a_gateway_that_leaves_tools_out_answers_without(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    async with start_worker(), start_gateway(leave_out_tools=True) as url, ollama.AsyncClient(url) as client:
        assert (await client.chat("m", USER, tools=[tool])).message.content == "echo hello there"


ROUNDS = (
    called(TURN_ON, name="Kitchen lamp", domain=["light"]),
    called(LIGHT_SET, name="Attic lamp", brightness=40) + "\n" + called(TURN_OFF, name="Cellar lamp"),
    called(LIVE_CONTEXT),
)


async def test_home_assistant_adds_a_model_and_talks_to_a_home(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = ScriptedEngine(*ROUNDS, "All is done.", '{"lamp": "light.hall"}', num_ctx=32768)
    home = Home()
    async with start_worker(engine, readers=READERS), start_gateway() as url, ollama.AsyncClient(url) as client:
        assert await add_model(client, "m:latest"), "it is in the list by the very name"
        assert not await add_model(client, "m"), "and else it is pulled"
        assist = Assist(client, "m:latest", home, think=False)
        assert await assist.say("Make it evening.") == "All is done."
        assert [name for name, _ in home.calls] == [TURN_ON, LIGHT_SET, TURN_OFF, LIVE_CONTEXT]
        schema = {"type": "object", "properties": {"lamp": {"type": "string"}}}
        assert json.loads(await assist.say("Which lamp?", schema)) == {"lamp": "light.hall"}
    assert home.state_of("Attic lamp")[1] == {"brightness_pct": "40"}


async def test_open_webui_connects_and_chats(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    """By what its server sends: the version, the list and what is loaded, merged by `name`; a chat's lines; a title by
    a chat that is not streamed."""
    key, keys = key_of("web")
    headers = {"Authorization": f"Bearer {key}"}
    async with start_worker(), start_gateway(keys) as url, httpx2.AsyncClient(base_url=url, timeout=30) as plain:
        assert (await plain.get("/api/version")).status_code == 401
        version = (await plain.get("/api/version", headers=headers)).json()["version"]
        assert [int(part) for part in version.split(".")] >= [0, 6, 4]
        listed = (await plain.get("/api/tags", headers=headers)).json()["models"]
        loaded = (await plain.get("/api/ps", headers=headers)).json()["models"]
        assert {one["name"] for one in loaded} <= {one["name"] for one in listed}
        body: dict[str, Any] = {
            "model": "m:latest",
            "messages": [{"role": "system", "content": "Be brief."}, *USER],
            "options": {"temperature": 0.7, "num_ctx": 4096, "stop": ["\n"]},
            "stream": True,
        }
        async with plain.stream("POST", "/api/chat", json=body, headers=headers) as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            lines = [json.loads(one) async for one in answer.aiter_lines()]
        assert "".join(one["message"]["content"] for one in lines) == "echo hello there"
        assert lines[-1]["done"]
        title = await plain.post("/api/chat", json=body | {"stream": False}, headers=headers)
        assert title.json()["message"]["content"] == "echo hello there"


def key_of(name: str) -> tuple[str, dict[str, ClientKeys]]:
    key, digest = new_key()
    return key, {name: ClientKeys(sha256=(digest,))}


# --- Names, and pulling ---


async def test_a_model_is_meant_by_names_with_tags_and_dots(
    nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    await nats_server.ensure(["qwen2-5-coder-0-5b"])
    routes = Routes(policies={"llama3:8b": Policy(by="smallest")})
    async with (
        start_worker(model="qwen2-5-coder-0-5b"),
        start_gateway(routes=routes) as url,
        ollama.AsyncClient(url) as client,
    ):
        for name in (
            "qwen2.5-coder:0.5b",
            "qwen2-5-coder-0-5b:latest",
            "Qwen2.5-Coder-0.5B",
            "llama3:8b",
            "auto:latest",
        ):
            answer = await client.chat(name, USER)
            assert (answer.model, answer.message.content) == (name, "echo hello there")
        listed = {one.model for one in (await client.list()).models}
        assert listed == {"qwen2-5-coder-0-5b:latest", "auto:latest", "llama3:8b"}


async def test_a_pull_is_told_how_far_a_load_is_and_what_is_nowhere(
    pi: NatsConnection, start_gateway: StartGateway
) -> None:
    there = on_board("there", AVAILABLE, file=ModelFile("llama", "Q8_0", 10**9, 512, "cd" * 32))
    coming = on_board("coming", LOADING, loaded=0.25)
    broken = on_board("broken", BROKEN, reason="not a model", retry_at=10**10)

    async def say(*models: Any) -> None:
        await placing.announce(pi, board("pi-1", there, broken, *models))

    await say(coming)
    async with start_gateway() as url, ollama.AsyncClient(url) as client:
        lines = [one async for one in await client.pull("there", stream=True)]
        assert [one.status for one in lines][::4] == ["pulling manifest", "success"]
        assert (lines[1].digest, lines[1].total, lines[1].completed) == (f"sha256:{'cd' * 32}", GB, GB)
        shown = await client.show("there")
        assert shown.details is not None
        assert (shown.details.family, shown.details.parameter_size) == ("llama", "1B")
        completed = []
        async for one in await client.pull("coming", stream=True):
            if one.completed is not None:
                completed.append(one.completed)
                await say(
                    on_board("coming", AVAILABLE)
                    if one.completed > GB // 2
                    else on_board("coming", LOADING, loaded=0.75)
                )
        assert (completed[0], completed[-1], one.status) == (GB // 4, GB, "success")
        assert 3 * GB // 4 in completed
        assert (await client.pull("coming")).status == "success"
        for stream in (False, True):
            with pytest.raises(
                ollama.ResponseError, match=r"^pull model manifest: file does not exist.*turnpike models pull no"
            ):
                await read_all(await client.pull("nowhere", stream=stream))
            with pytest.raises(ollama.ResponseError, match="broken cannot be loaded: not a model"):
                await read_all(await client.pull("broken", stream=stream))


async def read_all(found: Any) -> None:
    """Of a stream all that comes."""
    if isinstance(found, AsyncIterator):
        async for _ in found:
            pass


async def test_the_port_of_its_own_greets_as_ollama_and_ends_with_the_other(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    port = free_port()
    own = f"http://127.0.0.1:{port}"
    async with start_worker(), start_gateway(ollama_port=port) as url, httpx2.AsyncClient() as plain:
        greeting = await plain.get(f"{own}/")
        assert (greeting.status_code, greeting.text) == (200, RUNNING)
        assert (await plain.head(own)).status_code == 200
        assert "<html" in (await plain.get(url)).text
        assert (await plain.get(f"{url}/api/version")).json() == (await plain.get(f"{own}/api/version")).json()
        async with ollama.AsyncClient(own) as client:
            assert (await client.chat("m", USER)).message.content == "echo hello there"
    async with httpx2.AsyncClient() as plain:
        for gone in (own, url):
            with pytest.raises(httpx2.ConnectError):
                await plain.get(gone)
